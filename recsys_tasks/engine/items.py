"""Items as callers describe them, and as lists show them; the types of their fields."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec

_NO_NUL = r"^[^\x00]*$"

Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=_NO_NUL)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1_000, pattern=_NO_NUL)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Item(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is known of an item, in the columns of the warehouse; all that is left out is not known."""

    title: Text
    category_path: Annotated[str, msgspec.Meta(max_length=1_000, pattern=_NO_NUL)] = ""
    brand: Annotated[str, msgspec.Meta(max_length=200, pattern=_NO_NUL)] = ""
    price: Annotated[float, msgspec.Meta(ge=0, le=1e12)] | None = None
    properties: dict[str, Any] = {}
    available_from: Moment | None = None
    available_until: Moment | None = None


class Recommendation(msgspec.Struct, frozen=True):
    """An item with its share of the probability, where it comes from (`model`, `search`, `interests`, `popular`,
    `neighbours` or `pinned`), and why it is there: in words, and the item that they are about, if about one."""

    item_id: str
    title: str
    score: float
    source: str
    reason: str
    because_of: str | None = None
