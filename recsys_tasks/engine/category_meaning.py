"""Meaning of category names: vectors of a sentence encoder, to find categories whose names a query only means."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from recsys_tasks.errors import InvariantError

_NONE, _FULL = 0.86, 0.94  # cosines of multilingual-e5-small: of unrelated words, and of translations
_NEARLY, _MAX_NAMES = 0.02, 3  # names further below the nearest one are left out


class QueryEncoder(Protocol):
    """A sentence encoder for queries."""

    def name(self) -> str | None:
        """Returns the name of the encoder, which identifies its vectors; None if there is none."""
        ...

    def encode(self, query: str) -> np.ndarray:
        """Returns the unit vector [D] of a query."""
        ...


class CategoryNames(NamedTuple):
    """The names of a catalog's category levels.

    Attributes:
        encoder: name of the encoder; empty without one.
        names: the names [C].
        vectors: their unit vectors as queries [C, D].
    """

    encoder: str
    names: tuple[str, ...]
    vectors: np.ndarray

    def save(self, path: Path) -> None:
        """Writes the names in NumPy's format."""
        np.savez(path, encoder=self.encoder, names=np.asarray(self.names, str), vectors=self.vectors)

    @classmethod
    def load(cls, path: Path) -> CategoryNames:
        """Reads a file written by `save`.

        Raises:
            InvariantError: names and vectors differ in number.
        """
        with np.load(path, allow_pickle=False) as stored:
            names, vectors = stored["names"].tolist(), stored["vectors"]
            if len(names) != len(vectors):
                raise InvariantError(f"{path.name} has {len(names)} names, but {len(vectors)} vectors")
            return cls(str(stored["encoder"]), tuple(names), vectors.astype(np.float32))

    def similar(self, vector: np.ndarray) -> dict[str, float]:
        """Returns up to three names that a query, given by its vector [D], may mean, with a strength between 0 and 1.

        The strength grows with the cosine, from that of unrelated words to that of translations.
        """
        cosines = self.vectors @ vector
        lowest = max(_NONE, float(cosines.max(initial=-1.0)) - _NEARLY)
        nearest = np.argsort(-cosines, kind="stable")[:_MAX_NAMES].tolist()
        return {
            self.names[row]: min((float(cosines[row]) - _NONE) / (_FULL - _NONE), 1.0)
            for row in nearest
            if cosines[row] > lowest
        }


NO_NAMES = CategoryNames("", (), np.zeros((0, 0), np.float32))
