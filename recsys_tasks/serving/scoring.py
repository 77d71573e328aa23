"""From what the decoder read of a session to how likely each item is: products with all items' vectors, and copies.

All items are looked at with their vectors rounded to bytes (`scan.onnx`), which is a matter of how fast memory can be
read; those that may be shown are looked at again exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from recsys_tasks.names import FIRST_ITEM

_SAMPLE = 256
_TINY, _LEAST = 1e-30, -1e4
_CHUNK = 1 << 15  # numbers that stay in the cache from one pass to the next


class Scores(Protocol):
    """How good each item is.

    Attributes:
        rough: logarithms [V], maybe rounded, and used up by ranking; what is -inf cannot be shown.
        also: numbers of items that may be better than `rough` says.
    """

    rough: np.ndarray
    also: np.ndarray

    def exactly(self, numbers: np.ndarray) -> np.ndarray:
        """Scores [N] of some items, not rounded."""
        ...


class Known:
    """Scores [V] that are known of all items; those that are not above 0 cannot be shown."""

    def __init__(self, scores: np.ndarray) -> None:
        self._scores = scores
        self.rough = np.log(scores, out=np.full(len(scores), -np.inf), where=scores > 0)
        self.also = np.zeros(0, np.int64)

    def exactly(self, numbers: np.ndarray) -> np.ndarray:
        """Of some items [N]."""
        found: np.ndarray = self._scores[numbers]
        return found


class Sample(NamedTuple):
    """Some items, as good as any others: their numbers, vectors and biases."""

    numbers: np.ndarray
    vectors: np.ndarray
    bias: np.ndarray


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

    @cached_property
    def sample(self) -> Sample:
        """Items all over the catalogue."""
        numbers = np.unique(np.linspace(FIRST_ITEM, len(self._first) - 1, _SAMPLE).astype(np.int64))
        return Sample(numbers, self._first[numbers], self.bias[numbers])

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


class NextItem:
    """How likely each item comes next, generated or copied.

    Args:
        items: of the model.
        logits: products of all items with the decoder's direction, and biases [V], which may be rounded; they are used
            up.
        reading: the decoder's outputs, as `model.network.Reading` names them, of one session.
        history, tokens: item numbers that copies are of, [H] and [T].
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
        logits[:FIRST_ITEM] = -np.inf
        if "of_session" in reading:
            copied, copies = np.concatenate([copied, reading["of_session"][0]]), np.concatenate([copies, tokens])
        else:
            logits[tokens] = -np.inf
        self.rough = logits
        possible = logits[copies] > -np.inf
        copied, copies = copied[possible], copies[possible]
        self._top = max(logits.max(), copied.max(initial=_LEAST))
        self.also, place = np.unique(copies, return_inverse=True)
        self._copied_mass = np.bincount(place, np.exp(copied - self._top))
        generated = _sum_of_exponentials(logits, self._top) * self._rounded_away()
        self._total = max(generated + float(self._copied_mass.sum()), _TINY)

    def exactly(self, numbers: np.ndarray) -> np.ndarray:
        """Probabilities of some items [N], from vectors that are not rounded."""
        found = np.exp(self._items[numbers] @ self._direction + self._items.bias[numbers] - self._top)
        if len(self.also):
            place = np.minimum(np.searchsorted(self.also, numbers), len(self.also) - 1)
            found += np.where(self.also[place] == numbers, self._copied_mass[place], 0.0)
        found[self.rough[numbers] == -np.inf] = 0.0
        exact: np.ndarray = found / self._total
        return exact

    def _rounded_away(self) -> float:
        """What rounding the direction does to all items alike, by a sample that is looked at exactly."""
        numbers, vectors, bias = self._items.sample
        rounded = np.exp(self.rough[numbers] - self._top)
        exact = np.exp(vectors @ self._direction + bias - self._top)
        of_rounded = float(rounded.sum())
        return float(exact[rounded > 0].sum()) / of_rounded if of_rounded > _TINY else 1.0


def _sum_of_exponentials(logits: np.ndarray, top: float) -> float:
    total = 0.0
    for start in range(0, len(logits), _CHUNK):
        part = logits[start : start + _CHUNK] - top
        total += float(np.exp(part, out=part).sum())
    return total


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
