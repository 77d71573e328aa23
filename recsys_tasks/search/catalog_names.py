"""Brands and category levels of a catalog, to tell when a query names one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

_MAX_WORDS = 6  # of a name in a query
_FREE_ROWS = 1024


class CatalogNames:
    """Names of the brand and the category levels of each item, as index terms.

    Args:
        names: the distinct names.
        codes: indices of the names of each item number [V, N]; -1 for none.
    """

    def __init__(self, names: Sequence[str] = (), codes: np.ndarray | None = None) -> None:
        self._code_of = {name: code for code, name in enumerate(names)}
        self._codes = np.full((0, 1), -1, np.int32) if codes is None else codes

    @classmethod
    def load(cls, path: Path) -> CatalogNames:
        """Reads a file written by `save`.

        Raises:
            OSError, ValueError, KeyError: the file cannot be read.
        """
        with np.load(path, allow_pickle=False) as stored:
            return cls(stored["names"].tolist(), stored["codes"])

    def save(self, path: Path) -> None:
        """Writes the names in NumPy's format."""
        np.savez(path, names=np.asarray(list(self._code_of), str), codes=self._codes)

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
