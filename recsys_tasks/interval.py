"""A half-open time interval; free of heavy imports, so that DAG files may use it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta


@dataclass(frozen=True)
class Interval:
    """The half-open interval [start, end) of a batch or a query; both are timezone-aware UTC times."""

    start: datetime
    end: datetime

    @classmethod
    def of_day(cls, day: date) -> Interval:
        """Returns the interval of a UTC day."""
        midnight = datetime.combine(day, time(), UTC)
        return cls(midnight, midnight + timedelta(days=1))

    @property
    def bounds(self) -> dict[str, datetime]:
        """Bound parameters `begins` and `ends` of SQL statements."""
        return {"begins": self.start, "ends": self.end}
