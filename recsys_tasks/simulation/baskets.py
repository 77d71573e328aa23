"""Co-occurrence of items and categories in baskets, observed and expected under independence.

Letters in shapes: N items of baskets, I items, C categories, M items of one category.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array


class Baskets:
    """Items of baskets, and their categories. Baskets of one item say nothing and are left out.

    Args:
        session, item, category: numbers of the basket, the item and its category, each [N]; an item is counted once in
            a basket.
        num_items, num_categories: I and C.
    """

    def __init__(
        self, session: np.ndarray, item: np.ndarray, category: np.ndarray, num_items: int, num_categories: int
    ) -> None:
        rows = np.unique(session * num_items + item, return_index=True)[1]
        _, basket, sizes = np.unique(session[rows], return_inverse=True, return_counts=True)
        is_kept = sizes[basket] > 1
        rows, basket = rows[is_kept], basket[is_kept]
        weight = 1.0 / (sizes[basket] - 1)
        self._items = _Companions(basket, item[rows], weight, (len(sizes), num_items))
        self._categories = _Companions(basket, category[rows], weight, (len(sizes), num_categories))

    def of_category(self, category: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the co-occurrence counts of a category with each category: observed, and expected under independence;
        both [C]."""
        every = np.arange(len(self._categories.share))
        observed = self._categories.observed(category, every)
        return observed, observed.sum() * self._categories.share

    def of_item(self, item: int, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the co-occurrence counts of an item with some items [M]: observed and expected, both [M].

        The expected counts have the same sum, in proportion to the number of baskets of each of these items. The item
        itself has none: a basket holds it once.

        Args:
            items: ascending numbers [M].
        """
        observed = self._items.observed(item, items)
        expected = self._items.share[items] * (items != item)
        scale = observed.sum() / expected.sum() if observed.any() else 0.0
        return observed, expected * scale


class _Companions:
    """Co-occurrence counts by the values of a column: each other item of a basket of n items counts 1 / (n - 1)."""

    def __init__(self, basket: np.ndarray, value: np.ndarray, weight: np.ndarray, shape: tuple[int, int]) -> None:
        self._weighted = csr_array((weight, (basket, value)), shape=shape)
        self._baskets_of = csr_array((np.ones(len(value)), (value, basket)), shape=shape[::-1])
        self._with_itself = np.bincount(value, weights=weight, minlength=shape[1])
        count = np.bincount(value, minlength=shape[1])
        self.share = count / max(count.sum(), 1)

    def observed(self, value: int, others: np.ndarray) -> np.ndarray:
        """Returns the counts of a value with some others [M], which ascend."""
        row = self._baskets_of[[value], :] @ self._weighted
        place = np.searchsorted(others, row.indices)
        is_asked = others[np.minimum(place, len(others) - 1)] == row.indices
        found = np.zeros(len(others))
        found[place[is_asked]] = row.data[is_asked]
        if len(own := np.flatnonzero(others == value)):
            found[own] = np.maximum(found[own] - self._with_itself[value], 0.0)
        return found


def companion_rates(counts: Sequence[tuple[np.ndarray, np.ndarray]], prior: float | np.ndarray) -> np.ndarray:
    """Returns the mean ratio of observed to expected co-occurrence with the earlier items of a session.

    Args:
        counts: observed and expected counts with each earlier item; at least one.
        prior: a gamma prior worth this many counts shrinks each ratio to 1.
    """
    rates: np.ndarray = np.mean([(observed + prior) / (expected + prior) for observed, expected in counts], axis=0)
    return rates
