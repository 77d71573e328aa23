"""Ranking: turns item scores into a list under filters, merchandising rules, diversity and exploration."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import NamedTuple

import msgspec
import numpy as np

from recsys_tasks.engine.catalog import Catalog
from recsys_tasks.engine.filters import FilterEvaluator
from recsys_tasks.engine.impression_discounting import DiscountedItems
from recsys_tasks.engine.scoring import ItemVectors, ScoredItems, Scores
from recsys_tasks.names import FIRST_ITEM
from recsys_tasks.wire.filters import Filter
from recsys_tasks.wire.rules import MerchandisingRules

_MAX_EXPLORATION_CANDIDATES = 500
_EXTRA_CANDIDATES = 20  # beyond 2 k: the scan selects by rounded scores
_CANDIDATES_PER_ITEM = 5  # for diversity, category limits and exploration
_CANDIDATES_PER_CHUNK = 64  # converted to Python numbers at a time: a list needs few of them


class ExploredPositions(NamedTuple):
    """How exploration filled the positions of a list [k].

    Attributes:
        share: share of the positions that are drawn at random.
        num_candidates: number of items that were drawn from, without those that keep their position.
        propensities: probability of each item at its position, given the items above it.
        ranks: rank of each item among the candidates, from 1; 0 for an item that keeps its position.
    """

    share: float
    num_candidates: int
    propensities: list[float]
    ranks: list[int]


@dataclass(frozen=True)
class Exploration:
    """Epsilon-greedy exploration: fills a share of the positions at random, to collect unbiased feedback.

    The same seed draws the same list.
    """

    share: float
    seed: str

    def draw(self, ranked: Sequence[int], fixed: Set[int], k: int) -> tuple[list[int], ExploredPositions]:
        """Returns items for k positions, and how they were drawn.

        Each position takes the best remaining item with probability 1 - share, else a uniformly random one.

        Args:
            ranked: candidates, best first.
            fixed: items of `ranked` that keep their position.
            k: number of positions.
        """
        random = Random(self.seed)  # noqa: S311
        fixed_at = {position: number for position, number in enumerate(ranked[:k]) if number in fixed}
        remaining = [(rank, number) for rank, number in enumerate((n for n in ranked if n not in fixed), start=1)]
        explored = ExploredPositions(self.share, len(remaining), [], [])
        shown = []
        for position in range(min(k, len(ranked))):
            if position in fixed_at:
                shown.append(fixed_at[position])
                explored.propensities.append(1.0)
                explored.ranks.append(0)
            elif remaining:
                drawn = random.randrange(len(remaining)) if random.random() < self.share else 0
                explored.propensities.append(self.share / len(remaining) + (1 - self.share) * (drawn == 0))
                rank, number = remaining.pop(drawn)
                explored.ranks.append(rank)
                shown.append(number)
        return shown, explored


class ListOptions(msgspec.Struct, frozen=True):
    """Constraints of one list.

    Attributes:
        k: maximum number of items.
        exclude: item ids to leave out.
        filter: condition for all items; already checked.
        diversity: from 0 (relevance only) to 1 (dissimilarity only).
        at_most_per_category: maximum number of items per category path.
        interests: stated interests of a user without history.
        exploration: fills positions at random; None for none.
        rules: of this list, beside the shop's.
    """

    k: int
    exclude: frozenset[str] = frozenset()
    filter: Filter | None = None
    diversity: float = 0.0
    at_most_per_category: int | None = None
    interests: Sequence[str] = ()
    exploration: Exploration | None = None
    rules: MerchandisingRules | None = None


class RankedList(NamedTuple):
    """A ranked list.

    Attributes:
        numbers: item numbers in display order.
        scores: their scores, before rules and discounts.
        pinned: items placed by a pin.
        explored: how exploration filled the positions; None without exploration.
    """

    numbers: list[int]
    scores: list[float]
    pinned: set[int]
    explored: ExploredPositions | None = None


class Ranker:
    """Ranks the items of one catalog.

    Args:
        catalog: attributes for filters and category limits.
        vectors: item vectors of the model, for diversity.
        rules: merchandising rules of the shop.
    """

    def __init__(self, catalog: Catalog, vectors: ItemVectors, rules: MerchandisingRules) -> None:
        self._catalog = catalog
        self._vectors = vectors
        self._filters = FilterEvaluator(catalog)
        self._max_per_category: int | None = None
        self._log_weights: np.ndarray | None = None
        self._pins: list[tuple[int, int]] = []
        self._add(rules)

    def with_rules(self, rules: MerchandisingRules) -> Ranker:
        """Returns a ranker with further rules: their weights are multiplied with those of this one, and their pins and
        limit replace its own at the same position."""
        ranker = copy.copy(self)
        ranker._add(rules)
        return ranker

    def _add(self, rules: MerchandisingRules) -> None:
        self._cached_offset: tuple[np.ndarray, np.ndarray] | None = None
        self._max_per_category = rules.at_most_per_category or self._max_per_category
        if rules.weigh:
            weights = np.ones(len(self._catalog.vocabulary))
            for rule in rules.weigh:
                weights[self._filters.mask(rule.filter)] *= rule.factor
            with np.errstate(divide="ignore"):
                log_weights = np.log(weights).astype(np.float32)
            self._log_weights = log_weights if self._log_weights is None else self._log_weights + log_weights
        numbers = self._catalog.vocabulary.numbers([pin.item_id for pin in rules.pin]).tolist()
        new = {pin.position: number for pin, number in zip(rules.pin, numbers, strict=True) if number >= FIRST_ITEM}
        replaced = {position: number for position, number in self._pins if number not in new.values()}
        self._pins = sorted((replaced | new).items())

    def rank(
        self, scores: Scores, options: ListOptions, now: float, discounts: DiscountedItems | None = None
    ) -> RankedList:
        """Returns the best items.

        Args:
            scores: of all items.
            options: list constraints.
            now: time of availability, seconds since 1970.
            discounts: impression discounts of the user.
        """
        if options.exploration is not None:
            return self._rank_with_exploration(scores, options, options.exploration, now, discounts)
        excluded = self._excluded(options)
        pins = [
            (position, number) for position, number in self._pins if number not in excluded and position <= options.k
        ]
        offset = self.offset(options, now)
        listed, pinned_scores = self._select(scores, options, excluded, offset, [n for _, n in pins], discounts)
        for (position, number), score in zip(pins, pinned_scores, strict=True):
            if score > 0:
                listed.insert(position - 1, (number, score))
        numbers = [number for number, _ in listed[: options.k]]
        pinned = {number for _, number in pins}.intersection(numbers)
        return RankedList(numbers, [score for _, score in listed[: options.k]], pinned)

    def _rank_with_exploration(
        self,
        scores: Scores,
        options: ListOptions,
        exploration: Exploration,
        now: float,
        discounts: DiscountedItems | None,
    ) -> RankedList:
        num_candidates = max(options.k, min(_CANDIDATES_PER_ITEM * options.k, _MAX_EXPLORATION_CANDIDATES))
        candidate_options = msgspec.structs.replace(options, k=num_candidates, exploration=None)
        ranked = self.rank(scores, candidate_options, now, discounts)
        score_of = dict(zip(ranked.numbers, ranked.scores, strict=True))
        shown, explored = exploration.draw(ranked.numbers, ranked.pinned, options.k)
        pinned = ranked.pinned.intersection(shown)
        return RankedList(shown, [score_of[number] for number in shown], pinned, explored)

    def _excluded(self, options: ListOptions) -> set[int]:
        return set(self._catalog.vocabulary.numbers(sorted(options.exclude)).tolist()) if options.exclude else set()

    def allowed(self, options: ListOptions, now: float) -> np.ndarray | None:
        """Returns which items are available and match the filter [V]; None if all do."""
        allowed = None if options.filter is None else self._filters.mask(options.filter)
        available = self._catalog.available(now)
        if available is None:
            return allowed
        return available if allowed is None else allowed & available

    def offset(self, options: ListOptions, now: float) -> np.ndarray | None:
        """Returns the offset of the log scores [V]: log weights of the rules, -inf for items not allowed; or None."""
        allowed = self.allowed(options, now)
        if allowed is None:
            return self._log_weights
        if self._cached_offset is None or self._cached_offset[0] is not allowed:  # hit for the same availability mask
            weights = 0.0 if self._log_weights is None else self._log_weights
            self._cached_offset = allowed, np.where(allowed, weights, -np.inf).astype(np.float32)
        return self._cached_offset[1]

    def _select(
        self,
        scores: Scores,
        options: ListOptions,
        excluded: set[int],
        offset: np.ndarray | None,
        pins: Sequence[int],
        discounts: DiscountedItems | None,
    ) -> tuple[list[tuple[int, float]], list[float]]:
        """Returns the items and scores of the list without pins, and the scores of the pins.

        Starts with few candidates; takes more while the category limit leaves the list short.
        """
        max_per_category = options.at_most_per_category or self._max_per_category
        is_diversified = options.diversity > 0 or max_per_category is not None
        hidden = excluded.union(pins)
        include = np.asarray(pins, np.int64)
        num_candidates = (_CANDIDATES_PER_ITEM if is_diversified else 2) * options.k + _EXTRA_CANDIDATES
        num_removable = len(hidden) + (0 if discounts is None else len(discounts))
        while True:
            scored = scores.top_k(num_candidates + num_removable, offset, include)
            pinned_scores = [float(scored.scores[scored.numbers == pin].max(initial=0.0)) for pin in pins]
            listed = self._iterate_candidates(scored, discounts, hidden)
            if not is_diversified:
                return list(islice(listed, options.k)), pinned_scores
            found = list(listed)
            candidates = np.asarray([number for number, _ in found], np.int64)
            candidate_scores = np.asarray([score for _, score in found])
            relevance = self._adjusted_scores(ScoredItems(candidates, candidate_scores), discounts)
            selected = self._diversify(candidates, relevance, options, max_per_category)
            if (
                options.k == len(selected)
                or len(candidates) < num_candidates
                or self._max_list_length(options.k, max_per_category, offset) <= len(selected)
            ):
                return [found[index] for index in selected], pinned_scores
            num_candidates *= _CANDIDATES_PER_ITEM

    def _iterate_candidates(
        self, scored: ScoredItems, discounts: DiscountedItems | None, hidden: Set[int]
    ) -> Iterator[tuple[int, float]]:
        """Yields distinct items that may be shown, and their scores, by descending adjusted score."""
        order = np.argsort(-self._adjusted_scores(scored, discounts), kind="stable")
        seen = set(hidden)
        for start in range(0, len(order), _CANDIDATES_PER_CHUNK):
            chunk = order[start : start + _CANDIDATES_PER_CHUNK]
            for number, score in zip(scored.numbers[chunk].tolist(), scored.scores[chunk].tolist(), strict=True):
                if score > 0 and number not in seen:  # of an item that occurs twice, the higher score comes first
                    seen.add(number)
                    yield number, score

    def _max_list_length(self, k: int, max_per_category: int | None, offset: np.ndarray | None) -> int:
        """Longest list possible under the category limit and the offset, up to k."""
        if max_per_category is None:
            return k
        codes = self._catalog.categories.codes[FIRST_ITEM:]
        if offset is not None:
            codes = codes[offset[FIRST_ITEM:] > -np.inf]
        without_category, *counts = np.bincount(codes + 1, minlength=1)
        return min(k, int(without_category + np.minimum(counts, max_per_category).sum()))

    def _adjusted_scores(self, scored: ScoredItems, discounts: DiscountedItems | None) -> np.ndarray:
        """Scores times rule weights and impression discounts."""
        scores = scored.scores
        if self._log_weights is not None:
            scores = scores * np.exp(self._log_weights[scored.numbers])
        return scores if discounts is None else scores * discounts.factors(scored.numbers)

    def _diversify(
        self, candidates: np.ndarray, scores: np.ndarray, options: ListOptions, max_per_category: int | None
    ) -> list[int]:
        """Indices of candidates by maximal marginal relevance (Carbonell and Goldstein 1998), under the category limit.

        The next item maximizes (1 - diversity) · relevance - diversity · similarity to the nearest selected one.
        Relevance is the share of the best score, similarity the cosine of the item vectors.
        """
        diversity, vectors = options.diversity, self._vectors[candidates]
        category, category_counts = self._catalog.categories.codes[candidates], Counter[int]()
        relevance = (1 - diversity) * scores / max(scores.max(initial=0.0), np.finfo(scores.dtype).tiny)
        max_similarity = np.zeros(len(candidates))
        selected: list[int] = []
        for _ in range(min(options.k, len(candidates))):
            index = int((relevance - diversity * max_similarity).argmax())
            if relevance[index] == -np.inf:
                break
            selected.append(index)
            relevance[index] = -np.inf
            code = int(category[index])
            category_counts[code] += 1
            if code >= 0 and category_counts[code] == max_per_category:
                relevance[category == code] = -np.inf
            if diversity:
                np.maximum(max_similarity, vectors @ vectors[index], out=max_similarity)
        return selected
