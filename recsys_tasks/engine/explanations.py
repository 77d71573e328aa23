"""Explanations of recommended items by the user's actions, where the data show a relation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np

from recsys_tasks.engine.catalog import Catalog
from recsys_tasks.engine.scoring import ItemVectors
from recsys_tasks.features.item_neighbors import ItemNeighbors
from recsys_tasks.names import ADD_TO_CART, CATEGORY_SEPARATOR, EVENT_TYPE_CODES, FIRST_ITEM, PURCHASE, VIEW

_MAX_ACTIONS = 20
_NUM_SIGMAS, _MIN_LOG_LIFT, _TINY = 2.0, math.log(2), 1e-12
_MIN_REPURCHASES = 2
_PHRASES: Final = {
    EVENT_TYPE_CODES[VIEW]: "you viewed",
    EVENT_TYPE_CODES[ADD_TO_CART]: "you put in the cart",
    EVENT_TYPE_CODES[PURCHASE]: "you bought",
}
_PURCHASE_CODE: Final = EVENT_TYPE_CODES[PURCHASE]
BOUGHT_AGAIN: Final = "often bought again"
POPULAR: Final = "popular"
TRENDING: Final = "many want it now"
PINNED: Final = "chosen by the shop"
NO_REASON: Final = ""
MATCHES_INTERESTS: Final = "fits what the user likes"
MATCHES_QUERY: Final = "matches the search"
Explanation = tuple[str, str | None]
"""A text, and the id of the item it refers to, if any."""


class ActionHistory(NamedTuple):
    """The user's actions that explain recommendations.

    Attributes:
        latest: item number and kind of the latest actions, oldest first.
        purchase_counts: purchases by item number.
    """

    latest: Sequence[tuple[int, int]]
    purchase_counts: Mapping[int, int]

    @classmethod
    def from_events(cls, item: np.ndarray, kind: np.ndarray) -> ActionHistory:
        """The actions among events [N], oldest first."""
        return cls((), {}).append(np.stack([item, kind]))

    def append(self, columns: np.ndarray) -> ActionHistory:
        """Returns this history followed by later events: columns [C, N], items and kinds first."""
        item, kind = columns[:2].tolist()
        new = [action for action in zip(item, kind, strict=True) if action[0] >= FIRST_ITEM and action[1] in _PHRASES]
        purchases = [number for number, code in new if code == _PURCHASE_CODE]
        return ActionHistory(
            [*self.latest, *new][-_MAX_ACTIONS:],
            self.purchase_counts if not purchases else Counter(self.purchase_counts) + Counter(purchases),
        )


class Explainer:
    """Explains lists of one model, by what the data show; an item without evidence for a reason has none.

    Args:
        catalog: of the model.
        vectors: of its items.
        neighbors: of its items, by co-occurrence.
        popularity: shares of all items [V].
    """

    def __init__(
        self,
        catalog: Catalog,
        vectors: ItemVectors,
        neighbors: ItemNeighbors,
        popularity: np.ndarray,
    ) -> None:
        self._catalog, self._vocabulary = catalog, catalog.vocabulary
        self._vectors, self._neighbors, self._popularity = vectors, neighbors, popularity

    def prepare(self) -> None:
        """Computes what depends on all items, so that no list waits for it."""
        _ = self._moments, self._category_means

    def explain(self, items: Sequence[int], actions: ActionHistory) -> list[Explanation]:
        """Returns an explanation for each item: a repeated purchase; else the action on the most similar item among
        those that are unusually similar, or occur with it unusually often; else its popularity in its category, if it
        is above the average there; else an empty text."""
        if not actions.latest or not items:
            return [(POPULAR, None)] * len(items)
        latest = actions.latest[::-1]
        shown, acted_on = np.asarray(items), np.asarray([number for number, _ in latest])
        similarity = self._vectors[shown] @ self._vectors[acted_on].T
        is_evidence = (similarity >= self._unusual(acted_on)) | self._occur_together(shown, acted_on)
        nearest = np.where(is_evidence, similarity, -np.inf).argmax(1).tolist()  # ties: the latest action
        has_evidence = is_evidence.any(1).tolist()
        return [
            (BOUGHT_AGAIN, self._vocabulary.item_id(number))
            if actions.purchase_counts.get(number, 0) >= _MIN_REPURCHASES
            else self._because(*latest[index])
            if has_reason
            else (self._popularity_reason(number), None)
            for number, index, has_reason in zip(items, nearest, has_evidence, strict=True)
        ]

    def _because(self, number: int, kind: int) -> Explanation:
        return f"because {_PHRASES[kind]} {self._vocabulary.title(number)}", self._vocabulary.item_id(number)

    def _unusual(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the cosine above which an item is unusually similar to each of some items [L]: two standard
        deviations above the mean."""
        mean, covariance = self._moments
        vectors = self._vectors[numbers]
        variances = ((vectors @ covariance) * vectors).sum(1)
        limits: np.ndarray = vectors @ mean + _NUM_SIGMAS * np.sqrt(np.maximum(variances, 0.0))
        return limits

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean [D] and covariance [D, D] of the item vectors, from a sample: those of the cosines with any item follow
        from them."""
        sample = self._vectors.sample[0]
        return sample.mean(0), np.cov(sample, rowvar=False).astype(np.float32)

    def _occur_together(self, shown: np.ndarray, acted_on: np.ndarray) -> np.ndarray:
        """Whether each item [N] occurs with each of others [L] twice as often as its popularity predicts [N, L]."""
        together = np.zeros((len(shown), len(acted_on)), bool)
        found = self._neighbors.candidates(acted_on)
        order = np.argsort(shown)
        place = order[np.minimum(np.searchsorted(shown, found.item, sorter=order), len(shown) - 1)]
        matches = np.flatnonzero(shown[place] == found.item)
        expected = np.log(np.maximum(self._popularity[found.item[matches]], _TINY))
        frequent = matches[found.log_weight[matches] >= expected + _MIN_LOG_LIFT]
        together[place[frequent], found.token[frequent]] = True
        return together

    def _popularity_reason(self, number: int) -> str:
        categories = self._catalog.categories
        code = int(categories.codes[number])
        if code < 0 or self._popularity[number] <= self._category_means[code]:
            return NO_REASON
        return f"popular in {categories.values[code].rsplit(CATEGORY_SEPARATOR, 1)[-1]}"

    @cached_property
    def _category_means(self) -> np.ndarray:
        """Mean popularity of the items of each category."""
        categories = self._catalog.categories
        codes = categories.codes + 1
        num_codes = len(categories.values) + 1
        totals = np.bincount(codes, self._popularity, num_codes)
        means: np.ndarray = (totals / np.maximum(np.bincount(codes, minlength=num_codes), 1))[1:]
        return means
