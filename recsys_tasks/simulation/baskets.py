"""What is bought together: how much more often than by chance a basket that holds one item holds another.

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
        rows, basket, others = rows[is_kept], basket[is_kept], 1.0 / (sizes[basket[is_kept]] - 1)
        self._items = _Companions(basket, item[rows], others, (len(sizes), num_items))
        self._categories = _Companions(basket, category[rows], others, (len(sizes), num_categories))

    def of_category(self, category: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the number of companions of a category by their category, and the number by chance, both [C]."""
        return self._categories.of(category)

    def of_item(self, item: int, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns how often an item has each of some others [M] as a companion, and how often by chance, both [M].

        "By chance" keeps the total of these others, and shares it by their numbers of baskets.
        """
        found, expected = (column[items] for column in self._items.of(item))
        scale = found.sum() / expected.sum() if found.any() else 0.0
        return found, expected * scale


class _Companions:
    """Companions by the values of a column: each of the other items of a basket counts 1 / their number."""

    def __init__(self, basket: np.ndarray, value: np.ndarray, others: np.ndarray, shape: tuple[int, int]) -> None:
        self._weighted = csr_array((others, (basket, value)), shape=shape)
        self._baskets_of = csr_array((np.ones(len(value)), (value, basket)), shape=shape[::-1])
        self._itself = np.bincount(value, weights=others, minlength=shape[1])
        count = np.bincount(value, minlength=shape[1])
        self._share = count / max(count.sum(), 1)

    def of(self, value: int) -> tuple[np.ndarray, np.ndarray]:
        found: np.ndarray = (self._baskets_of[[value], :] @ self._weighted).toarray()[0]
        found[value] = max(found[value] - self._itself[value], 0.0)
        return found, found.sum() * self._share


def companion_rates(found: np.ndarray, expected: np.ndarray, prior: float | np.ndarray) -> np.ndarray:
    """Returns the rates of companions relative to chance, shrunk to 1 by a gamma prior worth so many companions."""
    rates: np.ndarray = (found + prior) / (expected + prior)
    return rates
