"""Text analysis for search: words of any script, and the index terms that they become.

Words are segmented by ICU (Unicode Annex 29, with dictionaries for Chinese, Japanese, Thai, Khmer, Lao and Burmese),
which keeps combining marks. Traditional Chinese becomes simplified (OpenCC), and Han words are split into single signs,
whose positions tell which of them are adjacent: 跑鞋 thus matches 跑步鞋. Other words are stemmed (Snowball) and lose
accents.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import opencc
import Stemmer
from icu4py.breakers import WordBreaker

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.search.spelling import is_spelled

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_QUANTITY = re.compile(r"(\d+(?:[.,]\d+)*)([^\W\d_]{1,4})")  # a number and its unit, written as one word
_ASCII_WORD = re.compile(
    r"_*[A-Za-z0-9]\w*(?:(?:(?<=[A-Za-z])['.:](?=[A-Za-z])|(?<=[0-9])[.,;'](?=[0-9]))\w+)*", re.ASCII
)
_LAST_UTF16_UNIT = "\uffff"  # characters after it take two units
_POSSESSIVE = re.compile(r"['’]s$")
_CACHED_TERMS = 1 << 16


class Word(NamedTuple):
    """A word of a text.

    Attributes:
        text: normalized (NFKC, case-folded, simplified Chinese).
        start, end: its range in the original text.
        is_sign: whether it is a single Han sign.
        segment: start of the word that the segmenter found; signs with the same start are one word.
    """

    text: str
    start: int
    end: int
    is_sign: bool
    segment: int


class Analysis(NamedTuple):
    """Index terms and words of a text.

    Attributes:
        terms: index terms of the words.
        joined: terms of adjacent words written as one, so that `icecream` finds `ice cream`; Han has none.
        words: the words that may be misspelled; see `spelling.is_spelled`.
    """

    terms: list[str]
    joined: list[str]
    words: list[str]


class _Term(NamedTuple):
    text: str
    term: str
    is_sign: bool


class Analyzer:
    """Splits texts into words and index terms.

    Args:
        languages: Snowball algorithms, such as `english` or `german`. For each script the first one counts that is
            written in it, so that a shop in several scripts names one for each.

    Raises:
        ConfigurationError: a language has no stemmer.
    """

    def __init__(self, languages: Sequence[str] = ("english",)) -> None:
        unknown = [language for language in languages if language not in stemmed_languages()]
        if unknown:
            raise ConfigurationError(
                f"No stemmer for {', '.join(unknown)}; search languages are {', '.join(stemmed_languages())}"
            )
        self.languages = tuple(languages)
        stemmers: dict[str, Any] = {}
        for language in languages:
            stemmers.setdefault(_SCRIPT_OF.get(language, "LATIN"), Stemmer.Stemmer(language))
        # The caches must not refer to this object: that cycle would keep a replaced model's words in memory.
        self.term = lru_cache(_CACHED_TERMS)(partial(_stem, stemmers))
        self._segment_terms = lru_cache(_CACHED_TERMS)(partial(_terms_of_segment, self.term))

    def words(self, text: str) -> list[Word]:
        """Returns the words of a text in order; a number with its unit becomes two, a Han word one per sign."""
        return [word for start, end in _segments(text) for word in _words(text[start:end], start)]

    def terms(self, text: str) -> list[str]:
        """Returns the index terms of a text's words, in order."""
        return [word.term for word in self._terms(text)]

    def analyze(self, text: str) -> Analysis:
        """Returns everything that the index stores of a text of names, such as a title."""
        words = self._terms(text)
        joined = [
            self.term(left.text + right.text) for left, right in pairwise(words) if not (left.is_sign or right.is_sign)
        ]
        spelled = [word.text for word in words if not word.is_sign and is_spelled(word.text)]
        return Analysis([word.term for word in words], joined, spelled)

    def _terms(self, text: str) -> list[_Term]:
        return [word for start, end in _segments(text) for word in self._segment_terms(text[start:end])]

    def term_of(self, word: Word) -> str:
        """Returns the index term of a word."""
        return _term_of(self.term, word)


def _stem(stemmers: Mapping[str, Any], word: str) -> str:
    word = _POSSESSIVE.sub("", word)
    stemmer = stemmers.get(script_of(word))
    return _strip_accents(stemmer.stemWord(word) if stemmer else word)


def _term_of(stem: Callable[[str], str], word: Word) -> str:
    return word.text if word.is_sign else stem(word.text)


def _terms_of_segment(stem: Callable[[str], str], segment: str) -> tuple[_Term, ...]:
    return tuple(_Term(word.text, _term_of(stem, word), word.is_sign) for word in _words(segment, 0))


@cache
def stemmed_languages() -> tuple[str, ...]:
    """Returns the names of the languages that have a stemmer."""
    return tuple(Stemmer.algorithms())


def _segments(text: str) -> list[tuple[int, int]]:
    """Ranges of the words of a text, by ICU; without those that have neither letter nor digit."""
    if text.isascii():  # the same words, in a tenth of the time
        return [match.span() for match in _ASCII_WORD.finditer(text)]
    segments: Iterable[tuple[int, int]] = WordBreaker(text, "en").segments()
    if max(text) > _LAST_UTF16_UNIT:  # ICU counts UTF-16 units
        index_of = _index_of_unit(text)
        segments = ((index_of[start], index_of[end]) for start, end in segments)
    return [(start, end) for start, end in segments if any(sign.isalnum() for sign in text[start:end])]


def _index_of_unit(text: str) -> list[int]:
    """Index into a text of each of its UTF-16 units, and its length."""
    units = [index for index, sign in enumerate(text) for _ in range(2 if sign > _LAST_UTF16_UNIT else 1)]
    return [*units, len(text)]


def _words(segment: str, start: int) -> list[Word]:
    """Words of a segment that begins at a position of its text."""
    end = start + len(segment)
    folded = segment.lower() if segment.isascii() else unicodedata.normalize("NFKC", segment).casefold()
    if not segment.isascii() and _HAN.search(folded):
        return _signs(folded, start, end)
    if quantity := _QUANTITY.fullmatch(folded):
        middle = min(start + len(quantity[1]), end)
        return [Word(quantity[1], start, middle, False, start), Word(quantity[2], middle, end, False, middle)]
    return [Word(folded, start, end, False, start)]


def _signs(folded: str, start: int, end: int) -> list[Word]:
    """Han signs one by one; other signs of the segment, such as kana after a sign, stay together."""
    simplified = _to_simplified(folded)
    if len(simplified) != end - start:  # normalization changed the length: all parts have the whole range
        return [Word(part, start, end, bool(_HAN.match(part)), start) for part in _HAN_PART.findall(simplified)]
    return [
        Word(match[0], start + match.start(), start + match.end(), bool(_HAN.match(match[0])), start)
        for match in _HAN_PART.finditer(simplified)
    ]


_HAN_PART = re.compile(f"{_HAN.pattern}|(?:(?!{_HAN.pattern}).)+", re.DOTALL)


@lru_cache(_CACHED_TERMS)
def _to_simplified(text: str) -> str:
    return str(_converter().convert(text))


@cache
def _converter() -> Any:
    return opencc.OpenCC("t2s")


@lru_cache(_CACHED_TERMS)
def _strip_accents(word: str) -> str:
    """Removes the accents of Latin, Greek and Cyrillic letters; marks of other scripts are letters of their own."""
    if word.isascii() or script_of(word) not in _ACCENTED:
        return word
    decomposed = unicodedata.normalize("NFD", word)
    return unicodedata.normalize("NFC", "".join(sign for sign in decomposed if unicodedata.category(sign) != "Mn"))


def script_of(word: str) -> str:
    """The script of a word's first letter, as the first word of its Unicode name."""
    if word.isascii():
        return "LATIN"
    letter = next((sign for sign in word if sign.isalpha()), "")
    return unicodedata.name(letter, "").split(" ", 1)[0] if letter else ""


_ACCENTED = ("LATIN", "GREEK", "CYRILLIC")
_SCRIPT_OF = {
    "arabic": "ARABIC",
    "armenian": "ARMENIAN",
    "greek": "GREEK",
    "hindi": "DEVANAGARI",
    "nepali": "DEVANAGARI",
    "persian": "ARABIC",
    "russian": "CYRILLIC",
    "serbian": "CYRILLIC",
    "tamil": "TAMIL",
    "yiddish": "HEBREW",
}
