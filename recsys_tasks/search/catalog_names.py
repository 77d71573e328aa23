"""Brands and category levels of a catalog, to tell when a query names one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_MAX_WORDS = 6  # of a name in a query
_FREE_ROWS = 1024


class CatalogNames:
    """Names of the brand and the category levels of each item, as index terms."""

    def __init__(self) -> None:
        self._code_of: dict[str, int] = {}
        self._codes = np.full((0, 1), -1, np.int32)  # names of each item number [V, N]; -1 for none

    def put(self, number: int, names: Sequence[Sequence[str]]) -> None:
        """Stores the names of an item, each as its terms."""
        joined = [" ".join(name) for name in names if name]
        codes = [self._code_of.setdefault(name, len(self._code_of)) for name in joined]
        rows, width = self._codes.shape
        if number >= rows or len(codes) > width:
            added = (number + rows // 2 + _FREE_ROWS if number >= rows else 0, max(len(codes) - width, 0))
            self._codes = np.pad(self._codes, ((0, added[0]), (0, added[1])), constant_values=-1)
        self._codes[number] = -1
        self._codes[number, : len(codes)] = codes

    def shares(self, terms: Sequence[str], numbers: np.ndarray) -> np.ndarray:
        """Returns the share of a query's terms that are a name of each item [N]."""
        share_of = {
            self._code_of[name]: (end - at) / len(terms)
            for at in range(len(terms))
            for end in range(at + 1, min(at + _MAX_WORDS, len(terms)) + 1)
            if (name := " ".join(terms[at:end])) in self._code_of
        }
        shares = np.zeros(len(numbers))
        codes = self._codes[numbers] if share_of else self._codes[:0]
        for code, share in share_of.items():
            np.maximum(shares, share * (codes == code).any(1), out=shares)
        return shares
