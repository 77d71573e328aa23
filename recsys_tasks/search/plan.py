"""Turns a query into Tantivy clauses: for each word its synonyms, joined forms, completions and corrections."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain, groupby, pairwise
from typing import NamedTuple

import tantivy
from tantivy import Occur, Query

from recsys_tasks.search.analysis import Analyzer, Word
from recsys_tasks.search.compounds import Compounds
from recsys_tasks.search.documents import FIELDS, JOINED, SCHEMA, TITLE
from recsys_tasks.search.query import ParsedQuery
from recsys_tasks.search.settings import FieldWeights
from recsys_tasks.search.spelling import SpellChecker
from recsys_tasks.search.synonyms import Synonyms, Terms
from recsys_tasks.wire.items import Relaxation
from recsys_tasks.wire.rules import MerchandisingRules

_TIE_BREAKER = 0.3  # what a match in a further field adds: with all of it, long descriptions outweigh titles
_SYNONYM_WEIGHT, _CORRECTION_WEIGHT, _COMPLETION_WEIGHT, _STOP_WORD_WEIGHT = 0.8, 0.7, 0.7, 0.1
_COMPOUND_WEIGHT = 0.6
_CACHED_WORDS = 1 << 14
_MAX_ADJACENT_TITLES = 30_000  # with the rarest word


class Plan(NamedTuple):
    """The clauses of a query.

    Attributes:
        required: one per distinct word that items should have.
        boosts: clauses that only add to the score: stop words, and all words side by side.
        constraints: quoted phrases and excluded words.
        relaxations: corrected words.
        query_terms: terms of the query's words.
        searched_terms: all terms in the clauses.
        has_phrases: whether a word has several signs, which could be split.
    """

    required: list[Query]
    boosts: list[Query]
    constraints: list[tuple[Occur, Query]]
    relaxations: list[Relaxation]
    query_terms: list[str]
    searched_terms: frozenset[str]
    has_phrases: bool


class Unit(NamedTuple):
    """A word of a query: one term, or the signs of a Han word, which an item has side by side or nearly so."""

    text: str
    terms: tuple[str, ...]
    is_sign: bool


Meaning = tuple[Unit, ...]


class _Alternatives:
    """Clauses of each unit of a query."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self.of_word: list[list[Query]] = [[] for _ in units]
        self.searched = {term for unit in units for term in unit.terms}

    def add(self, place: int, clauses: list[Query], terms: Sequence[str]) -> None:
        """Adds clauses, and their terms, to the unit at a place."""
        self.of_word[place] += clauses
        self.searched.update(terms)


class QueryPlanner:
    """Plans queries on one index.

    Args:
        weights: of the fields.
        analyzer: of the indexed texts.
        synonyms: from the shop's file.
        spelling: words of the catalog.
        compounds: of the catalog.
    """

    def __init__(
        self,
        weights: FieldWeights,
        analyzer: Analyzer,
        synonyms: Synonyms[Terms],
        spelling: SpellChecker,
        compounds: Compounds,
    ) -> None:
        self._analyzer, self._synonyms, self._spelling = analyzer, synonyms, spelling
        self._compounds = compounds
        self._weights = {name: getattr(weights, name) for name in FIELDS if getattr(weights, name)}
        self._phrase_weight = weights.phrase
        self._is_stop_word = _stop_word_test(analyzer.languages)

    def plan(
        self,
        searcher: tantivy.Searcher,
        query: ParsedQuery,
        is_prefix: bool,
        corrects: bool = True,
        splits_signs: bool = False,
        further_synonyms: Sequence[Synonyms[Meaning]] = (),
    ) -> Plan:
        """Returns the clauses of a query.

        Args:
            searcher: tells which words the index has.
            query: the query.
            is_prefix: whether the last word may be unfinished.
            corrects: whether words that the index lacks are corrected.
            splits_signs: whether the signs of a Han word may be anywhere in an item.
            further_synonyms: of this query, beside those of the file; their words may be in different fields.
        """
        builder = _ClauseBuilder(searcher, self._weights)
        units = self._units(query.words, splits_signs)
        terms = [term for unit in units for term in unit.terms]
        unit_of_term = [place for place, unit in enumerate(units) for _ in unit.terms]
        found = _Alternatives(units)
        for place, unit in enumerate(units):
            found.add(place, builder.phrase(unit.terms, slop=len(unit.terms) - 1), ())
        self._add_joined(found, builder, units)
        for places, phrase in self._synonyms.matches(terms):
            for place in {unit_of_term[at] for at in places}:
                found.add(place, builder.phrase(phrase, _SYNONYM_WEIGHT), phrase)
        for places, meaning in chain.from_iterable(synonyms.matches(terms) for synonyms in further_synonyms):
            clauses = builder.all_of(self._without_stop_words(meaning), _SYNONYM_WEIGHT)
            for place in {unit_of_term[at] for at in places}:
                found.add(place, clauses, [term for unit in meaning for term in unit.terms])
        for place, unit in enumerate(units):
            for compound in self._compounds.ending_with(unit.terms[0]):
                found.add(place, builder.term(compound, _COMPOUND_WEIGHT), (compound,))
        if is_prefix and units and not units[-1].is_sign:
            self._add_words(found, builder, -1, self._spelling.complete(units[-1].text), _COMPLETION_WEIGHT)
        relaxations = self._correct(found, builder, units) if corrects else []
        required, optional = self._split(units, found.of_word)
        stop_words = [
            Query.boost_query(Query.disjunction_max_query(clauses), _STOP_WORD_WEIGHT) for clauses in optional
        ]
        return Plan(
            [_best_of(clauses) for clauses in required],
            [*stop_words, *self._adjacency(searcher, terms)],
            _constraints(builder, query),
            relaxations,
            terms,
            frozenset(found.searched),
            any(len(unit.terms) > 1 for unit in units),
        )

    def synonyms(self, rules: MerchandisingRules) -> Synonyms[Meaning]:
        """Returns the synonyms of merchandising rules; a phrase that means itself has none."""
        alternatives: dict[tuple[str, ...], list[Meaning]] = defaultdict(list)
        for rule in rules.synonyms:
            phrase, meaning = (self._units(self._analyzer.words(text), False) for text in (rule.phrase, rule.means))
            terms = tuple(term for unit in phrase for term in unit.terms)
            if terms and meaning and meaning != phrase and tuple(meaning) not in alternatives[terms]:
                alternatives[terms].append(tuple(meaning))
        return Synonyms(dict(alternatives))

    def _without_stop_words(self, units: Meaning) -> Meaning:
        """The units but stop words; all, if all are stop words."""
        return tuple(unit for unit in units if not self._is_stop_word(unit.text)) or units

    def _units(self, words: Sequence[Word], splits_signs: bool) -> list[Unit]:
        units = []
        for (_, is_sign), group in groupby(words, key=lambda word: (word.segment, word.is_sign)):
            parts = list(group)
            for unit in [parts] if is_sign and not splits_signs else [[word] for word in parts]:
                terms = tuple(self._analyzer.term_of(word) for word in unit)
                units.append(Unit("".join(word.text for word in unit), terms, is_sign))
        return units

    def _add_joined(self, found: _Alternatives, builder: _ClauseBuilder, units: Sequence[Unit]) -> None:
        for place, (left, right) in enumerate(pairwise(units)):
            if not (left.is_sign or right.is_sign):
                joined = self._analyzer.term(left.text + right.text)
                found.add(place, builder.term(joined), (joined,))
                found.add(place + 1, builder.term(joined), (joined,))

    def _add_words(
        self, found: _Alternatives, builder: _ClauseBuilder, place: int, words: Sequence[str], weight: float
    ) -> None:
        for term in dict.fromkeys(map(self._analyzer.term, words)):
            found.add(place, builder.term(term, weight), (term,))

    def _correct(self, found: _Alternatives, builder: _ClauseBuilder, words: Sequence[Unit]) -> list[Relaxation]:
        """Adds corrections of the words that the index lacks."""
        relaxations = []
        for place, word in enumerate(words):
            if found.of_word[place] or word.is_sign:
                continue
            corrections = self._spelling.correct(word.text)
            self._add_words(found, builder, place, corrections, _CORRECTION_WEIGHT)
            if found.of_word[place]:
                relaxations.append(Relaxation("spelling", corrections[0], word.text))
        return relaxations

    def _split(
        self, units: Sequence[Unit], clauses: Sequence[list[Query]]
    ) -> tuple[list[list[Query]], list[list[Query]]]:
        """Clauses of the distinct words that items should have, and of the stop words; all are required if all are
        stop words."""
        is_stop_word = [self._is_stop_word(unit.text) for unit in units]
        if all(is_stop_word):
            is_stop_word = [False] * len(units)
        parts = list(zip(units, clauses, is_stop_word, strict=True))
        required = {unit.terms: found for unit, found, is_stop in parts if not is_stop}
        return list(required.values()), [found for _, found, is_stop in parts if is_stop and found]

    def _adjacency(self, searcher: tantivy.Searcher, terms: Sequence[str]) -> list[Query]:
        """A clause that adds to the score of items with all words side by side in the title.

        There is none if all words are so common that it would take long.
        """
        if len(set(terms)) < 2 or not self._phrase_weight:
            return []
        if min(searcher.doc_freq(TITLE, term) for term in terms) > _MAX_ADJACENT_TITLES:
            return []
        return [Query.boost_query(Query.phrase_query(SCHEMA, TITLE, list(terms), slop=1), self._phrase_weight)]


class _ClauseBuilder:
    """Clauses of terms in the fields that have them."""

    def __init__(self, searcher: tantivy.Searcher, weights: dict[str, float]) -> None:
        self._searcher, self._weights = searcher, weights

    def term(self, term: str, weight: float = 1.0) -> list[Query]:
        """One clause for each field that has the term."""
        return [
            Query.boost_query(Query.term_query(SCHEMA, field, term), weight * field_weight)
            for field, field_weight in self._weights.items()
            if self._searcher.doc_freq(field, term)
        ]

    def phrase(self, terms: Sequence[str], weight: float = 1.0, slop: int = 0) -> list[Query]:
        """Clauses of terms in one field: adjacent, or with up to `slop` others in between."""
        if len(terms) == 1:
            return self.term(terms[0], weight)
        return [
            Query.boost_query(Query.phrase_query(SCHEMA, field, list(terms), slop=slop), weight * field_weight)
            for field, field_weight in self._weights.items()
            if field != JOINED and all(self._searcher.doc_freq(field, term) for term in terms)
        ]

    def all_of(self, units: Sequence[Unit], weight: float) -> list[Query]:
        """One clause for items that have all units, each in any field."""
        words = [self.phrase(terms, slop=len(terms) - 1) for terms in dict.fromkeys(unit.terms for unit in units)]
        if not words or not all(words):
            return []
        query = Query.boolean_query([(Occur.Must, _best_of(word)) for word in words])
        return [Query.boost_query(query, weight / len(words))]


def _best_of(clauses: list[Query]) -> Query:
    return Query.disjunction_max_query(clauses, _TIE_BREAKER) if clauses else Query.empty_query()


def _constraints(builder: _ClauseBuilder, query: ParsedQuery) -> list[tuple[Occur, Query]]:
    required = [(Occur.Must, _best_of(builder.phrase(terms))) for terms in query.phrases]
    return [*required, *((Occur.MustNot, _best_of(builder.phrase(terms))) for terms in query.excluded)]


def _stop_word_test(languages: Sequence[str]) -> Callable[[str], bool]:
    """A function that tells whether a word is a stop word of the languages; Tantivy has lists for some."""
    analyzers = []
    for language in languages:
        builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace())
        with suppress(ValueError):  # Tantivy has no list for the language
            analyzers.append(builder.filter(tantivy.Filter.stopword(language)).build())
    return lru_cache(_CACHED_WORDS)(lambda word: any(not analyzer.analyze(word) for analyzer in analyzers))
