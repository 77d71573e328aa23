"""Why an item is in a list: by what the user did that is most like it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from recsys_tasks.engine.scoring import ItemVectors
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import ADD_TO_CART, EVENT_TYPE_CODES, FIRST_ITEM, PURCHASE, VIEW

_LOOKED_AT = 20  # the user's last actions, of the session and before
_AGAIN = 2
_DID: Final = {
    EVENT_TYPE_CODES[VIEW]: "you viewed",
    EVENT_TYPE_CODES[ADD_TO_CART]: "you put in the cart",
    EVENT_TYPE_CODES[PURCHASE]: "you bought",
}
_BUYS: Final = EVENT_TYPE_CODES[PURCHASE]
BOUGHT_AGAIN: Final = "often bought again"
POPULAR: Final = "popular"
RISING: Final = "many want it now"
PINNED: Final = "chosen by the shop"
LIKED: Final = "fits what the user likes"
MATCHES: Final = "matches the search"
Reason = tuple[str, str | None]
"""A text, and the id of the item that it is about, if it is about one."""


class Deeds(NamedTuple):
    """What a user did that explains something: item numbers and kinds of the last few, oldest first, and how often each
    item was bought."""

    lately: Sequence[tuple[int, int]]
    bought: Mapping[int, int]

    @classmethod
    def of(cls, item: np.ndarray, kind: np.ndarray) -> Deeds:
        """Of events [N], oldest first."""
        return cls((), {}).and_then(np.stack([item, kind]))

    def and_then(self, columns: np.ndarray) -> Deeds:
        """These and later ones, whose items and kinds are the first two of some columns [C, N]."""
        item, kind = columns[:2].tolist()
        new = [deed for deed in zip(item, kind, strict=True) if deed[0] >= FIRST_ITEM and deed[1] in _DID]
        bought = [number for number, code in new if code == _BUYS]
        return Deeds(
            [*self.lately, *new][-_LOOKED_AT:], self.bought if not bought else Counter(self.bought) + Counter(bought)
        )


class Reasons:
    """Explains lists of one model.

    Args:
        vocabulary: its items.
        vectors: of the items.
    """

    def __init__(self, vocabulary: Vocabulary, vectors: ItemVectors) -> None:
        self._vocabulary = vocabulary
        self._vectors = vectors

    def of(self, shown: Sequence[int], deeds: Deeds) -> list[Reason]:
        """A reason for each item that is shown, by what the user did."""
        if not deeds.lately or not shown:
            return [(POPULAR, None)] * len(shown)
        known = deeds.lately[::-1]
        likeness = self._vectors[np.asarray(shown)] @ self._vectors[np.asarray([number for number, _ in known])].T
        nearest = likeness.argmax(1).tolist()  # the latest of equal ones
        because = {place: self._because(*known[place]) for place in set(nearest)}
        return [
            (BOUGHT_AGAIN, self._vocabulary.item_id(number))
            if deeds.bought.get(number, 0) >= _AGAIN
            else because[place]
            for number, place in zip(shown, nearest, strict=True)
        ]

    def _because(self, number: int, kind: int) -> Reason:
        return f"because {_DID[kind]} {self._vocabulary.title(number)}", self._vocabulary.item_id(number)
