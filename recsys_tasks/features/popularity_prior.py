"""Popularity prior of items with few or no events, by Good-Turing estimation."""

from __future__ import annotations

import numpy as np

from recsys_tasks.names import FIRST_ITEM

_MAX_ADJUSTED_COUNT = 10  # larger counts are reliable as they are


def log_popularity(counts: np.ndarray) -> np.ndarray:
    """Returns the log share [V] of future events of items by their training counts [V].

    An item with r events is expected to have r* = (r + 1) N(r + 1) / N(r) in as many new ones, where N(r) is the number
    of items with r events (Good 1953): fewer than r, but more than 0 for r = 0. Estimates are made non-decreasing in r,
    and at most r + 1/2. Where they cannot be made (no item has r or r + 1 events), r - 1/2 is assumed.
    """
    counts = counts.astype(np.int64)
    num_items = np.bincount(counts[FIRST_ITEM:], minlength=_MAX_ADJUSTED_COUNT + 2).astype(np.float64)
    r = np.arange(_MAX_ADJUSTED_COUNT)
    now, more = num_items[r], num_items[r + 1]
    expected = np.where((now > 0) & (more > 0), (r + 1) * more / np.maximum(now, 1), np.maximum(r - 0.5, 0.5))
    expected = np.maximum.accumulate(np.minimum(expected, r + 0.5))
    adjusted = np.where(counts < _MAX_ADJUSTED_COUNT, expected[np.minimum(counts, r[-1])], counts)
    return np.log(adjusted / max(adjusted[FIRST_ITEM:].sum(), 1.0))
