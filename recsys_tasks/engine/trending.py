"""What people take of their own accord lately, and which items are taken more than a model expects.

A model knows the world until its cut-off. What becomes wanted since then shows first in what people find without a
list: by a search elsewhere, in a menu, from a friend. What they do in a list that was shown does not count, or what is
shown much would be shown more.
"""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recsys_tasks.engine.scoring import Rising
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import FIRST_ITEM

_REMEMBERED = 100_000  # latest pairs of a visitor and an item
_FEWEST = 4.0  # people, for an item to be looked at
_SURE = 3.0  # standard deviations above what is expected
_MOST = 0.5  # of all that is shown
_FAR = 500.0  # half-lives, before all weights are taken down
_NEW, _OF_ALL, _OF_TIME = (
    10,
    100,
    10,
)  # acts, or this part of those remembered or of a half-life, and it is looked again


class Lately(NamedTuple):
    """How many people took each item lately, of those that at least a few did, and how many all of them; the longer
    ago, the less one counts."""

    items: Sequence[str]
    people: np.ndarray
    total: float

    def above(self, expected: np.ndarray, vocabulary: Vocabulary) -> Rising | None:
        """The items that are certainly taken more than expected, with the share of all acts by which they are.

        A count is certain where it is three standard deviations of a Poisson count above the expected one.

        Args:
            expected: shares of all items [V].
            vocabulary: their numbers.
        """
        numbers = vocabulary.numbers(self.items)
        known = numbers >= FIRST_ITEM
        numbers, people = numbers[known], self.people[known]
        usual = expected[numbers] * self.total
        excess = people - usual - _SURE * np.sqrt(usual + 1.0)
        sure = excess > 0
        if not sure.any():
            return None
        shares = excess[sure] / self.total
        return Rising(numbers[sure], shares * min(1.0, _MOST / shares.sum()), len(expected))


class Trending:
    """Counts what people take, each person once for an item, with weights that halve with time.

    Weights grow with the time of an act instead of shrinking with its age, so that nothing has to be touched again
    (forward decay; Cormode, Shkapenyuk, Srivastava and Xu 2009).

    Args:
        hours: after which an act counts half.
    """

    def __init__(self, hours: float) -> None:
        self._half_life = hours * 3600
        self._acts: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._weights: defaultdict[str, float] = defaultdict(float)
        self._total = 0.0
        self._origin: float | None = None  # an act at this time weighs 1
        self._latest = -math.inf
        self._lately, self._looked_at, self._new = Lately((), np.zeros(0), 0.0), -math.inf, 0

    def add(self, item_id: str, visitor: str, seconds: float) -> None:
        """Takes in that a visitor took an item at a time (seconds since 1970); the latest one of each pair counts."""
        self._latest = max(self._latest, seconds)
        if self._origin is None or self._halvings(seconds) > _FAR:
            self._move_origin(seconds)
        key, weight = (item_id, visitor), 2.0 ** self._halvings(seconds)
        self._count(item_id, max(weight, before := self._acts.pop(key, 0.0)) - before)
        self._acts[key] = max(weight, before)
        if len(self._acts) > _REMEMBERED:
            (longest_ago, _), weight = self._acts.popitem(last=False)
            self._count(longest_ago, -weight)
        self._new += 1

    def forget(self, visitor: str) -> None:
        """Drops what somebody took."""
        for key in [key for key in self._acts if key[1] == visitor]:
            self._count(key[0], -self._acts.pop(key))
        self._looked_at = -math.inf

    def lately(self, now: float) -> Lately:
        """What was taken lately, as of a time; the same one until there is something new to see."""
        enough = self._new > max(_NEW, len(self._acts) // _OF_ALL)
        if enough or abs(now - self._looked_at) > self._half_life / _OF_TIME:
            self._lately, self._looked_at, self._new = self._look(now), now, 0
        return self._lately

    def _look(self, now: float) -> Lately:
        if self._origin is None:
            return Lately((), np.zeros(0), 0.0)
        scale = 2.0 ** -max(self._halvings(max(now, self._latest)), -_FAR)
        people = np.fromiter(self._weights.values(), float, len(self._weights)) * scale
        enough = np.flatnonzero(people >= _FEWEST)
        items = list(self._weights)
        return Lately([items[place] for place in enough.tolist()], people[enough], self._total * scale)

    def _halvings(self, seconds: float) -> float:
        return (seconds - (self._origin or 0.0)) / self._half_life

    def _move_origin(self, seconds: float) -> None:
        down = 0.0 if self._origin is None else 2.0 ** -self._halvings(seconds)
        self._origin = seconds
        self._acts = OrderedDict((key, weight * down) for key, weight in self._acts.items() if weight * down > 0)
        self._weights, self._total = defaultdict(float), 0.0
        for (item_id, _), weight in self._acts.items():
            self._count(item_id, weight)

    def _count(self, item_id: str, weight: float) -> None:
        self._weights[item_id] += weight
        self._total = max(self._total + weight, 0.0)
        if self._weights[item_id] <= 0:
            del self._weights[item_id]
