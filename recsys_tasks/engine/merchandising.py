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

import msgspec

from recsys_tasks.errors import InputError
from recsys_tasks.wire.rules import MerchandisingRules, check_rules


def read_rules(path: Path | None) -> MerchandisingRules:
    """Reads the rules from a TOML file; returns no rules without a path.

    Raises:
        InputError: the file cannot be read or is not valid; names the field.
    """
    if path is None:
        return MerchandisingRules()
    try:
        rules = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), MerchandisingRules)
        check_rules(rules, "$")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError, InputError) as error:
        raise InputError(f"The merchandising rules in {path} are not valid: {error}") from error
    return rules
