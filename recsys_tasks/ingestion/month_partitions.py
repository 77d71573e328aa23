"""Monthly partitions (UTC) of `events`: names and bounds, as the SQL function `create_event_month` has them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta


def list_months(days: Iterable[date]) -> list[date]:
    """Returns the first days of the months that contain the given days."""
    return sorted({day.replace(day=1) for day in days})


def partition_name(month: date) -> str:
    """Returns the name of a month's partition."""
    return f"events_{month:%Y_%m}"


def partition_bounds(month: date) -> tuple[str, str]:
    """Returns the timestamps [start, end) of a month; `end` is exclusive."""
    end = (month.replace(day=1) + timedelta(days=31)).replace(day=1)
    return f"{month:%Y-%m}-01 00:00:00+00", f"{end:%Y-%m}-01 00:00:00+00"
