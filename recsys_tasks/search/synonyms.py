"""Synonyms of a shop, and their file in the Solr format."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from recsys_tasks.errors import InputError
from recsys_tasks.search.analysis import Analyzer

Terms = tuple[str, ...]
Alternative = TypeVar("Alternative")
_ARROW, _COMMENT = "=>", "#"


class Synonyms(Generic[Alternative]):
    """Alternatives of phrases; they are looked up once, so that a cycle in the file does no harm.

    Args:
        alternatives: of each phrase, by its terms.
    """

    def __init__(self, alternatives: Mapping[Terms, list[Alternative]]) -> None:
        self._alternatives = alternatives
        self._lengths = sorted(set(map(len, alternatives)))

    def matches(self, terms: list[str]) -> Iterator[tuple[range, Alternative]]:
        """Yields the places of a query's phrases that have synonyms, with each alternative."""
        for start in range(len(terms)):
            for length in self._lengths:
                if start + length > len(terms):
                    break
                for alternative in self._alternatives.get(tuple(terms[start : start + length]), ()):
                    yield range(start, start + length), alternative


def read_synonyms(path: str, analyzer: Analyzer) -> Synonyms[Terms]:
    """Reads a synonym file: `a, b, c` are equivalent, `a, b => c` replaces on the left side only; # starts a comment.

    The phrase itself is always searched too.

    Raises:
        InputError: the file cannot be read, or a line is not valid; names the line.
    """
    if not path:
        return Synonyms({})
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The synonym file {path} cannot be read: {error}") from error
    alternatives: dict[Terms, list[Terms]] = defaultdict(list)
    for number, line in enumerate(lines, start=1):
        text = line.split(_COMMENT, 1)[0].strip()
        if not text:
            continue
        left, arrow, right = text.partition(_ARROW)
        sources = _phrases(left, analyzer)
        targets = _phrases(right, analyzer) if arrow else sources
        if not sources or not targets or (not arrow and len(sources) < 2):
            raise InputError(f"{path}, line {number}: expected `a, b` or `a => b`, found {line.strip()[:80]!r}")
        for source in sources:
            alternatives[source] += [t for t in targets if t != source and t not in alternatives[source]]
    return Synonyms(dict(alternatives))


def _phrases(text: str, analyzer: Analyzer) -> list[Terms]:
    return [terms for part in text.split(",") if (terms := tuple(analyzer.terms(part)))]
