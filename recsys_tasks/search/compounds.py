"""Compounds of languages that write them as one word, by the words of a catalog: `Schuhe` also means `Laufschuhe`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from recsys_tasks.search.spelling import LAST_SIGN

_COMPOUNDING = {"danish", "dutch", "dutch_porter", "estonian", "finnish", "german", "hungarian", "norwegian", "swedish"}
_LINKS = ("", "s", "n", "e", "en", "er", "es")  # between the parts: Geburt-s-karte
_MIN_PART = 4  # letters of each part
_MAX_COMPOUNDS = 20


class Compounds:
    """Index terms that end with another term, after a first part that is a term too.

    Splitting by known words follows Koehn and Knight (2003, "Empirical methods for compound splitting").

    Args:
        languages: of the catalog; without a compounding one there are no compounds.
    """

    def __init__(self, languages: Sequence[str]) -> None:
        self._is_active = not _COMPOUNDING.isdisjoint(languages)
        self._terms: set[str] = set()
        self._reversed: list[str] = []

    def add(self, terms: Iterable[str]) -> None:
        """Adds terms of the catalog."""
        if self._is_active:
            self._terms.update(term for term in terms if len(term) >= _MIN_PART)

    def ending_with(self, term: str) -> list[str]:
        """Returns up to twenty compounds whose last part is a term, the shortest first."""
        if not self._is_active or len(term) < _MIN_PART:
            return []
        if len(self._reversed) != len(self._terms):
            self._reversed = sorted(known[::-1] for known in list(self._terms))  # another thread may add terms
        start, end = (bisect_left(self._reversed, term[::-1] + last) for last in ("", LAST_SIGN))
        ending = (known[::-1] for known in self._reversed[start:end])
        compounds = [known for known in ending if self._is_first_part(known.removesuffix(term))]
        return sorted(compounds, key=lambda compound: (len(compound), compound))[:_MAX_COMPOUNDS]

    def _is_first_part(self, text: str) -> bool:
        parts = [text.removesuffix(link) for link in _LINKS if text.endswith(link)]
        return any(part in self._terms for part in parts)
