"""How often visitors have looked at items lately without acting on them, and what order of items follows from it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from itertools import chain, repeat

import numpy as np

from recsys_tasks.names import PAUSE_HOURS

_PAUSE = PAUSE_HOURS * 3600.0
_MOST_PAIRS = 300_000  # of a visitor and an item, about a hundred bytes each
_FURTHER_DOWN = 0.05  # the chance that a place is looked at of which nothing is known


class Tired:
    """Items that somebody may be tired of.

    Args:
        numbers: which; remains: what remains of the chance to act on each.
    """

    def __init__(self, numbers: np.ndarray, remains: np.ndarray) -> None:
        order = np.argsort(numbers, kind="stable")
        self._numbers, self._remains = numbers[order], remains[order]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._numbers)

    def remains(self, numbers: np.ndarray) -> np.ndarray:
        """What remains of the chance to act on items [N]; 1 of those that nobody is tired of."""
        place = np.minimum(np.searchsorted(self._numbers, numbers), len(self) - 1)
        found: np.ndarray = np.where(self._numbers[place] == numbers, self._remains[place], 1.0)
        return found


class Looks:
    """Looks of visitors at items since they acted on them last, or since a pause in which these were not shown; the
    longest silent visitors are forgotten first."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, dict[str, tuple[float, float]]] = OrderedDict()  # looks, and when shown last
        self._pairs = 0

    def shown(self, visitor: str, items: Iterable[str], chances: np.ndarray, seconds: float) -> None:
        """Takes in a list that somebody is shown.

        Args:
            visitor: who; items: ids in the order of the list.
            chances: with which each place is looked at [P].
            seconds: when, since 1970.
        """
        known = self._of.pop(visitor, {})
        kept = {item: look for item, look in known.items() if seconds - look[1] <= _PAUSE}
        for item, chance in zip(items, chain(chances.tolist(), repeat(_FURTHER_DOWN)), strict=False):
            kept[item] = kept.get(item, (0.0, 0.0))[0] + chance, seconds
        self._of[visitor] = kept
        self._pairs += len(kept) - len(known)
        while self._pairs > _MOST_PAIRS and len(self._of) > 1:
            self._pairs -= len(self._of.popitem(last=False)[1])

    def acted(self, visitor: str, item: str) -> None:
        """Somebody acted on an item, and is not tired of it any more."""
        if self._of.get(visitor, {}).pop(item, None) is not None:
            self._pairs -= 1

    def of(self, visitor: str | None, now: float) -> Mapping[str, float]:
        """Looks of a visitor at items, as of a time."""
        known = self._of.get(visitor or "", {})
        return {item: looks for item, (looks, seconds) in known.items() if now - seconds <= _PAUSE}

    def forget(self, visitor: str) -> None:
        """Drops what is known of somebody."""
        self._pairs -= len(self._of.pop(visitor, {}))
