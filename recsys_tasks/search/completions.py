"""Completions of unfinished queries."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping

from rapidfuzz import process
from rapidfuzz.distance import OSA

from recsys_tasks.search.spelling import LAST_SIGN

_WORD_START = re.compile(r"\b\w")
_MIN_LETTERS = 4  # of a prefix, for typo tolerance
_MAX_EXAMINED = 5_000


class QueryCompletions:
    """Texts that complete a prefix of one of their words.

    Args:
        weights: weight of each text; heavier ones come first.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        keys = {
            (text.casefold()[match.start() :], text)
            for text in weights
            for match in _WORD_START.finditer(text.casefold())
        }
        self._keys = sorted(keys)
        self._starts = [key for key, _ in self._keys]

    def contain(self, texts: Iterable[str]) -> bool:
        """Whether all of some texts are among these."""
        return all(text in self._weights for text in texts)

    def complete(self, prefix: str, k: int) -> list[str]:
        """Returns up to k texts, the heaviest first.

        Without any, a prefix of four letters or more may have one typo (optimal string alignment), but not in its
        first letter.
        """
        prefix = " ".join(prefix.casefold().split())
        texts = {text for key, text in self._range(prefix) if key.startswith(prefix)} if prefix else set()
        if not texts and len(prefix) >= _MIN_LETTERS:
            candidates = self._range(prefix[0])
            starts = [key[: len(prefix)] for key, _ in candidates]
            found = process.extract(prefix, starts, scorer=OSA.distance, score_cutoff=1, limit=None)
            texts = {candidates[row][1] for _, _, row in found}
        return sorted(texts, key=lambda text: (-self._weights[text], text))[:k]

    def _range(self, prefix: str) -> list[tuple[str, str]]:
        start = bisect_left(self._starts, prefix)
        end = bisect_left(self._starts, prefix + LAST_SIGN)
        return self._keys[start : min(end, start + _MAX_EXAMINED)]
