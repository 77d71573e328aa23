"""Impression discounting: recent unclicked impressions of each visitor, and the score discounts that follow.

`features.impression_discounting` estimates the discounts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from itertools import chain, repeat

import numpy as np

from recsys_tasks.names import DISCOUNT_RESET_HOURS

_PAUSE_SECONDS = DISCOUNT_RESET_HOURS * 3600.0
_MAX_PAIRS = 300_000  # of visitor and item; about 100 bytes each
_DEFAULT_PROPENSITY = 0.05  # examination propensity of positions without an estimate


class DiscountedItems:
    """Items with discounted scores.

    Args:
        numbers: item numbers [N].
        factors: what each score is multiplied by [N], in (0, 1].
    """

    def __init__(self, numbers: np.ndarray, factors: np.ndarray) -> None:
        order = np.argsort(numbers, kind="stable")
        self._numbers, self._factors = numbers[order], factors[order]

    def __len__(self) -> int:
        """Number of discounted items."""
        return len(self._numbers)

    def factors(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the factors of items [N]; 1 for items without discount."""
        index = np.minimum(np.searchsorted(self._numbers, numbers), len(self) - 1)
        factors: np.ndarray = np.where(self._numbers[index] == numbers, self._factors[index], 1.0)
        return factors


class UnclickedImpressions:
    """Expected examinations of items by visitor, since the visitor's last action on the item or a pause of
    `DISCOUNT_RESET_HOURS` without impressions. Evicts the visitors with the oldest impressions."""

    def __init__(self) -> None:
        # visitor -> item -> (expected examinations, time of the last impression)
        self._by_visitor: OrderedDict[str, dict[str, tuple[float, float]]] = OrderedDict()
        self._num_pairs = 0

    def add_list(self, visitor: str, items: Iterable[str], propensities: np.ndarray, seconds: float) -> None:
        """Adds the impressions of one list.

        Args:
            visitor: user or session id.
            items: ids in list order.
            propensities: examination propensity of each position [P].
            seconds: time of the list, since 1970.
        """
        previous = self._by_visitor.pop(visitor, {})
        counts = {item: entry for item, entry in previous.items() if seconds - entry[1] <= _PAUSE_SECONDS}
        for item, propensity in zip(items, chain(propensities.tolist(), repeat(_DEFAULT_PROPENSITY)), strict=False):
            counts[item] = counts.get(item, (0.0, 0.0))[0] + propensity, seconds
        self._by_visitor[visitor] = counts
        self._num_pairs += len(counts) - len(previous)
        while self._num_pairs > _MAX_PAIRS and len(self._by_visitor) > 1:
            self._num_pairs -= len(self._by_visitor.popitem(last=False)[1])

    def remove(self, visitor: str, item: str) -> None:
        """Resets an item that the visitor acted on."""
        if self._by_visitor.get(visitor, {}).pop(item, None) is not None:
            self._num_pairs -= 1

    def counts(self, visitor: str | None, now: float) -> Mapping[str, float]:
        """Returns a visitor's expected examinations by item id, at a time."""
        entries = self._by_visitor.get(visitor or "", {})
        return {item: count for item, (count, seconds) in entries.items() if now - seconds <= _PAUSE_SECONDS}

    def forget(self, visitor: str) -> None:
        """Removes a visitor's impressions."""
        self._num_pairs -= len(self._by_visitor.pop(visitor, {}))
