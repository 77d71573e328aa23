"""Search settings of a shop: languages, synonyms, field weights and signal weights, from a TOML file."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import msgspec

from recsys_tasks.errors import InputError

DEFAULTS = "search.toml"
Weight = Annotated[float, msgspec.Meta(ge=0, le=1_000)]


class FieldWeights(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Weight of a match in each field of an item."""

    title: Weight
    brand: Weight
    category: Weight
    description: Weight
    properties: Weight
    joined: Weight
    phrase: Weight


class SignalWeights(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Weight of each ranking signal; see `search.toml`."""

    text: Weight
    words: Weight
    name: Weight
    meaning: Weight
    clicks: Weight
    popularity: Weight
    personal: Weight


class SearchSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Everything that a shop can set for search.

    Attributes:
        languages: Snowball stemmers, or `auto`.
        synonyms: path of a synonym file; empty for none. A relative one is beside the settings file.
        learned_weights: whether weights that a bundle learned take precedence over `signals`.
    """

    languages: Annotated[list[str], msgspec.Meta(min_length=1)]
    synonyms: str
    learned_weights: bool
    fields: FieldWeights
    signals: SignalWeights


def read_search_settings(path: Path | None) -> SearchSettings:
    """Returns the settings in a TOML file, completed by the defaults; the defaults alone without a path.

    Raises:
        InputError: the file cannot be read or is not valid; names the field.
    """
    values = tomllib.loads(files("recsys_tasks.search").joinpath(DEFAULTS).read_text(encoding="utf-8"))
    if path is None:
        return msgspec.convert(values, SearchSettings)
    try:
        settings = msgspec.convert(_merged(values, tomllib.loads(path.read_text(encoding="utf-8"))), SearchSettings)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InputError(f"The search settings in {path} are not valid: {error}") from error
    if not settings.synonyms:
        return settings
    return msgspec.structs.replace(settings, synonyms=str(path.parent / settings.synonyms))


def _merged(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The defaults, with the values of a file in their place; tables are merged."""
    merged = defaults | values
    for name, value in values.items():
        if isinstance(value, dict) and isinstance(defaults.get(name), dict):
            merged[name] = defaults[name] | value
    return merged
