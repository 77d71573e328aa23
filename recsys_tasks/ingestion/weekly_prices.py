"""Item prices derived from purchase lines: an item's median unit price of a week, as versions over time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys_tasks.interval import Interval

_SECONDS_PER_WEEK = 7 * 86_400
_FIRST_MONDAY = 4 * 86_400  # 1970-01-05


class PurchaseLines(NamedTuple):
    """Purchase lines [N]: number of the item, time in UTC seconds, amount paid, number of units."""

    item: np.ndarray
    seconds: np.ndarray
    amount: np.ndarray
    quantity: np.ndarray


class PriceVersions(NamedTuple):
    """Price versions [M], ordered by item and time: item number, start of validity in UTC seconds, price in cents."""

    item: np.ndarray
    valid_from: np.ndarray
    cents: np.ndarray


def derive_price_versions(lines: PurchaseLines, interval: Interval | None) -> PriceVersions:
    """Returns the changes of the items' weekly prices.

    A price is the median of an item's unit prices in a week (Monday to Sunday, UTC), rounded half up to whole cents.
    It is valid from the item's last line of that week, so no price depends on a later purchase. A line without a
    positive, finite amount and quantity, or cheaper than half a cent a unit, has no unit price.

    Args:
        lines: all purchase lines, also those outside the interval.
        interval: a week belongs to the interval in which it ends, and its price is computed from the whole week.
            Without an interval all weeks are included, also an incomplete last one.

    An item's first price in the interval is always included, and of the later ones those that differ from the one
    before. Thus consecutive intervals, without the first prices that repeat the last one of the interval before, give
    the same versions as their union.
    """
    item, seconds, cents = _unit_prices(lines)
    week = (seconds - _FIRST_MONDAY) // _SECONDS_PER_WEEK
    if interval is not None:
        week_end = _FIRST_MONDAY + (week + 1) * _SECONDS_PER_WEEK
        inside = (week_end > interval.start.timestamp()) & (week_end <= interval.end.timestamp())
        item, seconds, cents, week = item[inside], seconds[inside], cents[inside], week[inside]
    order = np.lexsort((cents, week, item))
    item, seconds, cents, week = item[order], seconds[order], cents[order], week[order]
    start = np.flatnonzero(_differs_from_previous(item) | _differs_from_previous(week))
    length = np.diff(np.append(start, len(item)))
    median = (cents[start + (length - 1) // 2] + cents[start + length // 2] + 1) // 2
    item, valid_from = item[start], np.maximum.reduceat(seconds, start) if len(start) else seconds
    is_change = _differs_from_previous(item) | _differs_from_previous(median)
    return PriceVersions(item[is_change], valid_from[is_change], median[is_change])


def _unit_prices(lines: PurchaseLines) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns item, seconds and unit price in cents of the lines that have a unit price."""
    usable = np.isfinite(lines.amount) & (lines.amount > 0) & np.isfinite(lines.quantity) & (lines.quantity > 0)
    amount_cents = np.rint(lines.amount[usable] * 100).astype(np.int64)
    quantity = lines.quantity[usable].astype(np.int64)
    cents = (2 * amount_cents + quantity) // (2 * quantity)
    priced = cents > 0
    return lines.item[usable][priced], lines.seconds[usable][priced], cents[priced]


def _differs_from_previous(values: np.ndarray) -> np.ndarray:
    """Returns whether each value [N] differs from the one before it; the first one does."""
    return np.concatenate([np.ones(min(len(values), 1), bool), values[1:] != values[:-1]])
