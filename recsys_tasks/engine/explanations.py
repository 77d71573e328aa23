"""Explanations of recommended items by the user's most similar action."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from recsys_tasks.engine.scoring import ItemVectors
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import ADD_TO_CART, EVENT_TYPE_CODES, FIRST_ITEM, PURCHASE, VIEW

_MAX_ACTIONS = 20
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
    """Explains lists of one model.

    Args:
        vocabulary: of the model.
        vectors: of its items.
    """

    def __init__(self, vocabulary: Vocabulary, vectors: ItemVectors) -> None:
        self._vocabulary = vocabulary
        self._vectors = vectors

    def explain(self, items: Sequence[int], actions: ActionHistory) -> list[Explanation]:
        """Returns an explanation for each item: a repeated purchase, or the action with the most similar item."""
        if not actions.latest or not items:
            return [(POPULAR, None)] * len(items)
        latest = actions.latest[::-1]
        similarity = self._vectors[np.asarray(items)] @ self._vectors[np.asarray([number for number, _ in latest])].T
        nearest = similarity.argmax(1).tolist()  # ties: the latest action
        because = {index: self._because(*latest[index]) for index in set(nearest)}
        return [
            (BOUGHT_AGAIN, self._vocabulary.item_id(number))
            if actions.purchase_counts.get(number, 0) >= _MIN_REPURCHASES
            else because[index]
            for number, index in zip(items, nearest, strict=True)
        ]

    def _because(self, number: int, kind: int) -> Explanation:
        return f"because {_PHRASES[kind]} {self._vocabulary.title(number)}", self._vocabulary.item_id(number)
