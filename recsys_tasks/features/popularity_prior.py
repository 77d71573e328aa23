"""Popularity prior of items with few or no events: by Good-Turing estimation, and by the time an item was available."""

from __future__ import annotations

import numpy as np

from recsys_tasks.names import FIRST_ITEM

_MAX_ADJUSTED_COUNT = 10  # larger counts are reliable as they are
_MIN_NEW_ITEMS, _MIN_NEW_ITEM_EVENTS = 50, 500  # that became available in the period; of fewer no rate is estimated
_SHAPES = 0.01, 10.0  # limits of the shape of the gamma prior: from a few sellers to items that are nearly alike


def log_popularity(counts: np.ndarray, expected: np.ndarray | None = None) -> np.ndarray:
    """Returns the log share [V] of future events of items by their training counts [V].

    An item with r events is expected to have r* = (r + 1) N(r + 1) / N(r) in as many new ones, where N(r) is the number
    of items with r events (Good 1953): fewer than r, but more than 0 for r = 0. Estimates are made non-decreasing in r,
    and at most r + 1/2. Where they cannot be made (no item has r or r + 1 events), r - 1/2 is assumed.

    Args:
        counts: number of training events of each item [V].
        expected: counts of `expected_counts` that are used instead [V], NaN for others; None for none.
    """
    counts = counts.astype(np.int64)
    num_items = np.bincount(counts[FIRST_ITEM:], minlength=_MAX_ADJUSTED_COUNT + 2).astype(np.float64)
    r = np.arange(_MAX_ADJUSTED_COUNT)
    now, more = num_items[r], num_items[r + 1]
    estimates = np.where((now > 0) & (more > 0), (r + 1) * more / np.maximum(now, 1), np.maximum(r - 0.5, 0.5))
    estimates = np.maximum.accumulate(np.minimum(estimates, r + 0.5))
    adjusted = np.where(counts < _MAX_ADJUSTED_COUNT, estimates[np.minimum(counts, r[-1])], counts)
    if expected is not None:
        adjusted = np.where(np.isnan(expected), adjusted, expected)
    return np.log(adjusted / max(adjusted[FIRST_ITEM:].sum(), 1.0))


def expected_counts(
    counts: np.ndarray,
    first_seconds: np.ndarray,
    available_from: np.ndarray,
    available_until: np.ndarray,
    start: float,
    end: float,
) -> np.ndarray | None:
    """Returns the counts [N] that new items would have if they had been available as long as others like them.

    An item that was published an hour ago has few events because it is new, not because nobody wants it. The rate of
    events of an item that became available after `start` has a gamma prior, fitted by moments to all these items. With
    r events in the time t, mean rate m and shape k, the expected rate is (r + k) / (t + k / m). The result is this rate
    times the mean available time, so that it compares with the counts of items whose time is over.

    Args:
        counts: events of each item from `start` to `end` [N].
        first_seconds: time of each item's first event [N]; NaN without any.
        available_from, available_until: in seconds since 1970 [N]; NaN for unknown.
        start, end: the period, in seconds since 1970.

    Returns:
        The counts; NaN for items that were available before, as their times or their events say. None with too few new
        items.
    """
    is_new = (available_from > start) & ~(first_seconds < available_from)
    seconds = np.maximum(np.fmin(available_until, end) - available_from, 0.0)[is_new]
    new_counts = counts[is_new]
    if len(seconds) < _MIN_NEW_ITEMS or new_counts.sum() < _MIN_NEW_ITEM_EVENTS or not seconds.any():
        return None
    rate = new_counts.sum() / seconds.sum()
    mean = rate * seconds
    excess_variance = ((new_counts - mean) ** 2 - mean).sum()
    shape = float(np.clip((mean**2).sum() / max(excess_variance, 1e-9), *_SHAPES))
    expected = np.full(len(counts), np.nan)
    expected[is_new] = (new_counts + shape) / (seconds + shape / rate) * seconds[new_counts > 0].mean()
    return expected
