"""Search in the catalog of one bundle: matches of a query, their ranking signals, sort orders and facets."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import msgspec
import numpy as np

from recsys_tasks.engine.bundle import Bundle
from recsys_tasks.engine.query_clicks import QueryAssociations
from recsys_tasks.engine.scoring import PredictionScores, top_indices
from recsys_tasks.engine.search_options import MAX_RESULTS, RELEVANCE, SearchOptions, SearchSetup
from recsys_tasks.errors import SearchIndexUnusable
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import CATEGORY_SEPARATOR, FIRST_ITEM
from recsys_tasks.search.completions import QueryCompletions
from recsys_tasks.search.documents import ItemText, Pause
from recsys_tasks.search.index import Matches, SearchIndex
from recsys_tasks.search.index_files import write_index
from recsys_tasks.search.plan import Meaning
from recsys_tasks.search.settings import SignalWeights
from recsys_tasks.search.synonyms import Synonyms
from recsys_tasks.wire.items import Recommendation, Relaxation, SearchResult, Sort

log = logging.getLogger(__name__)

SEARCH_INDEX = "search-index"  # folder in that of a bundle
_MAX_COMPLETIONS = 200
_MAX_RANKED = 1_000  # matches that are ranked where no filter, order or facet examines more
_MIN_SCORE = 1e-9
_TIE = 1e-3
_MEANT = 200  # with fewer matches of all words, the categories that the query means are searched, too
_PRIOR_COUNT = 10.0  # actions added to each item's
_NO_RATIO, _FULL_RATIO = 2.0, 100.0  # ratios without a signal, since chance makes them, and with the full signal
_DESCRIPTION = "description"


class Found(NamedTuple):
    """The items that a query finds.

    Attributes:
        matches: the items, with what the index says of them.
        clicks: association of each with the query by people's choices, from 0 to 1 [N].
        meaning: strength with which the query means its category, from 0 to 1 [N].
    """

    matches: Matches
    clicks: np.ndarray
    meaning: np.ndarray

    def keep(self, mask: np.ndarray) -> Found:
        """Returns the items that a mask [N] selects."""
        return Found(self.matches.keep(mask), self.clicks[mask], self.meaning[mask])


@dataclass(frozen=True)
class RankedMatches:
    """The items that match a query, with their score.

    Attributes:
        matches: the items.
        signals: weighted signals, which add up to the score [N].
    """

    matches: Matches
    signals: Mapping[str, np.ndarray]

    @property
    def scores(self) -> np.ndarray:
        """Score of each match [N]; above 0."""
        total: np.ndarray = np.sum(list(self.signals.values()), axis=0)
        return np.asarray(np.maximum(total, _MIN_SCORE))


class ItemSearch:
    """Finds and scores the items of a bundle; bundles that differ in item updates share one index.

    Args:
        bundle: catalog and popularity.
        index: of the catalog's texts; may contain items that are newer than the bundle.
        setup: weights of the signals, and the query encoder.
    """

    def __init__(self, bundle: Bundle, index: SearchIndex, setup: SearchSetup) -> None:
        self._bundle, self.index, self._setup = bundle, index, setup
        counts = bundle.histories.popularity
        self._shares = counts / max(counts.sum(), 1.0)
        self._popularity = _log_share((counts + _PRIOR_COUNT) / (counts.mean() + _PRIOR_COUNT))

    @classmethod
    def build(cls, bundle: Bundle, setup: SearchSetup, pause: Pause) -> ItemSearch:
        """Returns the search of a bundle, with the index in its folder or a new one.

        Raises:
            ConfigurationError: a language of the settings has no stemmer.
            InputError: the synonym file is not valid.
        """
        search = cls(bundle, _open_index(bundle, setup, pause), setup)
        search._prepare()
        return search

    def _prepare(self) -> None:
        """Computes what the first request would otherwise wait for."""
        encoder = self._setup.query_encoder
        for cached in ("completions", "_paths_of_level", "_associations"):
            getattr(self, cached)
        if self._bundle.category_names.names and encoder is not None:
            encoder.name()  # loads it

    def with_items(self, bundle: Bundle, item_ids: Iterable[str]) -> ItemSearch:
        """Returns the search of an updated bundle, after indexing its updated items."""
        numbers = bundle.vocabulary.numbers(list(item_ids)).tolist()
        self.index.put(item_texts(bundle, numbers))
        search = ItemSearch(bundle, self.index, self._setup)
        if self.completions.contain(name for number in numbers for name in _names(bundle.vocabulary, number)):
            search.completions = self.completions
        return search

    @cached_property
    def _weights(self) -> SignalWeights:
        settings = self._setup.settings
        learned = self._bundle.search_weights if settings.learned_weights else {}
        return msgspec.structs.replace(settings.signals, **learned)

    @cached_property
    def completions(self) -> QueryCompletions:
        """Completes learned queries, those of most people first, then names of brands and category levels by number of
        items."""
        catalog = self._bundle.catalog
        counts = Counter(dict(catalog.brands.counts()))
        for path, count in catalog.categories.counts():
            counts.update(dict.fromkeys(_levels(path), count))
        queries = {query.query: query.people for query in self._bundle.learned_queries}
        known = {name.casefold() for name in queries}
        names = {
            name: count / (len(self._bundle.vocabulary) + 1)
            for name, count in counts.items()
            if name.casefold() not in known
        }
        return QueryCompletions(names | queries)

    def find(
        self,
        query: str,
        allowed: np.ndarray | None,
        options: SearchOptions,
        synonyms: Sequence[Synonyms[Meaning]] = (),
    ) -> Found:
        """Returns the items that match a query, and those that people chose after it.

        A query whose choices are known is not relaxed.

        Args:
            query: search text.
            allowed: items that may be shown [V]; None for all.
            options: sort orders and facets examine up to 10,000 matches, the ranking alone up to 1,000, completions up
                to 200.
            synonyms: of the merchandising rules.
        """
        examines_all = allowed is not None or options.facets or options.sort != RELEVANCE
        limit = MAX_RESULTS if examines_all else _MAX_RANKED  # the same for all pages: no item is on two of them
        if options.is_prefix:
            limit = _MAX_COMPLETIONS
        association = self._association(query)
        matches = self.index.find(query, limit, options.is_prefix, is_exact=len(association) > 0, synonyms=synonyms)
        num_items = len(self._bundle.vocabulary)
        if (matches.numbers >= num_items).any():
            matches = matches.keep(matches.numbers < num_items)
        if len(association):
            matches = matches.add(self._best(association, limit))
        meaning = np.zeros(0)
        if not len(association) and not options.is_prefix and (matches.coverage == 1).sum() < _MEANT:
            meaning, names = self._meaning(query)
            meant = (Relaxation("meaning", name, query) for name in names)
            matches = matches.add(self._best(meaning, limit))._replace(relaxations=(*matches.relaxations, *meant))
        if allowed is not None:
            matches = matches.keep(allowed[matches.numbers])
        return Found(matches, _values(association, matches.numbers), _values(meaning, matches.numbers))

    def _best(self, values: np.ndarray, limit: int) -> np.ndarray:
        """Numbers of the items with the highest values above 0 [V]; the more popular of equal ones."""
        if not len(values):
            return np.zeros(0, np.int64)
        return top_indices(np.where(values > 0, values + _TIE * self._popularity, -np.inf), limit)

    def _meaning(self, query: str) -> tuple[np.ndarray, list[str]]:
        """Strength with which a query means the category of each item [V], and the names of the categories."""
        names, encoder = self._bundle.category_names, self._setup.query_encoder
        if not names.names or encoder is None or encoder.name() != names.encoder:
            return np.zeros(0), []
        strengths, categories = names.similar(encoder.encode(query)), self._bundle.catalog.categories
        by_path = np.zeros(len(categories.values) + 1)  # the last one for code -1
        for name, strength in strengths.items():
            codes = self._paths_of_level.get(name, [])
            by_path[codes] = np.maximum(by_path[codes], strength)
        return by_path[categories.codes], list(strengths)

    @cached_property
    def _paths_of_level(self) -> dict[str, list[int]]:
        """Codes of the category paths that have a level, by its name."""
        codes = defaultdict(list)
        for code, path in enumerate(self._bundle.catalog.categories.values):
            for level in dict.fromkeys(_levels(path)):
                codes[level].append(code)
        return codes

    def _association(self, query: str) -> np.ndarray:
        """Association of each item with a learned query [V]; empty for other queries."""
        if not self._bundle.learned_queries:
            return np.zeros(0)
        categories = self._bundle.catalog.categories
        return self._associations.find(query, self._bundle.vocabulary, categories.codes, categories.values)

    @cached_property
    def _associations(self) -> QueryAssociations:
        return QueryAssociations(self._bundle.learned_queries, self.index.key)

    def rank(self, found: Found, personal: PredictionScores | None) -> RankedMatches:
        """Returns the matches with their signals, each weighted.

        Args:
            found: result of `find`; at least one item.
            personal: the model's next-item probabilities; None without a model.
        """
        matches, weights = found.matches, self._weights
        numbers = matches.numbers
        signals = {
            "text": weights.text * matches.text * matches.coverage,
            "words": weights.words * np.maximum.reduce([matches.coverage, found.clicks, found.meaning]),
            "name": weights.name * matches.name,
            "meaning": weights.meaning * found.meaning,
            "clicks": weights.clicks * found.clicks,
            "popularity": weights.popularity * self._popularity[numbers],
        }
        if personal is not None:
            lift = personal.of(numbers) / np.maximum(self._shares[numbers], 1 / len(self._shares))
            signals["personal"] = weights.personal * _log_share(lift)
        return RankedMatches(matches, signals)

    def sort(self, ranked: RankedMatches, sort: Sort) -> np.ndarray:
        """Returns the order of matches as indices [N]; ties are ordered by relevance, unknown values come last."""
        numbers = ranked.matches.numbers
        keys: Mapping[str, np.ndarray] = {"popularity": -self._bundle.histories.popularity[numbers]}
        if sort.startswith("price"):
            price = self._bundle.catalog.price[numbers]
            keys = {sort: price if sort == "price_ascending" else -price}
        elif sort == "newest":
            keys = {sort: -self._bundle.catalog.available_since[numbers]}
        return np.lexsort((-ranked.scores, np.nan_to_num(keys[sort], nan=np.inf)))

    def describe(
        self, ranked: RankedMatches, numbers: Sequence[int], items: Sequence[Recommendation], options: SearchOptions
    ) -> Iterator[SearchResult]:
        """Yields results with the highlights and explanations that the options ask for.

        Args:
            ranked: the matches.
            numbers: item numbers of the results.
            items: the results, in the same order.
            options: of the search.
        """
        row_of = {number: row for row, number in enumerate(ranked.matches.numbers.tolist())} if options.explain else {}
        for number, item in zip(numbers, items, strict=True):
            result = SearchResult(*msgspec.structs.astuple(item))
            if options.highlight:
                title = self.index.highlight(item.title, ranked.matches.terms)
                result = msgspec.structs.replace(result, highlight=title)
            if options.explain and number in row_of:  # a pin has no signals
                shares = {name: float(values[row_of[number]]) for name, values in ranked.signals.items()}
                result = msgspec.structs.replace(result, signals=shares)
            yield result


def _open_index(bundle: Bundle, setup: SearchSetup, pause: Pause) -> SearchIndex:
    folder, settings = bundle.folder / SEARCH_INDEX, setup.settings
    try:
        return SearchIndex(folder, settings)
    except SearchIndexUnusable as error:
        log.info("Building the search index of model version %s: %s", bundle.manifest.get("model_version"), error)
    texts, titles = item_texts(bundle, range(FIRST_ITEM, len(bundle.vocabulary))), bundle.vocabulary.titles
    if not setup.saves_index:
        return SearchIndex.of_items(settings, texts, titles, pause)
    write_index(folder, settings, texts, titles, pause)
    return SearchIndex(folder, settings)


def item_texts(bundle: Bundle, numbers: Iterable[int]) -> Iterator[ItemText]:
    """Yields the searchable texts of items."""
    vocabulary, catalog = bundle.vocabulary, bundle.catalog
    for number in numbers:
        row = number - FIRST_ITEM
        properties = catalog.properties_of(number)
        levels = _levels(vocabulary.category_paths[row])
        others = " , ".join(_text(value) for name, value in properties.items() if name != _DESCRIPTION)
        description = _text(properties.get(_DESCRIPTION))
        yield ItemText(number, vocabulary.titles[row], vocabulary.brands[row], levels, description, others)


def _names(vocabulary: Vocabulary, number: int) -> list[str]:
    """Brand and category levels of an item."""
    row = number - FIRST_ITEM
    return [name for name in (vocabulary.brands[row], *_levels(vocabulary.category_paths[row])) if name]


def _levels(path: str) -> list[str]:
    return [level for level in path.split(CATEGORY_SEPARATOR) if level]


def _text(value: object) -> str:
    """Words of a property; none for what is not text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " , ".join(_text(entry) for entry in value)
    return "" if value is None or isinstance(value, bool | dict) else str(value)


def _values(by_number: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Values [N] of item numbers from values [V], or from none."""
    return by_number[numbers] if len(by_number) else np.zeros(len(numbers))


def _log_share(ratio: np.ndarray) -> np.ndarray:
    """Logarithm of ratios from 2 to 100, scaled to [0, 1]; of a model that knows nothing, all are below."""
    log_ratio = np.log(np.maximum(ratio, _NO_RATIO) / _NO_RATIO)
    return np.asarray(np.minimum(log_ratio / np.log(_FULL_RATIO / _NO_RATIO), 1.0))
