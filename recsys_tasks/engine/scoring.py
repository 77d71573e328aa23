"""Item scores: the model's next-item probabilities (pointer-generator mixture), precomputed scores, and their blend
with trending items."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from recsys_tasks.engine.graphs import Graph
from recsys_tasks.features.item_neighbors import ItemNeighbors, latest_items
from recsys_tasks.features.session_neighbors import SessionNeighbors
from recsys_tasks.names import FIRST_ITEM

_PADDING_MULTIPLE, _CACHED_K = 256, 1_000
_SAMPLED = 1_024  # of the popular items, and of the others, to estimate the sum of all probabilities
_TINY = 1e-30
_LISTED_PER_LIFTED, _JUST_BELOW = 5, 1 - 1e-6  # items of a user's list for each trending item
_NO_ITEMS = np.zeros(0, np.int64)
_NO_OFFSET = np.zeros(1, np.float32)


def padded_size(num_items: int) -> int:
    """Size that the scan graph pads a number of items to."""
    return -(-num_items // _PADDING_MULTIPLE) * _PADDING_MULTIPLE


class ScoredItems(NamedTuple):
    """Item numbers [N], unordered, and their scores [N]; 0 for items that may not be shown. If an item occurs twice,
    its higher score counts."""

    numbers: np.ndarray
    scores: np.ndarray


class Scores(Protocol):
    """Scores of all items."""

    def top_k(self, k: int, offset: np.ndarray | None = None, include: np.ndarray = _NO_ITEMS) -> ScoredItems:
        """Returns at least the k best items and the items of `include`.

        Args:
            k: number of best items.
            offset: added to the log scores before the selection [V], -inf for items that may not be shown; the returned
                scores are without it.
            include: numbers of other items to score.
        """
        ...


class PredictionScores(Scores, Protocol):
    """Scores of a prediction, which can also be looked up."""

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the scores of distinct items [N]; 0 for items that may not be shown."""
        ...


class PrecomputedScores:
    """Scores [V] by item number; items with a score of 0 or less may not be shown."""

    def __init__(self, scores: np.ndarray) -> None:
        self._scores = scores
        self._log_scores = np.log(scores, out=np.full(len(scores), -np.inf), where=scores > 0)
        self._log_scores[:FIRST_ITEM] = -np.inf

    @cached_property
    def _best(self) -> np.ndarray:
        return top_indices(self._log_scores, _CACHED_K)

    def top_k(self, k: int, offset: np.ndarray | None = None, include: np.ndarray = _NO_ITEMS) -> ScoredItems:
        """See `Scores`; the best items are ordered by number."""
        log_scores = self._log_scores if offset is None else self._log_scores + offset
        is_cached = offset is None and k <= _CACHED_K
        selected = self._best[top_indices(log_scores[self._best], k)] if is_cached else top_indices(log_scores, k)
        numbers = np.concatenate([selected, include])
        return ScoredItems(numbers, np.where(log_scores[numbers] > -np.inf, self._scores[numbers], 0.0))

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """See `PredictionScores`."""
        return np.where(self._log_scores[numbers] > -np.inf, self._scores[numbers], 0.0)


class MatchScores:
    """Scores of some items; all others may not be shown.

    Args:
        numbers: distinct item numbers [N].
        scores: their scores [N], above 0.
    """

    def __init__(self, numbers: np.ndarray, scores: np.ndarray) -> None:
        self._numbers, self._scores = numbers, scores

    def top_k(self, k: int, offset: np.ndarray | None = None, include: np.ndarray = _NO_ITEMS) -> ScoredItems:
        """See `Scores`."""
        log_scores = np.log(self._scores)
        if offset is not None:
            log_scores += offset[self._numbers]
        selected = top_indices(log_scores, k)
        if not len(include):
            return ScoredItems(self._numbers[selected], self._scores[selected])
        included = np.flatnonzero(np.isin(self._numbers, include))
        selected = np.union1d(selected, included[log_scores[included] > -np.inf])
        absent = np.setdiff1d(include, self._numbers[selected])
        numbers = np.concatenate([self._numbers[selected], absent])
        return ScoredItems(numbers, np.concatenate([self._scores[selected], np.zeros(len(absent))]))


class TrendingItems:
    """Items with more organic events than the model expects.

    Args:
        numbers: item numbers [N], those with the largest shares first.
        shares: their excess shares of all organic events [N]; the sum is below 1.
        size: of the vocabulary, V.
    """

    def __init__(self, numbers: np.ndarray, shares: np.ndarray, size: int) -> None:
        self.numbers = numbers
        self._shares = np.zeros(size)
        self._shares[numbers] = shares
        self._model_share = 1.0 - float(shares.sum())

    def blend(self, scored: ScoredItems) -> np.ndarray:
        """Returns score · (1 - sum of shares) + share for each item; 0 stays 0."""
        blended: np.ndarray = scored.scores * self._model_share + self._shares[scored.numbers] * (scored.scores > 0)
        return blended

    def dominates(self, number: int, score: float) -> bool:
        """Whether more than half of an item's blended score is its trend share."""
        return bool(2 * self._shares[number] > score)


class BlendedScores:
    """Scores blended with the shares of trending items."""

    def __init__(self, scores: PredictionScores, trending: TrendingItems) -> None:
        self._scores, self._trending = scores, trending

    def top_k(self, k: int, offset: np.ndarray | None = None, include: np.ndarray = _NO_ITEMS) -> ScoredItems:
        """See `Scores`; the result contains all trending items."""
        scored = self._scores.top_k(k, offset, np.concatenate([include, self._trending.numbers]))
        return ScoredItems(scored.numbers, self._trending.blend(scored))

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """See `PredictionScores`."""
        return self._trending.blend(ScoredItems(numbers, self._scores.of(numbers)))


def top_indices(values: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k largest values [V] above -inf, in ascending order; ties go to lower indices."""
    if len(values) > k:
        threshold = np.partition(values, len(values) - k)[len(values) - k]
        selected = values > threshold
        if threshold > -np.inf:
            selected[np.flatnonzero(values == threshold)[: k - np.count_nonzero(selected)]] = True
        return np.flatnonzero(selected)
    return np.flatnonzero(values > -np.inf)


def places_of(numbers: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Returns the index of each of the keys [K] in distinct numbers [N]; -1 for absent ones."""
    if not len(numbers):
        return np.full(len(keys), -1)
    order = np.argsort(numbers)
    found = order[np.searchsorted(numbers, keys, sorter=order) % len(numbers)]
    return np.where(numbers[found] == keys, found, -1)


def _look_up(numbers: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum of the values [K] of each of the distinct numbers [N] among the keys [K]."""
    places = places_of(numbers, keys)
    is_wanted = places >= 0
    return np.bincount(places[is_wanted], values[is_wanted], len(numbers))


def _best_scores(numbers: np.ndarray, scores: np.ndarray, k: int) -> list[float]:
    """Returns the k highest scores of distinct items, best first; `numbers` and `scores` are [N]."""
    best: dict[int, float] = {}
    for index in np.argsort(-scores, kind="stable").tolist():
        best.setdefault(int(numbers[index]), float(scores[index]))
        if len(best) == k:
            break
    return list(best.values())


class LiftedScores:
    """A user's scores with a few trending items lifted: below the best four items of the user, and one in five items of
    the list, at least one. A trending item that ranks higher by the user's own score stays there.

    Args:
        scores: of the user.
        trending: the trending items.
        list_length: number of items of the list.
        hidden: items that the list will not have.
    """

    def __init__(
        self, scores: PredictionScores, trending: TrendingItems, list_length: int, hidden: np.ndarray = _NO_ITEMS
    ) -> None:
        self._scores, self._trending, self._hidden = scores, trending, hidden
        self._own_scores: dict[int, float] = {}
        self._lifted = trending.numbers[: max(list_length // _LISTED_PER_LIFTED, 1)]

    def top_k(self, k: int, offset: np.ndarray | None = None, include: np.ndarray = _NO_ITEMS) -> ScoredItems:
        """See `Scores`; the result contains the lifted items."""
        k = max(k, _LISTED_PER_LIFTED + len(self._hidden))
        scored = self._scores.top_k(k, offset, np.concatenate([include, self._lifted]))
        is_lifted = np.isin(scored.numbers, self._lifted)
        is_own = ~is_lifted & ~np.isin(scored.numbers, self._hidden)
        self._own_scores = dict(zip(scored.numbers[is_lifted].tolist(), scored.scores[is_lifted].tolist(), strict=True))
        best = _best_scores(scored.numbers[is_own], scored.scores[is_own], _LISTED_PER_LIFTED - 1)
        limit = _JUST_BELOW * best[-1] if best else np.inf
        lifted = np.maximum(scored.scores, np.minimum(self._trending.blend(scored), limit))
        return ScoredItems(scored.numbers, np.where(is_lifted, lifted, scored.scores))

    def dominates(self, number: int, score: float) -> bool:
        """Whether more than half of a listed item's score comes from being lifted."""
        return number in self._own_scores and score > 2 * self._own_scores[number]

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """See `PredictionScores`; the user's scores alone."""
        return self._scores.of(numbers)


class ItemVectors:
    """Unit vectors [V, D] and biases [V] of items by number: those of the bundle, memory-mapped and shared between
    processes, followed by those of items added since."""

    def __init__(self, vectors: np.ndarray, bias: np.ndarray, added: np.ndarray | None = None) -> None:
        self._base = vectors
        self._padded_offset: tuple[np.ndarray, np.ndarray] | None = None
        self._added = np.zeros((0, vectors.shape[1]), np.float32) if added is None else added
        self.bias = bias

    def __len__(self) -> int:
        """Number of items, V."""
        return len(self._base) + len(self._added)

    @property
    def base(self) -> np.ndarray:
        """Vectors of the bundle's items, without added ones."""
        return self._base

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """Vectors [..., D] of items [...]."""
        if not len(self._added):
            vectors: np.ndarray = self._base[numbers]
            return vectors
        vectors = self._base[np.minimum(numbers, len(self._base) - 1)]
        is_added = numbers >= len(self._base)
        vectors[is_added] = self._added[numbers[is_added] - len(self._base)]
        return vectors

    def pad_offset(self, offset: np.ndarray) -> np.ndarray:
        """Returns an offset [V], cut to the bundle's items and padded to the size of the scan graph. Keeps the latest
        result, since most lists have the same offset."""
        latest = self._padded_offset
        if latest is None or latest[0] is not offset:
            count = len(self._base)
            padded = np.pad(offset[:count], (0, padded_size(count) - count)).astype(np.float32, copy=False)
            latest = self._padded_offset = offset, padded
        return latest[1]

    @cached_property
    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Vectors and offsets of a sample of items, the first ones, which are the most popular, and every n-th of the
        others: the sum of exp(direction · vector + offset) estimates that of exp(direction · vector + bias) of all."""
        others = range(FIRST_ITEM + _SAMPLED, len(self))
        step = max(len(others) // _SAMPLED, 1)
        numbers = np.r_[FIRST_ITEM : min(FIRST_ITEM + _SAMPLED, len(self)), others[::step]].astype(np.int64)
        weights = np.where(numbers < FIRST_ITEM + _SAMPLED, 1.0, len(others) / max(len(others[::step]), 1))
        return self[numbers], (self.bias[numbers] + np.log(weights)).astype(np.float32)

    def dot(self, direction: np.ndarray) -> np.ndarray:
        """Dot products [V] of all items with a vector [D]."""
        products: np.ndarray = self._base @ direction
        return np.concatenate([products, self._added @ direction]) if len(self._added) else products

    def added_logits(self, direction: np.ndarray) -> np.ndarray:
        """Logits of the added items only: dot products with a vector [D], plus biases."""
        logits: np.ndarray = self._added @ direction + self.bias[len(self._base) :]
        return logits

    def with_added(self, vectors: np.ndarray, bias: np.ndarray) -> ItemVectors:
        """Returns these vectors followed by new ones; the base is shared."""
        added = np.concatenate([self._added, vectors.astype(np.float32)])
        return ItemVectors(self._base, np.concatenate([self.bias, bias.astype(np.float32)]), added)


class CopyCandidates(NamedTuple):
    """Items that the pointer can copy.

    Attributes:
        items: distinct item numbers [U].
        item_index: for each event its index into `items` [C].
    """

    items: np.ndarray
    item_index: np.ndarray

    @classmethod
    def from_events(cls, item: np.ndarray) -> CopyCandidates:
        """The candidates of events with item numbers [C]."""
        return cls(*np.unique(item, return_inverse=True))

    def append(self, item: np.ndarray) -> CopyCandidates:
        """Returns these candidates and those of further events."""
        if not len(item):
            return self
        items, index = np.unique(np.concatenate([self.items, item]), return_inverse=True)
        return CopyCandidates(items, np.concatenate([index[self.item_index], index[len(self.items) :]]))


class Neighbors(NamedTuple):
    """Item neighbors, session neighbors, and the weight of the session neighbors (0: off)."""

    of_items: ItemNeighbors
    of_sessions: SessionNeighbors
    session_weight: float


class NextItemScores:
    """Next-item probabilities of the mixture: vocabulary, copy and neighbor logits in one softmax, with
    session neighbors added to it.

    Args:
        items: vectors of the model.
        scan: graph over all items, see `model.scoring_graph`.
        reading: the decoder's outputs for one session, named as in `model.incremental.Reading`.
        history: copy candidates of the history.
        tokens: item numbers of the session [T].
        neighbors: item and session neighbors.
    """

    def __init__(
        self,
        items: ItemVectors,
        scan: Graph,
        reading: Mapping[str, np.ndarray],
        history: CopyCandidates,
        tokens: np.ndarray,
        neighbors: Neighbors,
    ) -> None:
        self._items, self._scan = items, scan
        self._direction = reading["direction"]
        copied, logits = _NO_ITEMS, [reading["of_history"][0]]
        if "of_session" in reading:  # the model allows repeats within a session
            copied, self._excluded = tokens, _NO_ITEMS
            logits.append(reading["of_session"][0])
        else:
            self._excluded = tokens[tokens >= FIRST_ITEM]
        if "of_neighbors" in reading:
            latest = latest_items(tokens, reading["of_neighbors"].shape[1])
            latest_logits = reading["of_neighbors"][0] + items[latest] @ reading["neighbor_query"][0]
            candidates = neighbors.of_items.candidates(latest)
            copied = np.concatenate([copied, candidates.item])
            logits.append(latest_logits[candidates.token] + candidates.log_weight)
        self._copies, self._copy_logits = history.append(copied), np.concatenate(logits)
        if neighbors.session_weight:
            self._add_session_neighbors(neighbors.of_sessions, tokens, neighbors.session_weight)

    def _add_session_neighbors(self, sessions: SessionNeighbors, tokens: np.ndarray, weight: float) -> None:
        """Adds the session neighbors to the pointer candidates, as `model.incremental.add_session_neighbors` does."""
        found = sessions.candidates(tokens, self._excluded)
        if len(found.items):
            own = self._log_scores(found.items)
            mass = np.logaddexp.reduce(own) + np.log(weight)
            self._copies = self._copies.append(found.items)
            self._copy_logits = np.concatenate([self._copy_logits, (mass + found.log_shares).astype(np.float32)])

    def _log_scores(self, numbers: np.ndarray) -> np.ndarray:
        """Log scores of distinct items [N] that are not excluded."""
        logits, copied = self._logits(numbers), self._copies.items[self._copies.item_index]
        top = max(logits.max(), self._copy_logits.max(initial=-np.inf))
        masses = np.exp((logits - top).astype(np.float64))
        if len(copied):
            masses += _look_up(numbers, copied, np.exp((self._copy_logits - top).astype(np.float64)))
        log_scores: np.ndarray = np.log(masses) + top
        return log_scores

    def top_k(self, k: int, offset: np.ndarray | None = None, include: np.ndarray = _NO_ITEMS) -> ScoredItems:
        """See `Scores`; the scores are probabilities."""
        base = self._items.base
        if len(self._items) > len(base):
            return self._top_k_with_added(k, offset, include)
        outputs = self._run_scan(k, offset, self._copies.items, self._excluded, include)
        return ScoredItems(outputs["numbers"], outputs["shares"])

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """See `PredictionScores`; without the scan of all items, so that the sum of all probabilities is estimated."""
        direction = self._direction[0]
        vectors, offsets = self._items.sample
        sampled = vectors @ direction + offsets
        logits = self._logits(numbers)
        copied = self._copies.items[self._copies.item_index]
        copy_logits = np.where(copied < FIRST_ITEM, -np.inf, self._copy_logits)
        if len(self._excluded):
            copy_logits[np.isin(copied, self._excluded)] = -np.inf
            logits[np.isin(numbers, self._excluded)] = -np.inf
        top = max(sampled.max(), logits.max(initial=-np.inf), copy_logits.max(initial=-np.inf))
        copy_masses = np.exp((copy_logits - top).astype(np.float64))
        masses = np.exp((logits - top).astype(np.float64))
        if len(copied):
            masses += _look_up(numbers, copied, copy_masses)
        total = np.exp(sampled - top).sum(dtype=np.float64) + copy_masses.sum()
        if len(self._excluded):
            total -= np.exp(self._logits(np.unique(self._excluded)) - top).sum()
        return np.asarray(masses / max(total, masses.sum(), _TINY))

    def _logits(self, numbers: np.ndarray) -> np.ndarray:
        """Generated logits of items [N]."""
        logits: np.ndarray = self._items[numbers] @ self._direction[0] + self._items.bias[numbers]
        return logits

    def _run_scan(
        self, k: int, offset: np.ndarray | None, copies: np.ndarray, excluded: np.ndarray, include: np.ndarray
    ) -> Mapping[str, np.ndarray]:
        base = self._items.base
        return self._scan(
            {
                "direction": self._direction,
                "items": base,
                "copies": copies,
                "place": self._copies.item_index,
                "copied": self._copy_logits,
                "gone": excluded,
                "also": include,
                "offset": _NO_OFFSET if offset is None else self._items.pad_offset(offset),
                "few": np.asarray([min(k, len(base))]),
            }
        )

    def _top_k_with_added(self, k: int, offset: np.ndarray | None, include: np.ndarray) -> ScoredItems:
        """Like `top_k`, with items that the scan graph lacks; all of them are scored and renormalized with it."""
        num_base = len(self._items.base)
        copies, excluded = (
            np.where(numbers < num_base, numbers, 0) for numbers in (self._copies.items, self._excluded)
        )
        outputs = self._run_scan(k, offset, copies, excluded, include[include < num_base])
        max_logit, base_mass = float(outputs["top"]), float(outputs["total"])
        mass = np.exp(self._items.added_logits(self._direction[0]).astype(np.float64) - max_logit)
        copy_item = self._copies.items[self._copies.item_index]
        is_added = copy_item >= num_base
        copy_mass = np.exp(self._copy_logits[is_added].astype(np.float64) - max_logit)
        np.add.at(mass, copy_item[is_added] - num_base, copy_mass)
        mass[self._excluded[self._excluded >= num_base] - num_base] = 0.0
        total_mass = max(base_mass + float(mass.sum()), _TINY)
        shares = mass / total_mass
        if offset is not None:
            shares[offset[num_base:] == -np.inf] = 0.0
        numbers = np.concatenate([outputs["numbers"], np.arange(num_base, len(self._items))])
        return ScoredItems(numbers, np.concatenate([outputs["shares"] * (base_mass / total_mass), shares]))


def word_vectors(table: np.ndarray, words: np.ndarray, default: np.ndarray) -> np.ndarray:
    """Returns the unit vectors [..., D] of word bags [..., A]; `default` where all words are padding (0).

    Args:
        table: word vectors by number.
        words: word numbers.
        default: [..., D].
    """
    has_words = words.any(-1)
    if not has_words.any():
        return default
    sums = (table[words[has_words]] * (words[has_words] > 0)[..., None]).sum(-2)
    vectors = default.copy()
    vectors[has_words] = sums / np.maximum(np.linalg.norm(sums, axis=-1, keepdims=True), _TINY)
    return vectors
