"""The weights of the search signals follow what people choose, if that helps on other queries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from recsys_tasks.engine.bundle import Bundle, Histories
from recsys_tasks.engine.catalog import Catalog, CatalogColumns
from recsys_tasks.engine.item_search import ItemSearch
from recsys_tasks.engine.query_clicks import LearnedQuery
from recsys_tasks.engine.search_options import DEFAULT_SEARCH, SearchSetup
from recsys_tasks.engine.throttle import no_pause
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import FIRST_ITEM
from recsys_tasks.promotion.search_weights import learn_search_weights, search_ndcg
from recsys_tasks.search.settings import read_search_settings

KINDS = 120
PER_KIND = 12


def _bundle(choose: str, kinds: int = KINDS) -> Bundle:
    """A shop with twelve items of each kind; people choose the most popular ones, or those with the shortest titles."""
    names = [f"kind{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(kinds)]
    titles = [f"{name}{' extra' * length}" for name in names for length in range(PER_KIND)]
    ids = tuple(f"i{number}" for number in range(len(titles)))
    nothing = ("",) * len(ids)
    vocabulary = Vocabulary(ids, tuple(titles), nothing, nothing, (1,) * len(ids))
    popularity = np.concatenate([np.zeros(FIRST_ITEM), np.tile(np.arange(PER_KIND) ** 10.0, kinds)])  # longest: most
    order = range(PER_KIND - 1, -1, -1) if choose == "popular" else range(PER_KIND)
    queries = [
        LearnedQuery(name, 30, [f"i{kind * PER_KIND + place}" for place in order][:3], [1.0, 0.8, 0.6], {})
        for kind, name in enumerate(names)
    ]
    parts: dict[str, Any] = dict.fromkeys(("items", "words", "neighbors", "intent"))
    return Bundle(
        folder=Path(),
        manifest={},
        digest="",
        vocabulary=vocabulary,
        has_query_input=False,
        is_trained=True,
        catalog=Catalog(vocabulary, CatalogColumns.empty(len(ids))),
        histories=Histories.without_users(popularity),
        golden=[],
        learned_queries=queries,
        **parts,
    )


def _first(bundle: Bundle, weights: dict[str, float]) -> str:
    plain = replace(bundle, learned_queries=(), manifest={"search_weights": weights})
    search = ItemSearch.build(plain, SearchSetup(read_search_settings(None)), no_pause)
    ranked = search.rank(search.find("kindaa", None, DEFAULT_SEARCH), None)
    return plain.vocabulary.item_id(int(ranked.matches.numbers[np.argmax(ranked.scores)]))


def test_weights_are_learned_where_people_choose_otherwise_than_the_defaults_rank() -> None:
    bundle = _bundle("popular")
    weights = learn_search_weights(bundle)
    defaults = read_search_settings(None).signals
    assert weights["popularity"] > defaults.popularity
    assert weights["text"] < defaults.text
    assert min(weights.values()) >= 0
    assert _first(bundle, weights) == f"i{PER_KIND - 1}", "the most popular item of the kind"


def test_the_defaults_stay_where_they_are_as_good() -> None:
    bundle = _bundle("shortest")
    flat = replace(bundle, histories=Histories.without_users(np.ones(len(bundle.vocabulary))))
    assert learn_search_weights(flat) == {}


def test_few_queries_teach_nothing() -> None:
    assert learn_search_weights(_bundle("popular", kinds=50)) == {}


def test_a_shop_can_keep_its_own_weights() -> None:
    bundle = _bundle("popular")
    weights = learn_search_weights(bundle)
    settings = msgspec.structs.replace(read_search_settings(None), learned_weights=False)
    plain = replace(bundle, learned_queries=(), manifest={"search_weights": weights})
    search = ItemSearch.build(plain, SearchSetup(settings), no_pause)
    found = search.find("kindaa", None, DEFAULT_SEARCH)
    default = ItemSearch.build(replace(plain, manifest={}), SearchSetup(settings), no_pause)
    np.testing.assert_allclose(search.rank(found, None).scores, default.rank(found, None).scores)


def test_a_bundle_that_lost_its_titles_has_a_lower_search_ndcg() -> None:
    bundle = _bundle("shortest")
    queries = list(bundle.learned_queries)
    untitled = replace(bundle.vocabulary, titles=("",) * len(bundle.vocabulary.item_ids))
    assert search_ndcg(bundle, queries) > 0.5
    assert search_ndcg(replace(bundle, vocabulary=untitled), queries) == 0
