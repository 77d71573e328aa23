"""How likely each item is: from what the decoder read of a session, by the scan of all items, or known otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from recsys_tasks.engine.graphs import Graph
from recsys_tasks.names import FIRST_ITEM

_PADDING, _MANY = 256, 1_000
_TINY = 1e-30
_NO_ITEMS = np.zeros(0, np.int64)
_NO_OFFSET = np.zeros(1, np.float32)


def padded(items: int) -> int:
    """To how many the scan adds up a number of items."""
    return -(-items // _PADDING) * _PADDING


class Found(NamedTuple):
    """Items [N], in no order, and their scores; 0 is for what cannot be shown. Of an item that comes twice the higher
    score is its own."""

    numbers: np.ndarray
    scores: np.ndarray


class Scores(Protocol):
    """How good each item is."""

    def best(self, few: int, offset: np.ndarray | None = None, also: np.ndarray = _NO_ITEMS) -> Found:
        """The best few items and some others.

        Args:
            few: at least so many of the best, if there are.
            offset: added to the logarithms of the scores before the best are chosen [V], -inf for what may not be
                shown; the scores that are given back are without it.
            also: numbers of others that are asked for.
        """
        ...


class Known:
    """Scores [V] by the vocabulary's numbers that are known; what is not above 0 cannot be shown."""

    def __init__(self, scores: np.ndarray) -> None:
        self._scores = scores
        self._logs = np.log(scores, out=np.full(len(scores), -np.inf), where=scores > 0)
        self._logs[:FIRST_ITEM] = -np.inf

    @cached_property
    def _top(self) -> np.ndarray:
        return largest(self._logs, _MANY)

    def best(self, few: int, offset: np.ndarray | None = None, also: np.ndarray = _NO_ITEMS) -> Found:
        """See `Scores`; the best few are in the order of their numbers."""
        logs = self._logs if offset is None else self._logs + offset
        usual = offset is None and few <= _MANY  # then those that are chosen from are looked for once
        chosen = self._top[largest(logs[self._top], few)] if usual else largest(logs, few)
        numbers = np.concatenate([chosen, also])
        return Found(numbers, np.where(logs[numbers] > -np.inf, self._scores[numbers], 0.0))


class Rising:
    """Items that people take more of than a model expects.

    Args:
        numbers, shares: which, and by what share of all that is taken; the shares sum to less than 1.
        size: of the vocabulary, V.
    """

    def __init__(self, numbers: np.ndarray, shares: np.ndarray, size: int) -> None:
        self.numbers = numbers
        self._share = np.zeros(size)
        self._share[numbers] = shares
        self._rest = 1.0 - float(shares.sum())

    def mixed(self, found: Found) -> np.ndarray:
        """Scores where so much of what is taken is taken for these items; what cannot be shown stays so."""
        found_scores: np.ndarray = found.scores * self._rest + self._share[found.numbers] * (found.scores > 0)
        return found_scores

    def outweighs(self, number: int, score: float) -> bool:
        """Whether more than half of an item's mixed score is for its rising."""
        return bool(2 * self._share[number] > score)


class Mixed:
    """Scores into which those of rising items are mixed."""

    def __init__(self, scores: Scores, rising: Rising) -> None:
        self._scores, self._rising = scores, rising

    def best(self, few: int, offset: np.ndarray | None = None, also: np.ndarray = _NO_ITEMS) -> Found:
        """See `Scores`; all rising items are among those found."""
        found = self._scores.best(few, offset, np.concatenate([also, self._rising.numbers]))
        return Found(found.numbers, self._rising.mixed(found))


def largest(logs: np.ndarray, k: int) -> np.ndarray:
    """Numbers of the k largest [V] above -inf, in their own order; of equal ones those with lower numbers."""
    if len(logs) > k:
        least = np.partition(logs, len(logs) - k)[len(logs) - k]
        few = logs > least
        if least > -np.inf:
            few[np.flatnonzero(logs == least)[: k - np.count_nonzero(few)]] = True
        return np.flatnonzero(few)
    return np.flatnonzero(logs > -np.inf)


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

    @property
    def first(self) -> np.ndarray:
        """Vectors of those that did not come later."""
        return self._first

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


class Copies(NamedTuple):
    """Of which items the events are that may be copied: their numbers [U], without repetition, and for each event which
    of them [C]."""

    items: np.ndarray
    place: np.ndarray

    @classmethod
    def of(cls, item: np.ndarray) -> Copies:
        """Of events [C]."""
        return cls(*np.unique(item, return_inverse=True))

    def and_then(self, item: np.ndarray) -> Copies:
        """These and a few more."""
        place_of = {number: place for place, number in enumerate(self.items.tolist())}
        places = [place_of.setdefault(number, len(place_of)) for number in item.tolist()]
        return Copies(
            np.fromiter(place_of, np.int64, len(place_of)), np.concatenate([self.place, np.asarray(places, np.int64)])
        )


class NextItem:
    """How likely each item comes next, generated or copied.

    Args:
        items: of the model; scan: of all of them, see `model.scan`.
        reading: the decoder's outputs, as `model.network.Reading` names them, of one session.
        history: what of it can be copied; tokens: item numbers of the session [T].
    """

    def __init__(
        self, items: ItemVectors, scan: Graph, reading: Mapping[str, np.ndarray], history: Copies, tokens: np.ndarray
    ) -> None:
        self._items, self._scan = items, scan
        self._direction = reading["direction"]
        self._copies, self._copied, gone = history, reading["of_history"][0], tokens
        if "of_session" in reading:  # sessions repeat items
            self._copies = history.and_then(tokens)
            self._copied = np.concatenate([self._copied, reading["of_session"][0]])
            gone = _NO_ITEMS
        self._gone = gone

    def best(self, few: int, offset: np.ndarray | None = None, also: np.ndarray = _NO_ITEMS) -> Found:
        """See `Scores`; the scores are probabilities."""
        first = self._items.first
        if len(self._items) > len(first):
            return self._with_later(few, offset, also)
        found = self._look(few, offset, self._copies.items, self._gone, also)
        return Found(found["numbers"], found["shares"])

    def _look(
        self, few: int, offset: np.ndarray | None, copies: np.ndarray, gone: np.ndarray, also: np.ndarray
    ) -> Mapping[str, np.ndarray]:
        first = self._items.first
        if offset is not None:
            offset = np.pad(offset, (0, padded(len(first)) - len(first)))
        return self._scan(
            {
                "direction": self._direction,
                "items": first,
                "copies": copies,
                "place": self._copies.place,
                "copied": self._copied,
                "gone": gone,
                "also": also,
                "offset": _NO_OFFSET if offset is None else offset.astype(np.float32),
                "few": np.asarray([min(few, len(first))]),
            }
        )

    def _with_later(self, few: int, offset: np.ndarray | None, also: np.ndarray) -> Found:
        """The same where there are items that the scan does not know, which are all looked at."""
        known = len(self._items.first)
        copies, gone = (np.where(part < known, part, 0) for part in (self._copies.items, self._gone))
        found = self._look(few, None if offset is None else offset[:known], copies, gone, also[also < known])
        top, total = float(found["top"]), float(found["total"])
        mass = np.exp(self._items.later_logits(self._direction[0]).astype(np.float64) - top)
        item = self._copies.items[self._copies.place]
        np.add.at(mass, item[item >= known] - known, np.exp(self._copied[item >= known].astype(np.float64) - top))
        mass[self._gone[self._gone >= known] - known] = 0.0
        whole = max(total + float(mass.sum()), _TINY)
        shares = mass / whole
        if offset is not None:
            shares[offset[known:] == -np.inf] = 0.0
        numbers = np.concatenate([found["numbers"], np.arange(known, len(self._items))])
        return Found(numbers, np.concatenate([found["shares"] * (total / whole), shares]))


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
