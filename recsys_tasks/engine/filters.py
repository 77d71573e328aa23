"""Evaluates item filters (`wire.filters`) to masks over the catalog; an LRU cache keeps the latest masks."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgspec
import numpy as np

from recsys_tasks.engine.catalog import Catalog, CodedColumn
from recsys_tasks.names import CATEGORY_SEPARATOR, FIRST_ITEM
from recsys_tasks.wire.filters import PROPERTY, Filter, Value

_CACHED_MASKS = 64


class FilterEvaluator:
    """Evaluates filters on a catalog; an LRU cache keeps the latest masks."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._masks: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def mask(self, root: Filter) -> np.ndarray:
        """Returns which items [V] fulfil a validated filter; read-only, because it is cached."""
        key = msgspec.json.encode(root)
        mask = self._masks.get(key)
        if mask is None:
            mask = self._evaluate(root)
            mask[:FIRST_ITEM] = False
            self._masks[key] = mask
            if len(self._masks) > _CACHED_MASKS:
                self._masks.popitem(last=False)
        else:
            self._masks.move_to_end(key)
        return mask

    def _evaluate(self, condition: Filter) -> np.ndarray:
        operands = [self._evaluate(operand) for _, operand in condition.operands()]
        if operands:
            mask: np.ndarray = np.any(operands, axis=0) if condition.any is not None else np.all(operands, axis=0)
            return mask if condition.not_ is None else ~mask
        field = condition.field or ""
        if condition.under is not None:
            return _under(self._catalog.categories, condition.under)
        if condition.one_of is not None:
            return self._equal(field, condition.one_of)
        return self._between(field, condition.at_least, condition.at_most)

    def _equal(self, field: str, wanted: list[Value]) -> np.ndarray:
        catalog = self._catalog
        if field == "item_id":
            numbers = catalog.vocabulary.numbers([value for value in wanted if isinstance(value, str)])
            return np.isin(np.arange(len(catalog.vocabulary)), numbers[numbers >= FIRST_ITEM])
        if field in ("category", "brand"):
            column = catalog.categories if field == "category" else catalog.brands
            allowed = set(wanted)
            return column.mask([value in allowed for value in column.values])
        if field == "price":
            return np.isin(catalog.price, [value for value in wanted if not isinstance(value, str)])
        values = catalog.property(field.removeprefix(PROPERTY))
        return _pad([_has_one_of(value, wanted) for value in values])

    def _between(self, field: str, low: float | None, high: float | None) -> np.ndarray:
        if field == "price":
            values = self._catalog.price
        else:
            stored = self._catalog.property(field.removeprefix(PROPERTY))
            values = np.full(len(stored) + FIRST_ITEM, np.nan)
            values[FIRST_ITEM:] = [value if _is_number(value) else np.nan for value in stored]
        low, high = (-np.inf if low is None else low), (np.inf if high is None else high)
        mask: np.ndarray = (low <= values) & (values <= high)
        return mask


def _under(categories: CodedColumn, paths: list[str]) -> np.ndarray:
    prefixes = tuple(path + CATEGORY_SEPARATOR for path in paths)
    return categories.mask([(value + CATEGORY_SEPARATOR).startswith(prefixes) for value in categories.values])


def _pad(flags: list[bool]) -> np.ndarray:
    """Prepends False for padding and the unknown item."""
    return np.concatenate([np.zeros(FIRST_ITEM, bool), np.asarray(flags, bool)])


def _has_one_of(value: Any, wanted: list[Value]) -> bool:
    own = value if isinstance(value, list) else [value]
    # Types are compared too: in Python `1 == True`, but a boolean property does not equal a number.
    return any(_type_of(entry) == _type_of(other) and entry == other for entry in own for other in wanted)


def _type_of(value: Any) -> type:
    # Integers and floats count as one type.
    return float if _is_number(value) else type(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
