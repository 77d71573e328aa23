"""What a shop wants shown more, less, at a place or not too often: its rules, in a TOML file.

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

from recsys_tasks.engine.filters import Filter, check
from recsys_tasks.errors import InputError


class Weigh(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Multiplies the scores of some items: above 1 boosts, below 1 buries."""

    filter: Filter
    factor: Annotated[float, msgspec.Meta(ge=0, le=1_000)]


class Pin(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An item that stands at a place, counted from 1, wherever it may be shown at all."""

    item_id: str
    position: Annotated[int, msgspec.Meta(ge=1, le=500)]


class Rules(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """All rules of a shop; none by default."""

    weigh: list[Weigh] = []
    pin: list[Pin] = []
    at_most_per_category: Annotated[int, msgspec.Meta(ge=1, le=500)] | None = None


def read_rules(path: Path | None) -> Rules:
    """The rules in a file; none without one.

    Raises:
        InputError: the file cannot be read, or is not what it should be; says where.
    """
    if path is None:
        return Rules()
    try:
        rules = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Rules)
        for place, weigh in enumerate(rules.weigh):
            check(weigh.filter, f"$.weigh[{place}].filter")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError, InputError) as error:
        raise InputError(f"The rules in {path} cannot be used: {error}") from error
    return rules
