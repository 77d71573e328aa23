"""Items in requests and responses, and their field types."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

_NO_NUL = r"^[^\x00]*$"

Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=_NO_NUL)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1_000, pattern=_NO_NUL)]
Timestamp = Annotated[datetime, msgspec.Meta(tz=True)]


class Item(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Attributes of an item, in the columns of the warehouse; an omitted attribute is unknown."""

    title: Text
    category_path: Annotated[str, msgspec.Meta(max_length=1_000, pattern=_NO_NUL)] = ""
    brand: Annotated[str, msgspec.Meta(max_length=200, pattern=_NO_NUL)] = ""
    price: Annotated[float, msgspec.Meta(ge=0, le=1e12)] | None = None
    properties: dict[str, Any] = {}
    available_from: Timestamp | None = None
    available_until: Timestamp | None = None


class ItemChanges(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """New values of some attributes of an item; omitted attributes stay, null makes one unknown. `properties` are
    replaced as a whole."""

    title: Text | msgspec.UnsetType = msgspec.UNSET
    category_path: str | msgspec.UnsetType = msgspec.UNSET
    brand: str | msgspec.UnsetType = msgspec.UNSET
    price: float | msgspec.UnsetType | None = msgspec.UNSET
    properties: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    available_from: Timestamp | msgspec.UnsetType | None = msgspec.UNSET
    available_until: Timestamp | msgspec.UnsetType | None = msgspec.UNSET


Sort = Literal["relevance", "price_ascending", "price_descending", "popularity", "newest"]


class Relaxation(msgspec.Struct, frozen=True):
    """How a query was changed to find more items.

    Attributes:
        kind: `spelling` (a word was corrected), `words` (some words may be missing) or `meaning` (the names of
            categories that the query may mean).
        searched: what was searched.
        instead_of: what it replaces.
    """

    kind: Literal["spelling", "words", "meaning"]
    searched: str
    instead_of: str


class FacetValue(msgspec.Struct, frozen=True, omit_defaults=True):
    """A value of a field, or a range of prices with both ends, and the number of results that have it."""

    count: int
    value: str | float | bool | None = None
    at_least: float | None = None
    at_most: float | None = None


class Recommendation(msgspec.Struct, frozen=True):
    """A recommended item.

    Attributes:
        score: the model's probability of the item, or the score of another source.
        source: `model`, `search`, `interests`, `popular`, `neighbours`, `personal_frequency` or `pinned`.
        reason: explanation as text, empty where the data show none; because_of: id of the item it refers to, if any.
        data: the fields that the request asked for.
    """

    item_id: str
    title: str
    score: float
    source: str
    reason: str
    because_of: str | None = None
    data: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class SearchResult(Recommendation, frozen=True):
    """A search result.

    Attributes:
        highlight: the title as HTML with the matching words in `<em>`, if the request asked for it.
        signals: the shares of the score by ranking signal, if the request asked for an explanation.
    """

    highlight: str | msgspec.UnsetType = msgspec.UNSET
    signals: dict[str, float] | msgspec.UnsetType = msgspec.UNSET
