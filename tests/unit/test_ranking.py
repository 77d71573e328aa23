"""Filters, merchandising rules, diversity and explanations of ranked lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.engine.catalog import Catalog
from recsys_tasks.engine.explanations import BOUGHT_AGAIN, NO_REASON, POPULAR, ActionHistory, Explainer
from recsys_tasks.engine.filters import FilterEvaluator
from recsys_tasks.engine.merchandising import read_rules
from recsys_tasks.engine.ranking import ListOptions, Ranker
from recsys_tasks.engine.scoring import ItemVectors, PrecomputedScores
from recsys_tasks.errors import InputError
from recsys_tasks.features.item_neighbors import ItemNeighbors
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM
from recsys_tasks.wire.filters import Filter, check_filter
from recsys_tasks.wire.rules import MerchandisingRules, Pin
from tests.integration.bundles import catalog_columns
from tests.shops import ITEMS, START, vocabulary

WORDS = vocabulary()
CATALOG = Catalog(WORDS, catalog_columns(ITEMS))
NO_NEIGHBORS = ItemNeighbors.none(len(WORDS))
BEFORE_START = START.timestamp() - 1
AT_START = START.timestamp()


def _vectors() -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((len(WORDS), 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


VECTORS = ItemVectors(_vectors(), np.zeros(len(WORDS), np.float32))
SCORES = np.linspace(1, 0.01, len(WORDS)).astype(np.float32)  # lower numbers score higher


def _filter(condition: dict[str, Any]) -> Filter:
    filter_ = msgspec.convert(condition, Filter)
    check_filter(filter_, "$")
    return filter_


def _matches(condition: dict[str, Any]) -> set[int]:
    return {int(number) - FIRST_ITEM for number in np.flatnonzero(FilterEvaluator(CATALOG).mask(_filter(condition)))}


def _ranked(rules: MerchandisingRules | None = None, now: float = BEFORE_START, **options: Any) -> list[str]:
    ranker = Ranker(CATALOG, VECTORS, rules or MerchandisingRules())
    ranked = ranker.rank(PrecomputedScores(SCORES), ListOptions(**{"k": 10, **options}), now)
    return [WORDS.item_id(number) for number in ranked.numbers]


ALL = set(range(ITEMS))


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"field": "item_id", "one_of": ["i3", "i5", "unknown"]}, {3, 5}),
        ({"field": "price", "at_least": 4, "at_most": 9}, {4, 5, 6, 7, 9}),  # i8 has no price
        ({"field": "price", "one_of": [4]}, {4}),
        ({"field": "category", "under": ["D0"]}, {n for n in ALL if n % 2 == 0}),
        ({"field": "category", "under": ["D0 > C1"]}, {n for n in ALL if n % 2 == 0 and n % 5 == 1}),
        ({"field": "category", "under": ["D"]}, set()),  # not a prefix of a name
        ({"field": "category", "one_of": ["D1 > C2"]}, {n for n in ALL if n % 2 == 1 and n % 5 == 2}),
        ({"field": "brand", "one_of": ["Acme"]}, set()),
        ({"field": "properties.size", "one_of": [2]}, {n for n in ALL if n % 3 == 2 and n != 8}),
        ({"field": "properties.size", "one_of": [True, "2"]}, set()),
        ({"field": "properties.size", "at_least": 1}, {n for n in ALL if n % 3 >= 1 and n != 8}),
        ({"field": "properties.tags", "one_of": ["new"]}, ALL - {8}),
        ({"field": "properties.colour", "one_of": ["red"]}, set()),
    ],
)
def test_a_condition_selects_the_matching_items(condition: dict[str, Any], expected: set[int]) -> None:
    assert _matches(condition) == expected


_CONDITIONS = st.one_of(
    st.builds(
        lambda low, width: {"field": "price", "at_least": low, "at_most": low + width}, *[st.integers(0, 40)] * 2
    ),
    st.builds(lambda size: {"field": "properties.size", "one_of": [size]}, st.integers(0, 3)),
    st.builds(lambda path: {"field": "category", "under": [path]}, st.sampled_from(["D0", "D1", "D1 > C3"])),
)


@given(st.lists(_CONDITIONS, min_size=1, max_size=4))
def test_filters_combine_like_sets(conditions: list[dict[str, Any]]) -> None:
    single = [_matches(condition) for condition in conditions]
    assert _matches({"all": conditions}) == set.intersection(*single)
    assert _matches({"any": conditions}) == set.union(*single)
    assert _matches({"not": conditions[0]}) == ALL - single[0]


@pytest.mark.parametrize(
    ("condition", "problem"),
    [
        ({}, "a condition has one of one_of"),
        ({"field": "price"}, "a condition has one of one_of"),
        ({"one_of": ["a"]}, "needs `field`"),
        ({"field": "colour", "one_of": ["a"]}, "no field 'colour', but item_id, category, brand, price"),
        ({"field": "brand", "at_least": 1}, "`brand` has no order"),
        ({"field": "brand", "under": ["a"]}, "`under` is for `category`"),
        ({"field": "brand", "one_of": ["a"], "at_least": 1}, "a condition has one of"),
        ({"field": "brand", "any": [{"field": "price", "at_least": 1}]}, "has no `field`"),
        ({"all": [{"field": "price", "at_least": 1}, {"not": {"field": "x", "at_least": 1}}]}, r"at `\$.all\[1\].not`"),
    ],
)
def test_a_malformed_filter_is_rejected_with_its_location(condition: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        _filter(condition)


def test_a_filter_is_limited_in_conditions_and_depth() -> None:
    deep: dict[str, Any] = {"field": "price", "at_least": 1}
    for _ in range(20):
        deep = {"not": deep}
    wide = {"any": [{"field": "price", "at_least": 1}] * 200}
    for condition in (deep, wide):
        with pytest.raises(InputError, match="at most 100 conditions, nested at most 10 deep"):
            _filter(condition)


def test_an_unavailable_item_is_not_shown() -> None:
    ranker, scores = Ranker(CATALOG, VECTORS, MerchandisingRules()), PrecomputedScores(SCORES)
    times = (BEFORE_START, AT_START, AT_START + 1, BEFORE_START)
    shown = [ranker.rank(scores, ListOptions(10), now).numbers for now in times]
    assert [WORDS.number_of["i7"] in numbers for numbers in shown] == [True, False, False, True]
    assert "i7" not in _ranked(now=AT_START, filter=_filter({"field": "price", "at_most": 9}))


def test_excluded_and_filtered_items_are_not_shown() -> None:
    in_category = _filter({"field": "category", "under": ["D0"]})
    assert _ranked(k=3, exclude=frozenset({"i0", "unknown"}), filter=in_category) == ["i2", "i4", "i6"]
    assert _ranked(k=500, filter=_filter({"field": "price", "at_most": 1})) == ["i0", "i1"]


def test_diversity_lowers_the_similarity_within_a_list() -> None:
    def similarity(items: list[str]) -> float:
        chosen = VECTORS[WORDS.numbers(items)]
        return float((chosen @ chosen.T).sum() - len(items))

    assert _ranked() == [f"i{n}" for n in range(10)]
    assert _ranked(diversity=0.7)[0] == "i0"
    assert similarity(_ranked(diversity=0.7)) < similarity(_ranked())


def test_a_category_limit_is_kept() -> None:
    ranked = _ranked(k=20, at_most_per_category=1)
    paths = [WORDS.category_paths[int(item[1:])] for item in ranked]
    assert len(paths) == len(set(paths)) == 10  # there are only ten categories
    assert ranked[:2] == ["i0", "i1"]


def test_rules_boost_bury_pin_and_limit(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(
        """
        at_most_per_category = 2
        [[weigh]]
        filter = { field = "item_id", one_of = ["i9"] }
        factor = 100
        [[weigh]]
        filter = { field = "price", at_most = 3 }
        factor = 0
        [[pin]]
        item_id = "i30"
        position = 2
        [[pin]]
        item_id = "unknown"
        position = 1
        """,
        encoding="utf-8",
    )
    assert _ranked(read_rules(path), k=4) == ["i9", "i30", "i4", "i5"]


def test_an_excluded_item_is_not_pinned() -> None:
    rules = MerchandisingRules(pin=[Pin("i30", 1)])
    assert _ranked(rules)[0] == "i30"
    assert "i30" not in _ranked(rules, exclude=frozenset({"i30"}))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("weigh = 3", "Expected `array`"),
        ("[[pin]]\nitem_id = 'a'\nposition = 0", "position"),
        ("[[weigh]]\nfactor = 2\nfilter = {field = 'colour', one_of = ['a']}", r"weigh\[0\].filter"),
        ("[[[", "Invalid|Expected"),
        ("[[pin]]\nitem_id = 'a'\nposition = 1\n[[pin]]\nitem_id = 'b'\nposition = 1", "same `position`"),
        ("[[pin]]\nitem_id = 'a'\nposition = 1\n[[pin]]\nitem_id = 'a'\nposition = 2", "same `item_id`"),
    ],
)
def test_invalid_rules_are_rejected_with_file_and_location(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=problem) as rejected:
        read_rules(path)
    assert str(path) in str(rejected.value)


def _explainer(popularity: np.ndarray | None = None, neighbors: ItemNeighbors | None = None) -> Explainer:
    """Items of unrelated vectors, but for i1, i2 and i3, which are nearly the same."""
    vectors = np.random.default_rng(0).normal(size=(len(WORDS), 32)).astype(np.float32)
    alike = WORDS.numbers(["i1", "i2", "i3"])
    vectors[alike] = vectors[alike[0]] + 0.3 * vectors[alike]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    shares = np.full(len(WORDS), 1 / len(WORDS)) if popularity is None else popularity
    return Explainer(CATALOG, ItemVectors(vectors, np.zeros(len(WORDS))), neighbors or NO_NEIGHBORS, shares)


def test_an_item_is_explained_by_the_most_similar_action() -> None:
    view, buy = EVENT_TYPE_CODES["view"], EVENT_TYPE_CODES["purchase"]
    acted_on = WORDS.numbers(["i1", "i2", "i1", "i3"])
    shown = WORDS.numbers(["i3", "i2", "i1"]).tolist()
    actions = ActionHistory.from_events(acted_on, np.asarray([buy, view, buy, view]))
    assert _explainer().explain(shown, actions) == [
        ("because you viewed Item 3, yellow", "i3"),
        ("because you viewed Item 2, blue", "i2"),
        (BOUGHT_AGAIN, "i1"),
    ]
    empty = np.zeros(0, np.int64)
    assert _explainer().explain(shown, ActionHistory.from_events(empty, empty)) == [(POPULAR, None)] * 3


def test_an_item_without_evidence_has_no_reason_or_is_popular_in_its_category() -> None:
    viewed = ActionHistory.from_events(WORDS.numbers(["i1"]), np.asarray([EVENT_TYPE_CODES["view"]]))
    unrelated = WORDS.numbers(["i9"]).tolist()
    assert _explainer().explain(unrelated, viewed) == [(NO_REASON, None)]
    popularity = np.full(len(WORDS), 1 / len(WORDS))
    popularity[unrelated] *= 2
    category = CATALOG.data_of(unrelated[0], ["category"])["category"].rsplit(" > ", 1)[-1]
    assert _explainer(popularity).explain(unrelated, viewed) == [(f"popular in {category}", None)]


def test_items_that_occur_together_are_evidence() -> None:
    (one, other) = WORDS.numbers(["i1", "i9"]).tolist()
    start = np.zeros(len(WORDS) + 1, np.int64)
    start[one + 1 :] = 1
    together = ItemNeighbors(start, np.asarray([other], np.int32), np.asarray([0.0], np.float32))
    viewed = ActionHistory.from_events(np.asarray([one]), np.asarray([EVENT_TYPE_CODES["view"]]))
    assert _explainer(neighbors=together).explain([other], viewed) == [("because you viewed Item 1, green", "i1")]
