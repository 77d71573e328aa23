"""Synonyms of a shop: from a file in the Solr format, or as pairs of phrases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from recsys_tasks.errors import InputError
from recsys_tasks.search.analysis import Analyzer

Terms = tuple[str, ...]
_ARROW, _COMMENT = "=>", "#"


class Synonyms:
    """Alternative phrases of phrases; they are looked up once, so that a cycle in the file does no harm.

    Args:
        alternatives: the terms of each phrase's alternatives.
    """

    def __init__(self, alternatives: Mapping[Terms, list[Terms]]) -> None:
        self._alternatives = alternatives
        self._lengths = sorted(set(map(len, alternatives)))

    def matches(self, terms: list[str]) -> Iterator[tuple[range, Terms]]:
        """Yields the places of a query's phrases that have synonyms, with each alternative."""
        for start in range(len(terms)):
            for length in self._lengths:
                for alternative in self._alternatives.get(tuple(terms[start : start + length]), ()):
                    yield range(start, start + length), alternative


def make_synonyms(pairs: Iterable[tuple[str, str]], analyzer: Analyzer) -> Synonyms:
    """Returns the synonyms of pairs of a phrase and what it means."""
    alternatives: dict[Terms, list[Terms]] = defaultdict(list)
    for phrase, meaning in pairs:
        source, target = (tuple(analyzer.terms(text)) for text in (phrase, meaning))
        if source and target and source != target and target not in alternatives[source]:
            alternatives[source].append(target)
    return Synonyms(dict(alternatives))


def read_synonyms(path: str, analyzer: Analyzer) -> Synonyms:
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
