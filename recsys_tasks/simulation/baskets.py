"""Co-occurrence of items and categories in baskets, observed and expected under independence.

Letters in shapes: N items of baskets, I items, C categories, M items of one category.
"""

from __future__ import annotations

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
        return self._categories.of(category)

    def of_item(self, item: int, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the co-occurrence counts of an item with some items [M]: observed and expected, both [M].

        The expected counts have the same sum, in proportion to the number of baskets of each of these items.
        """
        observed, expected = (column[items] for column in self._items.of(item))
        scale = observed.sum() / expected.sum() if observed.any() else 0.0
        return observed, expected * scale


class _Companions:
    """Co-occurrence counts by the values of a column: each other item of a basket of n items counts 1 / (n - 1)."""

    def __init__(self, basket: np.ndarray, value: np.ndarray, weight: np.ndarray, shape: tuple[int, int]) -> None:
        self._weighted = csr_array((weight, (basket, value)), shape=shape)
        self._baskets_of = csr_array((np.ones(len(value)), (value, basket)), shape=shape[::-1])
        self._with_itself = np.bincount(value, weights=weight, minlength=shape[1])
        count = np.bincount(value, minlength=shape[1])
        self._share = count / max(count.sum(), 1)

    def of(self, value: int) -> tuple[np.ndarray, np.ndarray]:
        observed: np.ndarray = (self._baskets_of[[value], :] @ self._weighted).toarray()[0]
        observed[value] = max(observed[value] - self._with_itself[value], 0.0)
        return observed, observed.sum() * self._share


def companion_rates(observed: np.ndarray, expected: np.ndarray, prior: float | np.ndarray) -> np.ndarray:
    """Returns the ratios of observed to expected co-occurrence, shrunk to 1 by a gamma prior worth `prior` counts."""
    rates: np.ndarray = (observed + prior) / (expected + prior)
    return rates
