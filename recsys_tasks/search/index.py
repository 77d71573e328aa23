"""Full-text index of a catalog: finds the items with all words of a query, then those with fewer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from html import escape
from typing import Any, NamedTuple

import numpy as np
import tantivy
from tantivy import Occur, Query

from recsys_tasks.search.analysis import Analyzer
from recsys_tasks.search.catalog_names import CatalogNames
from recsys_tasks.search.plan import BRAND, CATEGORY, DESCRIPTION, FIELDS, JOINED, PROPERTIES, TITLE, Plan, QueryPlanner
from recsys_tasks.search.query import parse_query
from recsys_tasks.search.settings import SearchSettings
from recsys_tasks.search.spelling import SpellChecker
from recsys_tasks.search.synonyms import read_synonyms
from recsys_tasks.wire.items import Relaxation

Pause = Callable[[], None]

_NUMBER = "number"
_SHARES = ("text", "coverage", "name")  # columns of `Matches`
_CACHED_TEXTS = 1 << 14
_HEAP_BYTES = 32 << 20
_ITEMS_PER_STEP = 250  # between two calls of `pause`
_SCATTERED = 0.5  # coverage of an item that has the signs of Han words anywhere
FEW_MATCHES = 10  # with fewer matches of all words, the query is relaxed


class ItemText(NamedTuple):
    """The texts of an item, empty where unknown; a category path is a list of its levels."""

    number: int
    title: str
    brand: str
    categories: Sequence[str]
    description: str
    properties: str


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
    """Inverted index in memory (Tantivy). An item's score for a word is the best of its fields by BM25 (Robertson and
    Zaragoza 2009) plus a share of the others (disjunction maximum).

    Args:
        settings: languages, synonyms and field weights.
        items: the texts of all items.
        pause: called every 250 items, to throttle the work.

    Raises:
        InputError: the synonym file is not valid.
    """

    def __init__(self, settings: SearchSettings, analyzer: Analyzer, items: Iterable[ItemText], pause: Pause) -> None:
        self._analyzer, self._spelling, self._names = analyzer, SpellChecker(), CatalogNames()
        self._analyze = lru_cache(_CACHED_TEXTS)(analyzer.analyze)  # items share brand, category and often the title
        builder = tantivy.SchemaBuilder()
        for name in FIELDS:
            builder.add_text_field(name, tokenizer_name="whitespace", index_option="position")
        builder.add_unsigned_field(_NUMBER, indexed=True, fast=True)
        self._schema = builder.build()
        synonyms = read_synonyms(settings.synonyms, analyzer)
        self._planner = QueryPlanner(self._schema, settings.fields, analyzer, synonyms, self._spelling)
        self._index = tantivy.Index(self._schema)
        self.put(items, new=True, pause=pause)

    def put(self, items: Iterable[ItemText], new: bool = False, pause: Pause = lambda: None) -> None:
        """Indexes items, replacing their earlier documents; the next search finds them.

        Args:
            items: the texts.
            new: skips the deletion of earlier documents, for items that have none.
            pause: called every 250 items, to throttle the work.
        """
        writer = self._index.writer(_HEAP_BYTES, num_threads=1)
        for count, item in enumerate(items, start=1):
            if not new:
                writer.delete_documents_by_query(Query.term_query(self._schema, _NUMBER, item.number))
            writer.add_document(self._document(item))
            if count % _ITEMS_PER_STEP == 0:
                pause()
        writer.commit()
        writer.wait_merging_threads()
        self._index.reload()
        self._searcher = self._index.searcher()

    def _document(self, item: ItemText) -> tantivy.Document:
        title, brand, *levels = map(self._analyze, (item.title, item.brand, *item.categories))
        texts = (title, brand, *levels)
        self._spelling.add([word for text in texts for word in text.words])
        self._names.put(item.number, [text.terms for text in texts[1:]])
        fields = {
            TITLE: title.terms,
            BRAND: brand.terms,
            JOINED: [term for text in texts for term in text.joined],
            DESCRIPTION: self._analyzer.terms(item.description) if item.description else (),
            PROPERTIES: self._analyzer.terms(item.properties) if item.properties else (),
        }
        document = tantivy.Document()
        for field, terms in fields.items():
            if terms:
                document.add_text(field, " ".join(terms))
        for level in levels:
            document.add_text(CATEGORY, " ".join(level.terms))
        document.add_unsigned(_NUMBER, item.number)
        return document

    def key(self, text: str) -> str:
        """Returns the index terms of a text as one; texts with the same key find the same items."""
        return " ".join(self._analyzer.terms(text))

    def find(self, text: str, limit: int, is_prefix: bool = False, is_exact: bool = False) -> Matches:
        """Returns the items that match a query, those with all of its words first.

        Fewer words are required, one by one, while less than ten items are found.

        Args:
            text: query in any language; see `query.parse_query`.
            limit: maximum number of items.
            is_prefix: whether the last word may be unfinished.
            is_exact: whether items must have all words, and none is corrected.
        """
        searcher = self._searcher  # another thread may replace it: addresses of hits are those of one searcher
        query = parse_query(text, self._analyzer)
        plan = self._planner.plan(searcher, query, is_prefix, not is_exact)
        num_words = len(plan.required)
        found: dict[int, tuple[float, float]] = {}
        total, fewest = 0, num_words
        for required in range(num_words, 0, -1):
            count, hits = _search(searcher, plan, required, limit)
            for number, score in hits:
                found.setdefault(number, (score, required / num_words))
            if count > total:
                total, fewest = count, required
            if is_exact or total >= min(limit, FEW_MATCHES) or (found and 2 * required <= num_words + 1):
                break
        relaxations = plan.relaxations
        if fewest < num_words:
            relaxations = [*relaxations, Relaxation("words", f"{fewest} of {num_words} words", "all words")]
        if plan.has_phrases and not is_exact and total < min(limit, FEW_MATCHES):
            split = self._planner.plan(searcher, query, is_prefix, splits_signs=True)
            count, hits = _search(searcher, split, len(split.required), limit)
            for number, score in hits:
                found.setdefault(number, (score, _SCATTERED))
            if count > total:
                total, relaxations = count, [*relaxations, Relaxation("words", "single signs", "all words")]
        if not found:
            return NO_MATCHES._replace(relaxations=tuple(relaxations))
        numbers = np.fromiter(found, np.int64, len(found))[:limit]
        scores, coverage = np.asarray(list(found.values()))[:limit].T
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


def _search(
    searcher: tantivy.Searcher, plan: Plan, num_required: int, limit: int
) -> tuple[int, list[tuple[int, float]]]:
    """Returns how many items have a number of the words, and the best of them with their scores."""
    words = [(Occur.Should, clause) for clause in plan.required]
    base = Query.boolean_query(words, minimum_number_should_match=num_required)
    boosts = [(Occur.Should, clause) for clause in plan.boosts]
    result: Any = searcher.search(Query.boolean_query([(Occur.Must, base), *plan.constraints, *boosts]), limit)
    numbers: list[Any] = searcher.fast_field_values(_NUMBER, [address for _, address in result.hits])
    return result.count, [(number, score) for (score, _), number in zip(result.hits, numbers, strict=True)]
