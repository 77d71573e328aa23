"""The partitions of `events`, one for each month (UTC); the schema's `create_event_month` makes the same."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta


def months_of(days: Iterable[date]) -> list[date]:
    """The first days of the months that days are in."""
    return sorted({day.replace(day=1) for day in days})


def partition(month: date) -> str:
    """Name of a month's partition."""
    return f"events_{month:%Y_%m}"


def bounds(month: date) -> tuple[str, str]:
    """The moments between which a month's events are, the second no more among them."""
    following = (month.replace(day=1) + timedelta(days=31)).replace(day=1)
    return f"{month:%Y-%m}-01 00:00:00+00", f"{following:%Y-%m}-01 00:00:00+00"
