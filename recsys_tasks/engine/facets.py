"""Facets: counts of the values that a field has among search results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from heapq import nsmallest
from typing import Any

import numpy as np

from recsys_tasks.engine.catalog import Catalog, CodedColumn
from recsys_tasks.names import CATEGORY_SEPARATOR, FIRST_ITEM
from recsys_tasks.wire.filters import PROPERTY
from recsys_tasks.wire.items import FacetValue

_MAX_VALUES = 100  # of one field, the most frequent
_PRICE_RANGES = 5


def count_facet(catalog: Catalog, numbers: np.ndarray, field: str) -> list[FacetValue]:
    """Returns the values of a field among items and how many items have each, the most frequent first.

    A filter on a value finds as many of these items as its count says.

    Args:
        catalog: the items.
        numbers: item numbers [N].
        field: `category` (each level of the paths, for filters with `under`), `brand`, `price` (ranges, in ascending
            order) or `properties.NAME`.
    """
    if field == "price":
        return _price_ranges(catalog.price[numbers])
    if field == "brand":
        return _most_frequent(_count_codes(catalog.brands, numbers).items())
    if field == "category":
        return _most_frequent(_count_levels(_count_codes(catalog.categories, numbers)).items())
    values = catalog.property(field.removeprefix(PROPERTY))
    counts = _count_values(values[number - FIRST_ITEM] for number in numbers.tolist())
    return _most_frequent([(value, count) for (_, value), count in counts.items()])


def _count_codes(column: CodedColumn, numbers: np.ndarray) -> Counter[str]:
    codes, counts = np.unique(column.codes[numbers], return_counts=True)
    return Counter({column.values[code]: int(count) for code, count in zip(codes, counts, strict=True) if code >= 0})


def _count_levels(paths: Counter[str]) -> Counter[str]:
    """Counts of all paths and of those above them."""
    levels = Counter[str]()
    for path, count in paths.items():
        names = path.split(CATEGORY_SEPARATOR)
        for depth in range(1, len(names) + 1):
            levels[CATEGORY_SEPARATOR.join(names[:depth])] += count
    return levels


def _count_values(values: Iterable[Any]) -> Counter[tuple[bool, Any]]:
    """Counts of strings, numbers and booleans, each entry of a list once per item."""
    counts = Counter[tuple[bool, Any]]()  # booleans apart: 1 == True
    for value in values:
        entries = value if isinstance(value, list) else [value]
        counts.update({(isinstance(entry, bool), entry) for entry in entries if isinstance(entry, str | float | int)})
    return counts


def _most_frequent(counts: Iterable[tuple[Any, int]]) -> list[FacetValue]:
    ordered = nsmallest(_MAX_VALUES, counts, key=lambda item: (-item[1], str(item[0])))
    return [FacetValue(count, value) for value, count in ordered]


def _price_ranges(prices: np.ndarray) -> list[FacetValue]:
    """About equally many items per range; the bounds are prices that occur."""
    prices = np.sort(prices[~np.isnan(prices)])
    if not len(prices):
        return []
    bounds = np.unique(prices[np.arange(1, _PRICE_RANGES) * len(prices) // _PRICE_RANGES])
    starts = np.unique([0, *np.searchsorted(prices, bounds)])
    parts = np.split(prices, starts[1:])
    return [FacetValue(len(part), at_least=float(part[0]), at_most=float(part[-1])) for part in parts]
