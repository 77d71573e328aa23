"""Full-text index of a catalog: finds the items with all words of a query, then those with fewer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from html import escape
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tantivy
from tantivy import Occur, Query

from recsys_tasks.search.documents import NUMBER, SCHEMA, ItemText, Pause, add_documents
from recsys_tasks.search.index_files import PrivateFolder, link_index, open_index, write_index
from recsys_tasks.search.plan import Meaning, Plan, QueryPlanner
from recsys_tasks.search.query import parse_query
from recsys_tasks.search.settings import SearchSettings
from recsys_tasks.search.synonyms import Synonyms, read_synonyms
from recsys_tasks.wire.items import Relaxation
from recsys_tasks.wire.rules import MerchandisingRules

_SHARES = ("text", "coverage", "name")  # columns of `Matches`
_SCATTERED = 0.5  # coverage of an item that has the signs of Han words anywhere
_MAX_COMBINATIONS = 10
FEW_MATCHES = 10  # with fewer matches of all words, the query is relaxed


class Matches(NamedTuple):
    """Items that match a query.

    Attributes:
        numbers: item numbers [N].
        text: BM25 score as a share of the best match [N].
        coverage: share of the query's words that the item must have [N]; 1 for all.
        name: share of the query's words that are the name of the item's brand or of a level of its category [N].
        total: number of items found; exact also beyond N.
        relaxations: what was changed to find them.
        terms: index terms that were searched for, with synonyms and corrections.
    """

    numbers: np.ndarray
    text: np.ndarray
    coverage: np.ndarray
    name: np.ndarray
    total: int
    relaxations: tuple[Relaxation, ...] = ()
    terms: frozenset[str] = frozenset()

    def add(self, numbers: np.ndarray) -> Matches:
        """Returns these matches followed by those of the items [M] that are not among them; their text has no match."""
        if not len(numbers):
            return self
        added = np.setdiff1d(numbers, self.numbers)
        empty = np.zeros(len(added))
        columns: dict[str, Any] = {name: np.concatenate([getattr(self, name), empty]) for name in _SHARES}
        return self._replace(numbers=np.concatenate([self.numbers, added]), total=self.total + len(added), **columns)

    def keep(self, mask: np.ndarray) -> Matches:
        """Returns the matches that a mask [N] selects; `total` then counts only these."""
        kept = {name: getattr(self, name)[mask] for name in ("numbers", *_SHARES)}
        return self._replace(**kept, total=int(mask.sum()))


NO_MATCHES = Matches(np.zeros(0, np.int64), np.zeros(0), np.zeros(0), np.zeros(0), 0)


class SearchIndex:
    """Inverted index (Tantivy) in a folder. An item's score for a word is the best of its fields by BM25 (Robertson and
    Zaragoza 2009) plus a share of the others (disjunction maximum).

    The folder does not change, so that several processes can open it: items that are put later go to a private copy.

    Args:
        folder: written by `write_index`.
        settings: synonyms, field weights and languages.

    Raises:
        SearchIndexUnusable: the index must be written anew.
        InputError: the synonym file is not valid.
    """

    def __init__(self, folder: Path, settings: SearchSettings) -> None:
        self._folder = folder
        index, documents = open_index(folder, settings)
        self._searcher, self._documents = index.searcher(), documents
        self._analyzer, self._names = documents.analyzer, documents.names
        synonyms = read_synonyms(settings.synonyms, self._analyzer)
        self._planner = QueryPlanner(settings.fields, self._analyzer, synonyms, documents.spelling, documents.compounds)

    @classmethod
    def of_items(
        cls, settings: SearchSettings, items: Iterable[ItemText], titles: Iterable[str], pause: Pause
    ) -> SearchIndex:
        """Returns an index in a temporary folder; the arguments and errors are those of `write_index`."""
        private = PrivateFolder(None)
        folder = Path(private.name) / "index"
        write_index(folder, settings, items, titles, pause)
        index = cls(folder, settings)
        index._private = private  # removed with the index
        return index

    @cached_property
    def _private(self) -> PrivateFolder:
        return PrivateFolder(self._folder.parent)

    @cached_property
    def _changed(self) -> tantivy.Index:
        """A private copy."""
        folder = Path(self._private.name) / "changed"
        link_index(self._folder, folder)
        return tantivy.Index(SCHEMA, path=str(folder))

    def put(self, items: Iterable[ItemText]) -> None:
        """Indexes items, replacing their earlier documents; the next search finds them."""
        add_documents(self._changed, self._documents, items, lambda: None)
        self._searcher = self._changed.searcher()

    def key(self, text: str) -> str:
        """Returns the index terms of a text as one; texts with the same key find the same items."""
        return " ".join(self._analyzer.terms(text))

    def synonyms(self, rules: MerchandisingRules) -> Synonyms[Meaning]:
        """Returns the synonyms of merchandising rules, for `find`."""
        return self._planner.synonyms(rules)

    def find(
        self,
        text: str,
        limit: int,
        is_prefix: bool = False,
        is_exact: bool = False,
        synonyms: Sequence[Synonyms[Meaning]] = (),
    ) -> Matches:
        """Returns the items that match a query, those with all of its words first.

        Fewer words are required, one by one, while less than ten items are found.

        Args:
            text: query in any language; see `query.parse_query`.
            limit: maximum number of items.
            is_prefix: whether the last word may be unfinished.
            is_exact: whether items must have all words, and none is corrected.
            synonyms: beside those of the settings.
        """
        searcher = self._searcher  # another thread may replace it: addresses of hits are those of one searcher
        query = parse_query(text, self._analyzer)
        plan = self._planner.plan(searcher, query, is_prefix, not is_exact, further_synonyms=synonyms)
        num_words, few = len(plan.required), min(limit, FEW_MATCHES)
        found, total, fewest = _Found(), 0, num_words
        for required in range(num_words, 0, -1):
            count = found.add(_search(searcher, plan, required, limit), required / num_words)
            if count > total:
                total, fewest = count, required
            if is_exact or total >= few or (total and 2 * required <= num_words + 1):
                break
        relaxations = plan.relaxations
        if fewest < num_words:
            relaxations = [*relaxations, Relaxation("words", f"{fewest} of {num_words} words", "all words")]
        if plan.has_phrases and not is_exact and total < few:
            split = self._planner.plan(searcher, query, is_prefix, splits_signs=True, further_synonyms=synonyms)
            count = found.add(_search(searcher, split, len(split.required), limit), _SCATTERED)
            if count > total:
                total, relaxations = count, [*relaxations, Relaxation("words", "single signs", "all words")]
        numbers, scores, coverage = (column[:limit] for column in found.columns())
        if not len(numbers):
            return NO_MATCHES._replace(relaxations=tuple(relaxations))
        names = self._names.shares(plan.query_terms, numbers)
        return Matches(numbers, scores / scores.max(), coverage, names, total, tuple(relaxations), plan.searched_terms)

    def highlight(self, text: str, terms: Collection[str]) -> str:
        """Returns a text as HTML with the words that have one of the terms in `<em>`; the rest is escaped."""
        parts, at = [], 0
        for word in self._analyzer.words(text):
            if self._analyzer.term_of(word) in terms and at <= word.start:
                parts += [escape(text[at : word.start]), "<em>", escape(text[word.start : word.end]), "</em>"]
                at = word.end
        return "".join([*parts, escape(text[at:])]).replace("</em><em>", "")


class _Hits(NamedTuple):
    """Number of items found, and the numbers and scores of the best of them [N]."""

    total: int
    numbers: np.ndarray
    scores: np.ndarray


class _Found:
    """Items of several searches, those of earlier ones first."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, hits: _Hits, coverage: float) -> int:
        """Adds the items that no earlier search found; returns how many the search found."""
        numbers, scores = hits.numbers, hits.scores
        if self._parts and len(numbers):
            is_new = np.isin(numbers, self.columns()[0], invert=True)
            numbers, scores = numbers[is_new], scores[is_new]
        if len(numbers):
            self._parts.append((numbers, scores, np.full(len(numbers), coverage)))
        return hits.total

    def columns(self) -> Sequence[np.ndarray]:
        """Item numbers, scores and coverage [N]."""
        if len(self._parts) == 1:
            return self._parts[0]
        return [np.concatenate(column) for column in zip(*self._parts, strict=True)] or [np.zeros(0)] * 3


def _search(searcher: tantivy.Searcher, plan: Plan, num_required: int, limit: int) -> _Hits:
    """Finds the items with a number of the query's words."""
    clauses = [(Occur.Must, _at_least(plan.required, num_required)), *plan.constraints]
    boosts = [(Occur.Should, clause) for clause in plan.boosts]
    result: Any = searcher.search(Query.boolean_query([*clauses, *boosts]), limit)
    hits = result.hits  # each access makes new objects
    numbers: list[Any] = searcher.fast_field_values(NUMBER, [address for _, address in hits])
    return _Hits(result.count, np.asarray(numbers, np.int64), np.asarray([score for score, _ in hits]))


def _at_least(words: list[Query], num_required: int) -> Query:
    """Items with a number of words. Few combinations of them are searched for as such: an intersection is much faster
    than Tantivy's minimum, and items with exactly this number of words get the same score."""
    if num_required == len(words):
        return Query.boolean_query([(Occur.Must, word) for word in words])
    if num_required > 1 and comb(len(words), num_required) <= _MAX_COMBINATIONS:
        parts = [
            Query.boolean_query([(Occur.Must, word) for word in part]) for part in combinations(words, num_required)
        ]
        return Query.disjunction_max_query(parts, 0.0)
    return Query.boolean_query([(Occur.Should, word) for word in words], minimum_number_should_match=num_required)
