"""Item metadata of a vocabulary as columns: price, availability, category, brand and properties, by item number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from recsys_tasks.errors import BundleCorrupt
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import FIRST_ITEM
from recsys_tasks.wire.filters import PROPERTY
from recsys_tasks.wire.items import Item


class CatalogColumns(msgspec.Struct, forbid_unknown_fields=True):
    """One entry per item of a vocabulary; times in seconds since 1970. None means unknown or unbounded."""

    price: list[float | None]
    available_from: list[float | None]
    available_until: list[float | None]
    properties: list[dict[str, Any]]

    @classmethod
    def empty(cls, num_items: int) -> CatalogColumns:
        """Returns columns without any metadata."""
        return cls([None] * num_items, [None] * num_items, [None] * num_items, [{}] * num_items)

    @classmethod
    def load(cls, path: Path, num_items: int) -> CatalogColumns:
        """Reads a file written by `save`.

        Raises:
            BundleCorrupt: a column does not have `num_items` entries.
        """
        columns = msgspec.json.decode(path.read_bytes(), type=cls)
        lengths = {len(getattr(columns, name)) for name in columns.__struct_fields__}
        if lengths != {num_items}:
            raise BundleCorrupt(f"{path.name} has columns of {sorted(lengths)} items; the vocabulary has {num_items}")
        return columns

    def save(self, path: Path) -> None:
        """Writes the columns as JSON."""
        path.write_bytes(msgspec.json.encode(self))


class CodedColumn:
    """A dictionary-encoded text column.

    Attributes:
        values: the distinct texts.
        codes: index into `values` of each item number's text [V]; -1 for none.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.values = tuple(text for text in dict.fromkeys(texts) if text)
        code_of = {"": -1, **{text: code for code, text in enumerate(self.values)}}
        self.codes = np.full(len(texts) + FIRST_ITEM, -1, np.int64)
        self.codes[FIRST_ITEM:] = np.fromiter(map(code_of.__getitem__, texts), np.int64, len(texts))

    def counts(self) -> Iterator[tuple[str, int]]:
        """Yields each value with the number of its items."""
        return zip(self.values, np.bincount(self.codes + 1, minlength=len(self.values) + 1)[1:].tolist(), strict=True)

    def mask(self, selected: Sequence[bool]) -> np.ndarray:
        """Returns which items [V] have a selected value; `selected` has one entry per value."""
        lookup = np.append(np.asarray(selected, bool), False)  # the last entry is for code -1
        matches: np.ndarray = lookup[self.codes]
        return matches


class Catalog:
    """The items of a vocabulary with their metadata."""

    def __init__(self, vocabulary: Vocabulary, columns: CatalogColumns) -> None:
        self.vocabulary = vocabulary
        self._columns = columns
        self._properties: dict[str, list[Any]] = {}
        self._available: tuple[int, np.ndarray] | None = None

    def with_items(self, vocabulary: Vocabulary, updates: Mapping[str, Item]) -> Catalog:
        """Returns a catalog with updated metadata of some items.

        Args:
            vocabulary: this catalog's vocabulary, possibly with more items at its end.
            updates: item updates by item id.
        """
        added = CatalogColumns.empty(len(vocabulary.item_ids) - len(self._columns.price))
        columns = CatalogColumns(
            *([*getattr(self._columns, name), *getattr(added, name)] for name in CatalogColumns.__struct_fields__)
        )
        for item_id, item in updates.items():
            row = vocabulary.number_of[item_id] - FIRST_ITEM
            columns.price[row] = item.price
            columns.available_from[row] = item.available_from.timestamp() if item.available_from else None
            columns.available_until[row] = item.available_until.timestamp() if item.available_until else None
            columns.properties[row] = item.properties
        return Catalog(vocabulary, columns)

    @cached_property
    def price(self) -> np.ndarray:
        """Prices [V]; NaN for unknown."""
        return _by_number(self._columns.price, np.nan)

    @cached_property
    def categories(self) -> CodedColumn:
        """Category paths."""
        return CodedColumn(self.vocabulary.category_paths)

    @cached_property
    def brands(self) -> CodedColumn:
        """Brands."""
        return CodedColumn(self.vocabulary.brands)

    def available(self, now: float) -> np.ndarray | None:
        """Returns which items [V] are available at a time in seconds since 1970; None if all always are.

        The result is the same array until an item's availability changes, so that callers may cache by identity.
        """
        if not self._is_time_limited:
            return None
        start, end = self._availability
        num_changes = int(np.searchsorted(self._availability_changes, now, side="right"))
        if self._available is None or self._available[0] != num_changes:
            self._available = num_changes, (start <= now) & (now < end)
        return self._available[1]

    @cached_property
    def available_since(self) -> np.ndarray:
        """Start of each item's availability, seconds since 1970 [V]; NaN for unknown."""
        return _by_number(self._columns.available_from, np.nan)

    def properties_of(self, number: int) -> dict[str, Any]:
        """Returns the properties of one item."""
        return self._columns.properties[number - FIRST_ITEM]

    def item(self, number: int) -> Item:
        """Returns all that the catalog knows of one item."""
        row, texts = number - FIRST_ITEM, self.vocabulary
        start, end = (
            None if seconds is None else datetime.fromtimestamp(seconds, UTC)
            for seconds in (self._columns.available_from[row], self._columns.available_until[row])
        )
        return Item(
            texts.titles[row],
            texts.category_paths[row],
            texts.brands[row],
            self._columns.price[row],
            self._columns.properties[row],
            start,
            end,
        )

    def data_of(self, number: int, fields: Sequence[str]) -> dict[str, Any]:
        """Returns the requested fields of one item: `price`, `brand`, `category`, `properties`, or `properties.NAME`.

        None for what is unknown.
        """
        row, properties = number - FIRST_ITEM, self._columns.properties[number - FIRST_ITEM]
        known = {
            "price": self._columns.price[row],
            "brand": self.vocabulary.brands[row] or None,
            "category": self.vocabulary.category_paths[row] or None,
            "properties": properties,
        }
        return {name: known[name] if name in known else properties.get(name.removeprefix(PROPERTY)) for name in fields}

    def property(self, name: str) -> list[Any]:
        """Returns a property of each item in the vocabulary's order; None where an item lacks it."""
        if name not in self._properties:
            self._properties[name] = [entry.get(name) for entry in self._columns.properties]
        return self._properties[name]

    @cached_property
    def _is_time_limited(self) -> bool:
        bounds = self._columns.available_from, self._columns.available_until
        return any(column.count(None) < len(column) for column in bounds)

    @cached_property
    def _availability(self) -> tuple[np.ndarray, np.ndarray]:
        return _by_number(self._columns.available_from, -np.inf), _by_number(self._columns.available_until, np.inf)

    @cached_property
    def _availability_changes(self) -> np.ndarray:
        """Sorted times at which an item becomes available or unavailable."""
        return np.unique(np.concatenate(self._availability))


def _by_number(values: Sequence[float | None], default: float) -> np.ndarray:
    """Returns values by item number [V], with a default for None, padding and the unknown item."""
    column = np.full(len(values) + FIRST_ITEM, default)
    column[FIRST_ITEM:] = [default if value is None else value for value in values]
    return column
