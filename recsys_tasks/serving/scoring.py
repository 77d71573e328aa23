"""From what the decoder read of a session to a mass for each item: the products with all items' vectors, and copies.

All items are looked at with their vectors rounded to bytes (`scan.onnx`), which is a matter of how fast memory can be
read; those that may be shown are looked at again exactly.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from recsys_tasks.names import FIRST_ITEM

_SAMPLE = 256
_TINY = 1e-30


class ItemVectors:
    """Unit vectors [V, D] and biases [V] of items by number: those of a bundle, which may be mapped from its file and
    shared with other processes, and after them those of items that came later."""

    def __init__(self, vectors: np.ndarray, bias: np.ndarray, later: np.ndarray | None = None) -> None:
        self._first = vectors
        self._later = np.zeros((0, vectors.shape[1]), np.float32) if later is None else later
        self.bias = bias

    def __len__(self) -> int:
        """How many there are, V."""
        return len(self._first) + len(self._later)

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """Vectors [..., D] of items [...]."""
        if not len(self._later):
            found: np.ndarray = self._first[numbers]
            return found
        found = self._first[np.minimum(numbers, len(self._first) - 1)]
        late = numbers >= len(self._first)
        found[late] = self._later[numbers[late] - len(self._first)]
        return found

    def products(self, direction: np.ndarray) -> np.ndarray:
        """Products [V] of all of them with a vector [D]."""
        found: np.ndarray = self._first @ direction
        return np.concatenate([found, self._later @ direction]) if len(self._later) else found

    def later_logits(self, direction: np.ndarray) -> np.ndarray:
        """Products with a vector [D], and biases, of those that came later only."""
        found: np.ndarray = self._later @ direction + self.bias[len(self._first) :]
        return found

    def and_later(self, vectors: np.ndarray, bias: np.ndarray) -> ItemVectors:
        """These and some more at the end."""
        later = np.concatenate([self._later, vectors.astype(np.float32)])
        return ItemVectors(self._first, np.concatenate([self.bias, bias.astype(np.float32)]), later)


class Masses:
    """How likely each item comes next, as a share of the likeliest that is generated or copied; 0 where it cannot.

    Args:
        items: of the model.
        logits: products of all items with the decoder's direction, and biases [V], which may be rounded; they are used
            up.
        reading: the decoder's outputs, as `model.network.Reading` names them, of one session.
        history, tokens: item numbers that copies are of, [H] and [T].

    Attributes:
        values: of all items [V]; total: their sum.
    """

    def __init__(
        self,
        items: ItemVectors,
        logits: np.ndarray,
        reading: Mapping[str, np.ndarray],
        history: np.ndarray,
        tokens: np.ndarray,
    ) -> None:
        self._items, self._direction = items, reading["direction"][0]
        copied, copies = reading["of_history"][0], history
        again = reading.get("of_session")
        if again is not None:
            copied, copies = np.concatenate([copied, again[0]]), np.concatenate([copies, tokens])
        logits[:FIRST_ITEM] = -np.inf
        self._top = max(logits.max(), copied.max(initial=-np.inf))
        logits -= self._top
        np.exp(logits, out=logits)
        self.values = logits
        self._set_right()
        self._copied, place = np.unique(copies, return_inverse=True)
        self._copied_mass = np.bincount(place, np.exp(copied - self._top)).astype(np.float32)
        self.values[self._copied] += self._copied_mass
        self.values[:FIRST_ITEM] = 0.0
        if again is None:
            self.values[tokens] = 0.0
        self.total = max(float(self.values.sum()), _TINY)

    def _set_right(self) -> None:
        """Makes up for what rounding the direction does to all items alike, by a sample that is looked at exactly."""
        sample = np.linspace(FIRST_ITEM, len(self.values) - 1, _SAMPLE).astype(np.int64)
        exact = np.exp(self._items[sample] @ self._direction + self._items.bias[sample] - self._top)
        self.values *= exact.sum() / max(self.values[sample].sum(), _TINY)

    def shares(self) -> np.ndarray:
        """Probabilities of all items [V]."""
        found: np.ndarray = self.values / self.total
        return found

    def exactly(self, numbers: np.ndarray) -> np.ndarray:
        """Probabilities of some items [N] that may come, from vectors that are not rounded."""
        found = np.exp(self._items[numbers] @ self._direction + self._items.bias[numbers] - self._top)
        place = np.minimum(np.searchsorted(self._copied, numbers), len(self._copied) - 1)
        found += np.where(self._copied[place] == numbers, self._copied_mass[place], 0.0)
        exact: np.ndarray = found / self.total
        return exact


def word_vectors(table: np.ndarray, words: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Unit vectors [..., D] of words [..., A], or what is given instead where there are none (0).

    Args:
        table: vectors of words, by number.
        words: their numbers.
        otherwise: [..., D].
    """
    searched = words.any(-1)
    if not searched.any():
        return otherwise
    sums = (table[words[searched]] * (words[searched] > 0)[..., None]).sum(-2)
    found = otherwise.copy()
    found[searched] = sums / np.maximum(np.linalg.norm(sums, axis=-1, keepdims=True), _TINY)
    return found
