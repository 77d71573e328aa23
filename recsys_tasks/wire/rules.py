"""Merchandising rules: boost, bury, pin, limit items per category, and synonyms of searches."""

from __future__ import annotations

from typing import Annotated

import msgspec

from recsys_tasks.errors import InputError
from recsys_tasks.wire.filters import Filter, check_filter
from recsys_tasks.wire.items import Identifier


class WeightRule(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Multiplies the scores of matching items: a factor above 1 boosts, below 1 buries."""

    filter: Filter
    factor: Annotated[float, msgspec.Meta(ge=0, le=1_000)]


class Pin(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Places an item at a position, counted from 1, in every list that may show it."""

    item_id: Identifier
    position: Annotated[int, msgspec.Meta(ge=1, le=500)]


class Synonym(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A search with `phrase` also finds items with all words of `means`, with weight 0.8; not the reverse."""

    phrase: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    means: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class MerchandisingRules(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """Rules for lists; none by default."""

    weigh: Annotated[list[WeightRule], msgspec.Meta(max_length=200)] = []
    pin: Annotated[list[Pin], msgspec.Meta(max_length=500)] = []
    at_most_per_category: Annotated[int, msgspec.Meta(ge=1, le=500)] | None = None
    synonyms: Annotated[list[Synonym], msgspec.Meta(max_length=1_000)] = []


def check_rules(rules: MerchandisingRules, path: str) -> int:
    """Checks what the types of rules do not say; returns the number of conditions in their filters.

    Raises:
        InputError: a filter is not valid, an item or a position is pinned twice, or a synonym has no word; names the
            field.
    """
    for field in ("item_id", "position"):
        if len({getattr(pin, field) for pin in rules.pin}) < len(rules.pin):
            raise InputError(f"two pins have the same `{field}` - at `{path}.pin`")
    for index, synonym in enumerate(rules.synonyms):
        for field in ("phrase", "means"):
            if not any(map(str.isalnum, getattr(synonym, field))):
                raise InputError(f"a synonym needs a word - at `{path}.synonyms[{index}].{field}`")
    return sum(check_filter(rule.filter, f"{path}.weigh[{index}].filter") for index, rule in enumerate(rules.weigh))
