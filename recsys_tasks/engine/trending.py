"""Time-decayed popularity of items in organic events, and the items that trend against the model's popularity.

A model's popularity ends at its cut-off. New demand shows first in organic events: actions on items that no list of
ours had shown. Actions on shown items are excluded; they would feed back into what is shown.
"""

from __future__ import annotations

import math
import zlib
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recsys_tasks.engine.scoring import TrendingItems
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import FIRST_ITEM

_MAX_PAIRS = 100_000  # latest pairs of visitor and item
_MIN_COUNT = 4.0  # decayed visitors per item
_NUM_SIGMAS = 3.0  # standard deviations above the expected count
_MAX_SHARE = 0.5  # of the probability, for all trending items together
_VISITORS_PER_SENDER = 3  # that count for an item, of a sender that is not trusted
_MAX_HALVINGS = 500.0  # half-lives, before all weights are rescaled
# Counts are refreshed after more than this number of events or this share of the pairs, or this part of a half-life.
_REFRESH_EVENTS, _REFRESH_SHARE, _REFRESHES_PER_HALF_LIFE = 10, 100, 10


class RecentPopularity(NamedTuple):
    """Time-decayed counts of visitors.

    Attributes:
        items: ids of the items with at least `_MIN_COUNT` visitors.
        counts: visitors of each [N].
        total: visitors of all items.
    """

    items: Sequence[str]
    counts: np.ndarray
    total: float

    def find_trending(self, expected: np.ndarray, vocabulary: Vocabulary) -> TrendingItems | None:
        """Returns the items with significantly more visitors than expected, with their excess share of all visitors.

        A count c is significant if c > e + 3 · sqrt(e + 1): three standard deviations of a Poisson count above its
        expectation e.

        Args:
            expected: popularity shares of all items [V].
            vocabulary: of the model.
        """
        numbers = vocabulary.numbers(self.items)
        known = numbers >= FIRST_ITEM
        numbers, counts = numbers[known], self.counts[known]
        expected_counts = expected[numbers] * self.total
        excess = counts - expected_counts - _NUM_SIGMAS * np.sqrt(expected_counts + 1.0)
        is_significant = excess > 0
        if not is_significant.any():
            return None
        shares = excess[is_significant] / self.total
        order = np.argsort(-shares, kind="stable")
        numbers, shares = numbers[is_significant][order], shares[order]
        return TrendingItems(numbers, shares * min(1.0, _MAX_SHARE / shares.sum()), len(expected))


class PopularityTracker:
    """Counts the visitors of each item, each visitor once, with exponential decay.

    Weights grow with the time of an event instead of decaying with its age, so that stored weights stay valid (forward
    decay; Cormode, Shkapenyuk, Srivastava and Xu 2009).

    Args:
        half_life_hours: after this time an event counts half.
    """

    def __init__(self, half_life_hours: float) -> None:
        self._half_life_seconds = half_life_hours * 3600
        self._pairs: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._weights: defaultdict[str, float] = defaultdict(float)
        self._total = 0.0
        self._origin: float | None = None  # an event at this time has weight 1
        self._latest = -math.inf
        self._cached, self._cached_at, self._num_new = RecentPopularity((), np.zeros(0), 0.0), -math.inf, 0

    def add(self, item_id: str, visitor: str, seconds: float, sender: str | None = None) -> None:
        """Adds an event of a visitor with an item, in seconds since 1970; the latest event of a pair counts.

        Args:
            item_id, visitor: a pair.
            seconds: time of the event.
            sender: who sent the event, if they are not trusted: all visitors of a sender count as at most three.
        """
        if sender is not None:
            visitor = f"{sender} {zlib.crc32(visitor.encode()) % _VISITORS_PER_SENDER}"
        self._latest = max(self._latest, seconds)
        if self._origin is None or self._halvings(seconds) > _MAX_HALVINGS:
            self._move_origin(seconds)
        key, weight = (item_id, visitor), 2.0 ** self._halvings(seconds)
        self._add_weight(item_id, max(weight, previous := self._pairs.pop(key, 0.0)) - previous)
        self._pairs[key] = max(weight, previous)
        if len(self._pairs) > _MAX_PAIRS:
            (oldest_item, _), weight = self._pairs.popitem(last=False)
            self._add_weight(oldest_item, -weight)
        self._num_new += 1

    def forget(self, visitor: str) -> None:
        """Removes a visitor's events."""
        for key in [key for key in self._pairs if key[1] == visitor]:
            self._add_weight(key[0], -self._pairs.pop(key))
        self._cached_at = -math.inf

    def recent_popularity(self, now: float) -> RecentPopularity:
        """Returns the counts at a time; the same object until enough events or time have passed."""
        has_enough_new = self._num_new > max(_REFRESH_EVENTS, len(self._pairs) // _REFRESH_SHARE)
        if has_enough_new or abs(now - self._cached_at) > self._half_life_seconds / _REFRESHES_PER_HALF_LIFE:
            self._cached, self._cached_at, self._num_new = self._compute(now), now, 0
        return self._cached

    def _compute(self, now: float) -> RecentPopularity:
        if self._origin is None:
            return RecentPopularity((), np.zeros(0), 0.0)
        scale = 2.0 ** -max(self._halvings(max(now, self._latest)), -_MAX_HALVINGS)
        counts = np.fromiter(self._weights.values(), float, len(self._weights)) * scale
        selected = np.flatnonzero(counts >= _MIN_COUNT)
        items = list(self._weights)
        return RecentPopularity([items[index] for index in selected.tolist()], counts[selected], self._total * scale)

    def _halvings(self, seconds: float) -> float:
        return (seconds - (self._origin or 0.0)) / self._half_life_seconds

    def _move_origin(self, seconds: float) -> None:
        """Rescales all weights to a new origin, before they overflow."""
        scale = 0.0 if self._origin is None else 2.0 ** -self._halvings(seconds)
        self._origin = seconds
        self._pairs = OrderedDict((key, weight * scale) for key, weight in self._pairs.items() if weight * scale > 0)
        self._weights, self._total = defaultdict(float), 0.0
        for (item_id, _), weight in self._pairs.items():
            self._add_weight(item_id, weight)

    def _add_weight(self, item_id: str, weight: float) -> None:
        self._weights[item_id] += weight
        self._total = max(self._total + weight, 0.0)
        if self._weights[item_id] <= 0:
            del self._weights[item_id]
