"""A span of time, in a module that costs a DAG file nothing to import."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta


@dataclass(frozen=True)
class Interval:
    """The half-open span of time [start, end) that a batch or a question covers; both aware, UTC."""

    start: datetime
    end: datetime

    @classmethod
    def of_day(cls, day: date) -> Interval:
        """A day, UTC."""
        midnight = datetime.combine(day, time(), UTC)
        return cls(midnight, midnight + timedelta(days=1))

    @property
    def bounds(self) -> dict[str, datetime]:
        """As queries name them."""
        return {"begins": self.start, "ends": self.end}
