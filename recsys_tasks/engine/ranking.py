"""From scores of items to the list that is shown: what may be, how varied, and by which rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import NamedTuple

import msgspec
import numpy as np

from recsys_tasks.engine.catalog import Catalogue
from recsys_tasks.engine.filters import Filter, Filters
from recsys_tasks.engine.impression_discounting import Tired
from recsys_tasks.engine.merchandising import Rules
from recsys_tasks.engine.scoring import Found, ItemVectors, Scores
from recsys_tasks.names import FIRST_ITEM

_MOST_RANKED = 500
_MORE = 20  # candidates than twice the places, as scores are rounded where they are looked up
_WIDER = 5  # candidates for each place in a varied list


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


class Wishes(msgspec.Struct, frozen=True):
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
    exclude: frozenset[str] = frozenset()
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
    pinned: set[int]
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
        self._log_weights: np.ndarray | None = None
        self._offset_of: tuple[np.ndarray, np.ndarray] | None = None
        if rules.weigh:
            weights = np.ones(len(catalogue.vocabulary))
            for weigh in rules.weigh:
                weights[self._filters.allowed(weigh.filter)] *= weigh.factor
            with np.errstate(divide="ignore"):
                self._log_weights = np.log(weights).astype(np.float32)
        known = catalogue.vocabulary.numbers([pin.item_id for pin in rules.pin]).tolist()
        self._pins = sorted(
            (pin.position, number) for pin, number in zip(rules.pin, known, strict=True) if number >= FIRST_ITEM
        )

    def rank(self, scores: Scores, wishes: Wishes, now: float, tired: Tired | None = None) -> Ranked:
        """The best items.

        Args:
            scores: of each item.
            wishes: what the caller wants.
            now: items are to be had at this time, seconds since 1970.
            tired: of what the user may be tired, which goes further down.
        """
        if wishes.explore is not None:
            return self._explore(scores, wishes, wishes.explore, now, tired)
        excluded = self._excluded(wishes)
        pins = [(place, number) for place, number in self._pins if number not in excluded and place <= wishes.k]
        offset = self._offset(wishes, now)
        numbers, score_of = self._chosen(scores, wishes, excluded, offset, [n for _, n in pins], tired)
        for place, number in pins:
            if score_of.get(number, 0.0) > 0:
                numbers.insert(place - 1, number)
        numbers = numbers[: wishes.k]
        pinned = {number for _, number in pins}.intersection(numbers)
        return Ranked(numbers, [score_of[number] for number in numbers], pinned)

    def _explore(self, scores: Scores, wishes: Wishes, explore: Exploration, now: float, tired: Tired | None) -> Ranked:
        wider = msgspec.structs.replace(wishes, k=max(wishes.k, min(_WIDER * wishes.k, _MOST_RANKED)), explore=None)
        ranked = self.rank(scores, wider, now, tired)
        score_of = dict(zip(ranked.numbers, ranked.scores, strict=True))
        shown, chances = explore.draw(ranked.numbers, ranked.pinned, wishes.k)
        return Ranked(shown, [score_of[number] for number in shown], ranked.pinned.intersection(shown), chances)

    def _excluded(self, wishes: Wishes) -> set[int]:
        return set(self._catalogue.vocabulary.numbers(sorted(wishes.exclude)).tolist()) if wishes.exclude else set()

    def _offset(self, wishes: Wishes, now: float) -> np.ndarray | None:
        """What the rules and the caller add to the logarithm of each score [V]; None for nothing."""
        allowed = None if wishes.filter is None else self._filters.allowed(wishes.filter)
        available = self._catalogue.available(now)
        if available is not None:
            allowed = available if allowed is None else allowed & available
        if allowed is None:
            return self._log_weights
        if self._offset_of is None or self._offset_of[0] is not allowed:  # the same where only time hides items
            weights = 0.0 if self._log_weights is None else self._log_weights
            self._offset_of = allowed, np.where(allowed, weights, -np.inf).astype(np.float32)
        return self._offset_of[1]

    def _chosen(
        self,
        scores: Scores,
        wishes: Wishes,
        excluded: set[int],
        offset: np.ndarray | None,
        pins: Sequence[int],
        tired: Tired | None,
    ) -> tuple[list[int], dict[int, float]]:
        """Numbers of the list without pins, and scores of these and of the pins: of the best few, or of more where
        those have too many of one category."""
        most = wishes.at_most_per_category or self._most_per_category
        varied = wishes.diversity > 0 or most is not None
        hidden = excluded.union(pins)
        wanted = np.asarray(pins, np.int64)
        few = (_WIDER if varied else 2) * wishes.k + _MORE
        others = len(hidden) + (0 if tired is None else len(tired))
        while True:
            found = scores.best(few + others, offset, wanted)
            order = np.argsort(-self._weighed(found, tired), kind="stable")
            numbers, scored = found.numbers[order].tolist(), found.scores[order].tolist()
            score_of = dict(zip(reversed(numbers), reversed(scored), strict=True))  # the higher one of an item's
            listed = (number for number in dict.fromkeys(numbers) if number not in hidden and score_of[number] > 0)
            if not varied:
                return list(islice(listed, wishes.k)), score_of
            candidates = np.fromiter(listed, np.int64)
            of_candidates = np.asarray([score_of[number] for number in candidates.tolist()])
            values = self._weighed(Found(candidates, of_candidates), tired)
            chosen = self._marginally_best(candidates, values, wishes, most)
            if (
                wishes.k == len(chosen)
                or len(candidates) < few
                or self._reachable(wishes.k, most, offset) <= len(chosen)
            ):
                return candidates[chosen].tolist(), score_of
            few *= _WIDER

    def _reachable(self, k: int, most: int | None, offset: np.ndarray | None) -> int:
        """How many places there can be at most, with so many of a category and without what is hidden."""
        if most is None:
            return k
        codes = self._catalogue.categories.codes[FIRST_ITEM:]
        if offset is not None:
            codes = codes[offset[FIRST_ITEM:] > -np.inf]
        without, *counts = np.bincount(codes + 1, minlength=1)
        return min(k, int(without + np.minimum(counts, most).sum()))

    def _weighed(self, found: Found, tired: Tired | None) -> np.ndarray:
        """Scores as the rules weigh them, and as far as the user is not tired of the items."""
        scores = found.scores
        if self._log_weights is not None:
            scores = scores * np.exp(self._log_weights[found.numbers])
        return scores if tired is None else scores * tired.remains(found.numbers)

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
