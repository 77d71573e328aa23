"""Items in requests and responses, and their field types."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

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


class Recommendation(msgspec.Struct, frozen=True):
    """A recommended item.

    Attributes:
        score: the model's probability of the item, or the score of another source.
        source: `model`, `search`, `interests`, `popular`, `neighbours`, `personal_frequency` or `pinned`.
        reason: explanation as text; because_of: id of the item it refers to, if any.
    """

    item_id: str
    title: str
    score: float
    source: str
    reason: str
    because_of: str | None = None
