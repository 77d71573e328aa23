"""What is known of the items that a model knows, by their numbers: what filters and rules ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from recsys_tasks.errors import BundleCorrupt
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import FIRST_ITEM

if TYPE_CHECKING:
    from recsys_tasks.engine.items import Item

Value = str | float | bool


class Columns(msgspec.Struct, forbid_unknown_fields=True):
    """An entry for each item of a vocabulary; times in seconds since 1970. None is what is not known, or no end."""

    price: list[float | None]
    available_from: list[float | None]
    available_until: list[float | None]
    properties: list[dict[str, Any]]

    @classmethod
    def unknown(cls, items: int) -> Columns:
        """Columns of items of which nothing is known."""
        return cls([None] * items, [None] * items, [None] * items, [{}] * items)

    @classmethod
    def load(cls, path: Path, items: int) -> Columns:
        """Reads what `save` wrote.

        Raises:
            BundleCorrupt: it is not of so many items.
        """
        found = msgspec.json.decode(path.read_bytes(), type=cls)
        lengths = {len(getattr(found, name)) for name in found.__struct_fields__}
        if lengths != {items}:
            raise BundleCorrupt(f"{path.name} has columns of {sorted(lengths)} items; the vocabulary has {items}")
        return found

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        path.write_bytes(msgspec.json.encode(self))


class Coded:
    """A text of each item, as a number [V] into the different ones; what has none has -1."""

    def __init__(self, texts: Sequence[str]) -> None:
        different = {text: code for code, text in enumerate(dict.fromkeys(text for text in texts if text))}
        self.texts = tuple(different)
        self.codes = np.full(len(texts) + FIRST_ITEM, -1, np.int64)
        self.codes[FIRST_ITEM:] = [different.get(text, -1) for text in texts]

    def among(self, wanted: Sequence[bool]) -> np.ndarray:
        """Which items [V] have one of the texts that are wanted, an entry each."""
        chosen = np.append(np.asarray(wanted, bool), False)  # the last one is for those with none
        found: np.ndarray = chosen[self.codes]
        return found


class Catalogue:
    """The items of a vocabulary, with what is known beside their titles."""

    def __init__(self, vocabulary: Vocabulary, columns: Columns) -> None:
        self.vocabulary = vocabulary
        self._columns = columns
        self._properties: dict[str, list[Any]] = {}
        self._available: tuple[int, np.ndarray] | None = None

    def with_items(self, vocabulary: Vocabulary, told: Mapping[str, Item]) -> Catalogue:
        """The same for a vocabulary with more items at its end, with what was told of some items anew."""
        later = Columns.unknown(len(vocabulary.item_ids) - len(self._columns.price))
        columns = Columns(
            *([*getattr(self._columns, name), *getattr(later, name)] for name in Columns.__struct_fields__)
        )
        for item_id, item in told.items():
            place = vocabulary.number_of[item_id] - FIRST_ITEM
            columns.price[place] = item.price
            columns.available_from[place] = item.available_from.timestamp() if item.available_from else None
            columns.available_until[place] = item.available_until.timestamp() if item.available_until else None
            columns.properties[place] = item.properties
        return Catalogue(vocabulary, columns)

    @cached_property
    def price(self) -> np.ndarray:
        """Prices [V]; NaN where there is none."""
        return _numbers(self._columns.price, np.nan)

    @cached_property
    def categories(self) -> Coded:
        """Category paths."""
        return Coded(self.vocabulary.category_paths)

    @cached_property
    def brands(self) -> Coded:
        """Brands."""
        return Coded(self.vocabulary.brands)

    def available(self, now: float) -> np.ndarray | None:
        """Which items [V] are to be had at a time; None for all. The same array until an item comes or goes."""
        if not self._ends:
            return None
        began, ended = self._availability
        changes = int(np.searchsorted(self._changes, now, side="right"))
        if self._available is None or self._available[0] != changes:
            self._available = changes, (began <= now) & (now < ended)
        return self._available[1]

    def property(self, name: str) -> list[Any]:
        """A property of each item, in the order of the vocabulary; None where it has none."""
        if name not in self._properties:
            self._properties[name] = [entry.get(name) for entry in self._columns.properties]
        return self._properties[name]

    @cached_property
    def _ends(self) -> bool:
        columns = self._columns
        return any(moment is not None for moment in (*columns.available_from, *columns.available_until))

    @cached_property
    def _availability(self) -> tuple[np.ndarray, np.ndarray]:
        return _numbers(self._columns.available_from, -np.inf), _numbers(self._columns.available_until, np.inf)

    @cached_property
    def _changes(self) -> np.ndarray:
        """When an item comes or goes, in order."""
        return np.unique(np.concatenate(self._availability))


def _numbers(values: Sequence[float | None], unknown: float) -> np.ndarray:
    found = np.full(len(values) + FIRST_ITEM, unknown)
    found[FIRST_ITEM:] = [unknown if value is None else value for value in values]
    return found
