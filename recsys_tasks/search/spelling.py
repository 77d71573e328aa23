"""Spelling corrections: words of the catalog that are one or two edits from a word that it lacks."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from heapq import nlargest
from pathlib import Path
from types import MappingProxyType

import msgspec
from rapidfuzz import process
from rapidfuzz.distance import OSA

_MIN_LETTERS_ONE_EDIT, _MIN_LETTERS_TWO_EDITS = 4, 8
_MAX_CORRECTIONS = 3
_MAX_COMPLETIONS, _MAX_EXAMINED = 10, 2_000
LAST_SIGN = chr(0x10FFFF)  # sorts after all others


def is_spelled(word: str) -> bool:
    """Whether a word may be misspelled: short ones, numbers and model names are not."""
    return len(word) >= _MIN_LETTERS_ONE_EDIT - 1 and word.isalpha()


class SpellChecker:
    """Words of a catalog with their frequencies, by first letter and length.

    Args:
        counts: number of occurrences of each word.
    """

    def __init__(self, counts: Mapping[str, int] = MappingProxyType({})) -> None:
        self._counts: Counter[str] = Counter()
        self._buckets: dict[tuple[str, int], list[str]] = defaultdict(list)
        self._sorted: list[str] = []
        self._put_in_buckets(counts)
        self._counts.update(counts)

    @classmethod
    def load(cls, path: Path) -> SpellChecker:
        """Reads a file written by `save`.

        Raises:
            OSError, msgspec.MsgspecError: the file cannot be read.
        """
        return cls(msgspec.json.decode(path.read_bytes(), type=dict[str, int]))

    def save(self, path: Path) -> None:
        """Writes the words and their frequencies as JSON."""
        path.write_bytes(msgspec.json.encode(self._counts))

    def words(self) -> Collection[str]:
        """The distinct words."""
        return self._counts.keys()

    def add(self, words: Sequence[str]) -> None:
        """Counts words of an item for which `is_spelled` holds."""
        self._put_in_buckets(words)
        self._counts.update(words)

    def _put_in_buckets(self, words: Iterable[str]) -> None:
        for word in dict.fromkeys(words):
            if word not in self._counts:
                self._buckets[word[0], len(word)].append(word)

    def complete(self, prefix: str) -> list[str]:
        """Returns the most frequent words that begin with a prefix, without the prefix itself."""
        if len(self._sorted) != len(self._counts):
            self._sorted = sorted(list(self._counts))  # another thread may add words
        start = bisect_left(self._sorted, prefix)
        end = min(bisect_left(self._sorted, prefix + LAST_SIGN), start + _MAX_EXAMINED)
        frequent = nlargest(_MAX_COMPLETIONS + 1, self._sorted[start:end], self._counts.__getitem__)
        return [word for word in frequent if word != prefix][:_MAX_COMPLETIONS]

    def correct(self, word: str) -> list[str]:
        """Returns up to three words with the same first letter at the smallest edit distance, the most frequent first.

        The distance counts insertions, deletions, substitutions and transpositions of neighbors (optimal string
        alignment); it is 1 at most, or 2 for words of 8 letters or more.
        """
        if len(word) < _MIN_LETTERS_ONE_EDIT or not word.isalpha():
            return []
        edits = 1 if len(word) < _MIN_LETTERS_TWO_EDITS else 2
        lengths = range(len(word) - edits, len(word) + edits + 1)
        choices = [known for length in lengths for known in self._buckets.get((word[0], length), ())]
        found = process.extract(word, choices, scorer=OSA.distance, score_cutoff=edits, limit=None)
        if not found:
            return []
        nearest = min(distance for _, distance, _ in found)
        corrections = [known for known, distance, _ in found if distance == nearest]
        return sorted(corrections, key=lambda known: (-self._counts[known], known))[:_MAX_CORRECTIONS]
