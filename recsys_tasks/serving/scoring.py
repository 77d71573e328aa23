"""From what the decoder read of a session to a mass for each item: the products with all items' vectors, and copies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from recsys_tasks.names import FIRST_ITEM

_TINY = 1e-12


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

    def and_later(self, vectors: np.ndarray, bias: np.ndarray) -> ItemVectors:
        """These and some more at the end."""
        later = np.concatenate([self._later, vectors.astype(np.float32)])
        return ItemVectors(self._first, np.concatenate([self.bias, bias.astype(np.float32)]), later)


def masses(
    items: ItemVectors, reading: Mapping[str, np.ndarray], history: np.ndarray, tokens: np.ndarray
) -> np.ndarray:
    """How likely each item [V] comes next, as a share of the likeliest that is generated or copied; 0 where it cannot.

    Args:
        items: of the model.
        reading: the decoder's outputs, as `model.network.Reading` names them, of one session.
        history, tokens: item numbers that copies are of, [H] and [T].
    """
    found = items.products(reading["direction"][0])
    found += items.bias
    copied, copies = reading["of_history"][0], history
    again = reading.get("of_session")
    if again is not None:
        copied, copies = np.concatenate([copied, again[0]]), np.concatenate([copies, tokens])
    found[:FIRST_ITEM] = -np.inf
    top = max(found.max(), copied.max(initial=-np.inf))
    found -= top
    np.exp(found, out=found)
    np.add.at(found, copies, np.exp(copied - top))
    found[:FIRST_ITEM] = 0.0
    if again is None:
        found[tokens] = 0.0
    return found


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
