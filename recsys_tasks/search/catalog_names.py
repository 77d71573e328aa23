"""Brands and category levels of a catalog, to tell when a query names one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_MAX_WORDS = 6  # of a name in a query


class CatalogNames:
    """Names of the brand and the category levels of each item, as index terms; items with the same names share them."""

    def __init__(self) -> None:
        self._names: list[tuple[str, ...]] = []
        self._code_of: dict[tuple[str, ...], int] = {}
        self._codes = np.zeros(0, np.int32)  # index into `_names` by item number [V]

    def put(self, number: int, names: Sequence[Sequence[str]]) -> None:
        """Stores the names of an item, each as its terms."""
        joined = tuple(" ".join(name) for name in names if name)
        if joined not in self._code_of:
            self._code_of[joined] = len(self._names)
            self._names.append(joined)
        if number >= len(self._codes):
            self._codes = np.pad(self._codes, (0, number + len(self._codes) // 2 + 1024))
        self._codes[number] = self._code_of[joined]

    def shares(self, terms: Sequence[str], numbers: np.ndarray) -> np.ndarray:
        """Returns the share of a query's terms that are a name of each item [N]."""
        share_of = {
            " ".join(terms[at:end]): (end - at) / len(terms)
            for at in range(len(terms))
            for end in range(at + 1, min(at + _MAX_WORDS, len(terms)) + 1)
        }
        codes, places = np.unique(self._codes[numbers], return_inverse=True)
        shares = [max((share_of.get(name, 0.0) for name in self._names[code]), default=0.0) for code in codes.tolist()]
        return np.asarray(shares)[places]
