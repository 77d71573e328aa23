"""Merchandising rules of a shop, from a TOML file: boost, bury, pin, and limit items per category.

at_most_per_category = 5

[[weigh]]
filter = { field = "brand", one_of = ["Our own"] }
factor = 1.5                     # below 1 buries

[[pin]]
item_id = "gift-card"
position = 1
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec

from recsys_tasks.errors import InputError
from recsys_tasks.wire.filters import Filter, check_filter


class WeightRule(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Multiplies the scores of matching items: a factor above 1 boosts, below 1 buries."""

    filter: Filter
    factor: Annotated[float, msgspec.Meta(ge=0, le=1_000)]


class Pin(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Places an item at a position, counted from 1, in every list that may show it."""

    item_id: str
    position: Annotated[int, msgspec.Meta(ge=1, le=500)]


class MerchandisingRules(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """All rules of a shop; none by default."""

    weigh: list[WeightRule] = []
    pin: list[Pin] = []
    at_most_per_category: Annotated[int, msgspec.Meta(ge=1, le=500)] | None = None


def read_rules(path: Path | None) -> MerchandisingRules:
    """Reads the rules from a TOML file; returns no rules without a path.

    Raises:
        InputError: the file cannot be read or is not valid; names the field.
    """
    if path is None:
        return MerchandisingRules()
    try:
        rules = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), MerchandisingRules)
        for index, rule in enumerate(rules.weigh):
            check_filter(rule.filter, f"$.weigh[{index}].filter")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError, InputError) as error:
        raise InputError(f"The merchandising rules in {path} are not valid: {error}") from error
    return rules
