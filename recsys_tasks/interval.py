"""A span of time, in a module that costs a DAG file nothing to import."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Interval:
    """The half-open span of time [start, end) that a batch covers; both aware, UTC."""

    start: datetime
    end: datetime
