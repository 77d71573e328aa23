"""Query syntax: words, "phrases" in quotes, and -excluded words."""

from __future__ import annotations

import re
from typing import NamedTuple

from recsys_tasks.search.analysis import Analyzer, Word

_MAX_WORDS = 32  # of a query, the rest is ignored; a title has fewer
_MAX_LENGTH = 1_000  # characters of a query that are read
_PART = re.compile(r"(?P<minus>(?<!\S)-)?(?:\"(?P<phrase>[^\"]*)\"|(?P<word>[^\s\"]+))")
_QUOTES = str.maketrans({sign: '"' for sign in "“”„‟«»「」『』＂"})


class ParsedQuery(NamedTuple):
    """A query.

    Attributes:
        words: all words that an item should have, in order, with those of the phrases.
        phrases: terms that must be adjacent, one list per phrase.
        excluded: terms that must be adjacent in no field, one list per excluded word or phrase.
    """

    words: list[Word]
    phrases: list[list[str]]
    excluded: list[list[str]]

    @property
    def is_empty(self) -> bool:
        """Whether the query has no word that an item could match."""
        return not self.words


def parse_query(text: str, analyzer: Analyzer) -> ParsedQuery:
    """Returns the parts of a query; all operators but quotes and minus signs are plain text.

    A minus sign excludes only before a word and after a blank, so that `wi-fi` is two words. A query that would exclude
    everything it names is read as plain words.
    """
    text = text[:_MAX_LENGTH].translate(_QUOTES)
    kept: list[str] = []
    phrases: list[list[str]] = []
    excluded: list[list[str]] = []
    for part in _PART.finditer(text):
        content = part["phrase"] if part["phrase"] is not None else part["word"]
        terms = analyzer.terms(content)[:_MAX_WORDS]
        if not terms:
            continue
        if part["minus"]:
            excluded.append(terms)
            continue
        kept.append(content)
        if part["phrase"] is not None and len(terms) > 1:
            phrases.append(terms)
    if not kept:
        return ParsedQuery(analyzer.words(text)[:_MAX_WORDS], [], [])
    return ParsedQuery(analyzer.words(" ".join(kept))[:_MAX_WORDS], phrases, excluded)
