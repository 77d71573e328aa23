"""From scores of items to the list that is shown: what may be, how varied, and by which rules."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from random import Random
from typing import NamedTuple

import numpy as np

from recsys_tasks.names import FIRST_ITEM
from recsys_tasks.serving.catalogue import Catalogue
from recsys_tasks.serving.filters import Filter, Filters
from recsys_tasks.serving.rules import Rules
from recsys_tasks.serving.scoring import ItemVectors, Scores

_MOST_RANKED = 500
_AT_LEAST = 50
_WIDER = 5  # candidates for each place in a list


@dataclass(frozen=True)
class Exploration:
    """That a share of the places is filled by chance, so that something is learned of items that are never best.

    The same seed draws the same.
    """

    share: float
    seed: str

    def draw(self, ranked: Sequence[int], fixed: Set[int], k: int) -> tuple[list[int], list[float]]:
        """Items for k places, and with what chance each came to its place, given those before it.

        Args:
            ranked: more items than places, best first; of those that are left, the best comes with a chance of
                1 - share, and otherwise any of them.
            fixed: those of `ranked` that stay where they are.
        """
        random = Random(self.seed)  # noqa: S311
        places = {place: number for place, number in enumerate(ranked[:k]) if number in fixed}
        left = [number for number in ranked if number not in fixed]
        shown, chances = [], []
        for place in range(min(k, len(ranked))):
            if place in places:
                shown.append(places[place])
                chances.append(1.0)
            elif left:
                drawn = random.randrange(len(left)) if random.random() < self.share else 0
                chances.append(self.share / len(left) + (1 - self.share) * (drawn == 0))
                shown.append(left.pop(drawn))
        return shown, chances


@dataclass(frozen=True)
class Wishes:
    """What a caller wants of a list.

    Attributes:
        k: how many items, at most.
        exclude: ids of items that may not be in it.
        filter: what all of its items fulfil; it was checked.
        diversity: from 0, the best items, to 1, items as different from each other as there are.
        at_most_per_category: how many of one category path.
        interests: what the user is said to like, for one of whom nothing else is known.
        explore: how places are filled by chance, if they are.
    """

    k: int
    exclude: frozenset[str] = field(default_factory=frozenset)
    filter: Filter | None = None
    diversity: float = 0.0
    at_most_per_category: int | None = None
    interests: Sequence[str] = ()
    explore: Exploration | None = None


class Ranked(NamedTuple):
    """A list: item numbers in the order in which to show them, the model's scores of them, which of them stand there by
    a pin, and where chance took part, with what chance each came to its place."""

    numbers: list[int]
    scores: list[float]
    pinned: Set[int]
    chances: list[float] | None = None


class Ranking:
    """Ranks the items of one catalogue.

    Args:
        catalogue: what is known of them.
        vectors: of the items, as the model sees them.
        rules: of the shop.
    """

    def __init__(self, catalogue: Catalogue, vectors: ItemVectors, rules: Rules) -> None:
        self._catalogue = catalogue
        self._vectors = vectors
        self._filters = Filters(catalogue)
        self._most_per_category = rules.at_most_per_category
        self._weights: np.ndarray | None = None
        if rules.weigh:
            self._weights = np.ones(len(catalogue.vocabulary))
            for weigh in rules.weigh:
                self._weights[self._filters.allowed(weigh.filter)] *= weigh.factor
            with np.errstate(divide="ignore"):
                self._log_weights = np.log(self._weights)
        known = catalogue.vocabulary.numbers([pin.item_id for pin in rules.pin]).tolist()
        self._pins = sorted(
            (pin.position, number) for pin, number in zip(rules.pin, known, strict=True) if number >= FIRST_ITEM
        )

    def rank(self, scores: Scores, wishes: Wishes, now: float) -> Ranked:
        """The best items.

        Args:
            scores: of each item.
            wishes: what the caller wants.
            now: items are to be had at this time, seconds since 1970.
        """
        if wishes.explore is not None:
            return self._explore(scores, wishes, wishes.explore, now)
        rough = scores.rough
        self._hide(rough, wishes, now)
        pins = [(place, number) for place, number in self._pins if rough[number] > -np.inf and place <= wishes.k]
        pinned = np.asarray([number for _, number in pins], np.int64)
        of_pins = scores.exactly(pinned).tolist() if pins else []
        rough[pinned] = -np.inf
        numbers, values = self._chosen(scores, wishes)
        for (place, number), score in zip(pins, of_pins, strict=True):
            numbers.insert(place - 1, number)
            values.insert(place - 1, score)
        numbers = numbers[: wishes.k]
        return Ranked(numbers, values[: wishes.k], set(pinned.tolist()).intersection(numbers))

    def _explore(self, scores: Scores, wishes: Wishes, explore: Exploration, now: float) -> Ranked:
        wider = replace(wishes, k=max(wishes.k, min(_WIDER * wishes.k, _MOST_RANKED)), explore=None)
        ranked = self.rank(scores, wider, now)
        score_of = dict(zip(ranked.numbers, ranked.scores, strict=True))
        shown, chances = explore.draw(ranked.numbers, ranked.pinned, wishes.k)
        return Ranked(shown, [score_of[number] for number in shown], ranked.pinned.intersection(shown), chances)

    def _hide(self, rough: np.ndarray, wishes: Wishes, now: float) -> None:
        """Takes out what may not be shown, and weighs the rest by the rules."""
        rough[:FIRST_ITEM] = -np.inf
        if self._weights is not None:
            rough += self._log_weights
        if wishes.exclude:
            rough[self._catalogue.vocabulary.numbers(sorted(wishes.exclude))] = -np.inf
        if wishes.filter is not None:
            rough[~self._filters.allowed(wishes.filter)] = -np.inf
        available = self._catalogue.available(now)
        if available is not None:
            rough[~available] = -np.inf

    def _chosen(self, scores: Scores, wishes: Wishes) -> tuple[list[int], list[float]]:
        """Numbers and scores of the list without pins: among the best few, or more of them where those have too many of
        one category."""
        most = wishes.at_most_per_category or self._most_per_category
        few = _WIDER * wishes.k + _AT_LEAST
        while True:
            candidates, found, values = self._best_few(scores, few)
            if not wishes.diversity and not most:
                return candidates[: wishes.k].tolist(), found[: wishes.k].tolist()
            chosen = self._marginally_best(candidates, values, wishes, most)
            if len(chosen) == wishes.k or len(candidates) < few:
                return candidates[chosen].tolist(), found[chosen].tolist()
            few *= _WIDER

    def _best_few(self, scores: Scores, few: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers of the best few items and of those that may be as good, their scores, and these as the rules weigh
        them, which they are sorted by; of equal ones the lower number first."""
        numbers = best(scores.rough, few)
        also = scores.also[scores.rough[scores.also] > -np.inf]
        if len(also):
            numbers = np.union1d(numbers, also)
        found = scores.exactly(numbers)
        values = found if self._weights is None else found * self._weights[numbers]
        order = np.argsort(-values, kind="stable")
        return numbers[order], found[order], values[order]

    def _marginally_best(
        self, candidates: np.ndarray, scores: np.ndarray, wishes: Wishes, most: int | None
    ) -> list[int]:
        """Places of the best by maximal marginal relevance (Carbonell, Goldstein 1998), so many of a category at most.

        The next item is that with the most of (1 - diversity) relevance - diversity * similarity to the nearest one
        before it: relevance as a share of the best one's, similarity as the cosine of their vectors.
        """
        diversity, vectors = wishes.diversity, self._vectors[candidates]
        category, taken = self._catalogue.categories.codes[candidates], Counter[int]()
        relevance = (1 - diversity) * scores / max(scores.max(initial=0.0), np.finfo(scores.dtype).tiny)
        nearest = np.zeros(len(candidates))
        chosen: list[int] = []
        for _ in range(min(wishes.k, len(candidates))):
            place = int((relevance - diversity * nearest).argmax())
            if relevance[place] == -np.inf:
                break
            chosen.append(place)
            relevance[place] = -np.inf
            code = int(category[place])
            taken[code] += 1
            if code >= 0 and taken[code] == most:
                relevance[category == code] = -np.inf
            if diversity:
                np.maximum(nearest, vectors @ vectors[place], out=nearest)
        return chosen


def best(rough: np.ndarray, k: int) -> np.ndarray:
    """Numbers of the k best [V] above -inf, in their own order; of equal ones those with lower numbers.

    Looks at the best of each block first: the k best are in no more blocks than k.
    """
    size = math.isqrt(len(rough) // k)  # so that there are about as many blocks as entries in k of them
    candidates = np.arange(len(rough)) if size < 2 else _of_best_blocks(rough, k, size)
    values = rough[candidates]
    if len(candidates) > k:
        least = np.partition(values, len(values) - k)[len(values) - k]
        few = values > least
        if least > -np.inf:
            few[np.flatnonzero(values == least)[: k - np.count_nonzero(few)]] = True
        return candidates[few]
    return candidates[values > -np.inf]


def _of_best_blocks(rough: np.ndarray, k: int, size: int) -> np.ndarray:
    """Numbers of all in the k best blocks of so many, in their own order, and of those that are in no block.

    A block is a column where the numbers stand in rows, which are compared a row at a time.
    """
    blocks = len(rough) // size
    most = rough[: size * blocks].reshape(size, blocks).max(0)
    columns = np.flatnonzero(most >= np.partition(most, blocks - k)[blocks - k])
    chosen = (blocks * np.arange(size)[:, None] + columns).ravel()
    return np.concatenate([chosen, np.arange(size * blocks, len(rough))])
