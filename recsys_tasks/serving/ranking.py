"""From the model's probabilities to the list that is shown: what may be, how varied, and by which rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np

from recsys_tasks.names import FIRST_ITEM
from recsys_tasks.serving.catalogue import Catalogue
from recsys_tasks.serving.filters import Filter, Filters
from recsys_tasks.serving.rules import Rules
from recsys_tasks.serving.scoring import ItemVectors

_BLOCK = 128
_MOST_RANKED = 500
Exactly = Callable[[np.ndarray], np.ndarray]

_AT_LEAST = 50
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
        known = catalogue.vocabulary.numbers([pin.item_id for pin in rules.pin]).tolist()
        self._pins = sorted(
            (pin.position, number) for pin, number in zip(rules.pin, known, strict=True) if number >= FIRST_ITEM
        )

    def rank(
        self, scores: np.ndarray, wishes: Wishes, now: float, exactly: Exactly | None = None
    ) -> tuple[list[int], set[int]]:
        """Item numbers in the order in which to show them, and which of them stand there by a pin.

        Args:
            scores: of each item [V]; what is not above 0 is not shown.
            wishes: what the caller wants.
            now: items are to be had at this time, seconds since 1970.
            exactly: scores of some items, where `scores` are rounded; those that may be shown are looked up there.
        """
        scores = self._allowed(scores, wishes, now)
        if exactly is not None:
            few = np.asarray(best(scores, _WIDER * wishes.k + _AT_LEAST), np.int64)
            scores[few] = exactly(few) * (1.0 if self._weights is None else self._weights[few])
        most = wishes.at_most_per_category or self._most_per_category
        pins = [(position, number) for position, number in self._pins if scores[number] > 0 and position <= wishes.k]
        scores[[number for _, number in pins]] = 0.0
        found = self._varied(scores, wishes, most) if wishes.diversity or most else best(scores, wishes.k)
        for position, number in pins:
            found.insert(position - 1, number)
        shown = found[: wishes.k]
        return shown, {number for _, number in pins}.intersection(shown)

    def draw(
        self,
        scores: np.ndarray,
        wishes: Wishes,
        explore: Exploration,
        now: float,
        exactly: Exactly | None = None,
    ) -> tuple[list[int], set[int], list[float]]:
        """As `rank`, with some places filled by chance; and the chances."""
        wider = replace(wishes, k=max(wishes.k, min(_WIDER * wishes.k, _MOST_RANKED)))
        ranked, pinned = self.rank(scores, wider, now, exactly)
        shown, chances = explore.draw(ranked, pinned, wishes.k)
        return shown, pinned.intersection(shown), chances

    def _allowed(self, scores: np.ndarray, wishes: Wishes, now: float) -> np.ndarray:
        scores = scores.copy() if self._weights is None else scores * self._weights
        scores[:FIRST_ITEM] = 0.0
        if wishes.exclude:
            hidden = self._catalogue.vocabulary.numbers(sorted(wishes.exclude))
            scores[hidden] = 0.0
        if wishes.filter is not None:
            scores[~self._filters.allowed(wishes.filter)] = 0.0
        available = self._catalogue.available(now)
        if available is not None:
            scores[~available] = 0.0
        return scores

    def _varied(self, scores: np.ndarray, wishes: Wishes, most: int | None) -> list[int]:
        """The list among the best few, or more of them where those have too many of one category."""
        few = _WIDER * wishes.k
        while True:
            candidates = np.asarray(best(scores, few), np.int64)
            found = self._marginally_best(candidates, scores[candidates], wishes, most)
            if len(found) == wishes.k or len(candidates) < few:
                return found
            few *= _WIDER

    def _marginally_best(
        self, candidates: np.ndarray, scores: np.ndarray, wishes: Wishes, most: int | None
    ) -> list[int]:
        """The best by maximal marginal relevance (Carbonell and Goldstein 1998), no more than so many of a category.

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
            chosen.append(int(candidates[place]))
            relevance[place] = -np.inf
            code = int(category[place])
            taken[code] += 1
            if code >= 0 and taken[code] == most:
                relevance[category == code] = -np.inf
            if diversity:
                np.maximum(nearest, vectors @ vectors[place], out=nearest)
        return chosen


def best(scores: np.ndarray, k: int) -> list[int]:
    """Numbers of the k best scores above 0, best first; of equal ones the lower number first.

    Looks at the best of each block first: the k best are in no more blocks than k.
    """
    candidates = np.arange(len(scores))
    whole = len(scores) // _BLOCK
    if whole > 2 * k:
        blocks = scores[: whole * _BLOCK].reshape(whole, _BLOCK)
        most = blocks.max(1)
        least = np.partition(most, whole - k)[whole - k]  # k scores or more are as high as this
        rest = candidates[whole * _BLOCK :]
        candidates = np.concatenate([candidates[: whole * _BLOCK].reshape(whole, _BLOCK)[most >= least].ravel(), rest])
    of_candidates = scores[candidates]
    if len(candidates) > k:
        least = np.partition(of_candidates, len(candidates) - k)[len(candidates) - k]
        few = of_candidates >= least
        candidates, of_candidates = candidates[few], of_candidates[few]
    order = np.lexsort((candidates, -of_candidates))[:k]
    numbers: list[int] = candidates[order[of_candidates[order] > 0]].tolist()
    return numbers
