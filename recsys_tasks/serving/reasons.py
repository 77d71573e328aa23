"""Why an item is in a list: by what the user did that is most like it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import ADD_TO_CART, EVENT_TYPE_CODES, FIRST_ITEM, PURCHASE, VIEW
from recsys_tasks.serving.scoring import ItemVectors

_LOOKED_AT = 20  # the user's last actions, of the session and before
_AGAIN = 2
_DID: Final = {
    EVENT_TYPE_CODES[VIEW]: "you viewed",
    EVENT_TYPE_CODES[ADD_TO_CART]: "you put in the cart",
    EVENT_TYPE_CODES[PURCHASE]: "you bought",
}
_EXPLAINS = np.isin(np.arange(max(EVENT_TYPE_CODES.values()) + 1), list(_DID))
BOUGHT_AGAIN: Final = "often bought again"
POPULAR: Final = "popular"
PINNED: Final = "chosen by the shop"
LIKED: Final = "fits what the user likes"
MATCHES: Final = "matches the search"
Reason = tuple[str, str | None]
"""A text, and the id of the item that it is about, if it is about one."""


class Reasons:
    """Explains lists of one model.

    Args:
        vocabulary: its items.
        vectors: of the items.
    """

    def __init__(self, vocabulary: Vocabulary, vectors: ItemVectors) -> None:
        self._vocabulary = vocabulary
        self._vectors = vectors

    def of(self, shown: Sequence[int], item: np.ndarray, kind: np.ndarray) -> list[Reason]:
        """A reason for each item that is shown.

        Args:
            shown: item numbers.
            item, kind: numbers and kinds of what the user did [N], oldest first.
        """
        bought = Counter(item[kind == EVENT_TYPE_CODES[PURCHASE]].tolist())
        known = np.flatnonzero((item >= FIRST_ITEM) & _EXPLAINS[kind])[-_LOOKED_AT:][::-1]
        if not len(known) or not shown:
            return [(POPULAR, None)] * len(shown)
        likeness = self._vectors[np.asarray(shown)] @ self._vectors[item[known]].T
        nearest = known[likeness.argmax(1)]  # the latest of equal ones
        return [
            (BOUGHT_AGAIN, self._vocabulary.item_id(number))
            if bought[number] >= _AGAIN
            else self._because(int(item[place]), int(kind[place]))
            for number, place in zip(shown, nearest.tolist(), strict=True)
        ]

    def _because(self, number: int, kind: int) -> Reason:
        return f"because {_DID[kind]} {self._vocabulary.title(number)}", self._vocabulary.item_id(number)
