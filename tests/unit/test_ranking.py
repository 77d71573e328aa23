"""What may be in a list, and in which order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.engine.catalog import Catalogue
from recsys_tasks.engine.explanations import BOUGHT_AGAIN, POPULAR, Deeds, Reasons
from recsys_tasks.engine.filters import Filter, Filters, check
from recsys_tasks.engine.merchandising import Pin, Rules, read_rules
from recsys_tasks.engine.ranking import Ranking, Wishes
from recsys_tasks.engine.scoring import ItemVectors, Known
from recsys_tasks.errors import InputError
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM
from tests.integration.bundles import catalogue_columns
from tests.shops import ITEMS, START, vocabulary

WORDS = vocabulary()
CATALOGUE = Catalogue(WORDS, catalogue_columns(ITEMS))
LONG_AGO = START.timestamp() - 1
LATER = START.timestamp()


def _vectors() -> np.ndarray:
    found = np.random.default_rng(0).standard_normal((len(WORDS), 8)).astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


VECTORS = ItemVectors(_vectors(), np.zeros(len(WORDS), np.float32))
SCORES = np.linspace(1, 0.01, len(WORDS)).astype(np.float32)  # the lower the number, the better


def _filter(asked: dict[str, Any]) -> Filter:
    found = msgspec.convert(asked, Filter)
    check(found, "$")
    return found


def _fulfil(asked: dict[str, Any]) -> set[int]:
    return {int(number) - FIRST_ITEM for number in np.flatnonzero(Filters(CATALOGUE).allowed(_filter(asked)))}


def _ranked(rules: Rules | None = None, now: float = LONG_AGO, **wishes: Any) -> list[str]:
    ranking = Ranking(CATALOGUE, VECTORS, rules or Rules())
    ranked = ranking.rank(Known(SCORES), Wishes(**{"k": 10, **wishes}), now)
    return [WORDS.item_id(number) for number in ranked.numbers]


EVERY = set(range(ITEMS))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"field": "item_id", "one_of": ["i3", "i5", "unheard of"]}, {3, 5}),
        ({"field": "price", "at_least": 4, "at_most": 9}, {4, 5, 6, 7, 9}),  # nobody knows what i8 costs
        ({"field": "price", "one_of": [4]}, {4}),
        ({"field": "category", "under": ["D0"]}, {n for n in EVERY if n % 2 == 0}),
        ({"field": "category", "under": ["D0 > C1"]}, {n for n in EVERY if n % 2 == 0 and n % 5 == 1}),
        ({"field": "category", "under": ["D"]}, set()),  # no part of a name
        ({"field": "category", "one_of": ["D1 > C2"]}, {n for n in EVERY if n % 2 == 1 and n % 5 == 2}),
        ({"field": "brand", "one_of": ["Acme"]}, set()),
        ({"field": "properties.size", "one_of": [2]}, {n for n in EVERY if n % 3 == 2 and n != 8}),
        ({"field": "properties.size", "one_of": [True, "2"]}, set()),
        ({"field": "properties.size", "at_least": 1}, {n for n in EVERY if n % 3 >= 1 and n != 8}),
        ({"field": "properties.tags", "one_of": ["new"]}, EVERY - {8}),
        ({"field": "properties.colour", "one_of": ["red"]}, set()),
    ],
)
def test_a_condition_is_fulfilled_by_what_it_says(asked: dict[str, Any], expected: set[int]) -> None:
    assert _fulfil(asked) == expected


_CONDITIONS = st.one_of(
    st.builds(
        lambda low, width: {"field": "price", "at_least": low, "at_most": low + width}, *[st.integers(0, 40)] * 2
    ),
    st.builds(lambda size: {"field": "properties.size", "one_of": [size]}, st.integers(0, 3)),
    st.builds(lambda path: {"field": "category", "under": [path]}, st.sampled_from(["D0", "D1", "D1 > C3"])),
)


@given(st.lists(_CONDITIONS, min_size=1, max_size=4))
def test_filters_combine_like_sets(conditions: list[dict[str, Any]]) -> None:
    single = [_fulfil(condition) for condition in conditions]
    assert _fulfil({"all": conditions}) == set.intersection(*single)
    assert _fulfil({"any": conditions}) == set.union(*single)
    assert _fulfil({"not": conditions[0]}) == EVERY - single[0]


@pytest.mark.parametrize(
    ("asked", "problem"),
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
def test_a_filter_that_is_not_well_formed_is_refused_and_says_where(asked: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        _filter(asked)


def test_a_filter_has_so_many_conditions_and_is_so_deep_and_no_more() -> None:
    deep: dict[str, Any] = {"field": "price", "at_least": 1}
    for _ in range(20):
        deep = {"not": deep}
    wide = {"any": [{"field": "price", "at_least": 1}] * 200}
    for asked in (deep, wide):
        with pytest.raises(InputError, match="at most 100 conditions, nested at most 10 deep"):
            _filter(asked)


def test_what_is_not_to_be_had_at_the_time_is_not_shown() -> None:
    ranking = Ranking(CATALOGUE, VECTORS, Rules())
    shown = [ranking.rank(Known(SCORES), Wishes(10), now).numbers for now in (LONG_AGO, LATER, LATER + 1, LONG_AGO)]
    assert [WORDS.number_of["i7"] in numbers for numbers in shown] == [True, False, False, True]
    assert "i7" not in _ranked(now=LATER, filter=_filter({"field": "price", "at_most": 9}))


def test_what_is_excluded_or_does_not_fulfil_the_filter_is_not_shown() -> None:
    asked = _filter({"field": "category", "under": ["D0"]})
    assert _ranked(k=3, exclude=frozenset({"i0", "unheard of"}), filter=asked) == ["i2", "i4", "i6"]
    assert _ranked(k=500, filter=_filter({"field": "price", "at_most": 1})) == ["i0", "i1"]


def test_without_diversity_the_best_come_first_and_with_it_they_are_less_alike() -> None:
    def likeness(items: list[str]) -> float:
        chosen = VECTORS[WORDS.numbers(items)]
        return float((chosen @ chosen.T).sum() - len(items))

    assert _ranked() == [f"i{n}" for n in range(10)]
    assert _ranked(diversity=0.7)[0] == "i0"
    assert likeness(_ranked(diversity=0.7)) < likeness(_ranked())


def test_no_more_than_so_many_are_of_one_category() -> None:
    found = _ranked(k=20, at_most_per_category=1)
    paths = [WORDS.category_paths[int(item[1:])] for item in found]
    assert len(paths) == len(set(paths)) == 10  # there are ten, however many were asked for
    assert found[:2] == ["i0", "i1"]


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
        item_id = "unheard of"
        position = 1
        """,
        encoding="utf-8",
    )
    assert _ranked(read_rules(path), k=4) == ["i9", "i30", "i4", "i5"]


def test_a_pinned_item_is_subject_to_what_the_caller_does_not_want() -> None:
    rules = Rules(pin=[Pin("i30", 1)])
    assert _ranked(rules)[0] == "i30"
    assert "i30" not in _ranked(rules, exclude=frozenset({"i30"}))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("weigh = 3", "Expected `array`"),
        ("[[pin]]\nitem_id = 'a'\nposition = 0", "position"),
        ("[[weigh]]\nfactor = 2\nfilter = {field = 'colour', one_of = ['a']}", r"weigh\[0\].filter"),
        ("[[[", "Invalid|Expected"),
    ],
)
def test_rules_that_are_wrong_are_refused_with_the_file_and_the_place(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=problem) as refused:
        read_rules(path)
    assert str(path) in str(refused.value)


def test_an_item_is_explained_by_what_the_user_did_that_is_most_like_it() -> None:
    reasons = Reasons(WORDS, VECTORS)
    view, buy = EVENT_TYPE_CODES["view"], EVENT_TYPE_CODES["purchase"]
    did = WORDS.numbers(["i1", "i2", "i1", "i3"])
    shown = WORDS.numbers(["i3", "i2", "i1"]).tolist()
    assert reasons.of(shown, Deeds.of(did, np.asarray([buy, view, buy, view]))) == [
        ("because you viewed Item 3, yellow", "i3"),
        ("because you viewed Item 2, blue", "i2"),
        (BOUGHT_AGAIN, "i1"),
    ]
    nothing = np.zeros(0, np.int64)
    assert reasons.of(shown, Deeds.of(nothing, nothing)) == [(POPULAR, None)] * 3
