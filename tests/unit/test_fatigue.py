"""How people tire of what is shown again and again, and what a list makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.engine.impression_discounting import Looks, Tired
from recsys_tasks.features.impression_discounting import MOST_LOOKS, fatigue
from recsys_tasks.names import PAUSE_HOURS

TRUTH = 0.85 ** np.arange(MOST_LOOKS + 1)
CHANCES = np.asarray([1.0, 0.5, 0.25])
HOUR, NOON = 3600.0, 1.7e9


def _counts(seed: int, looks: float) -> tuple[np.ndarray, ...]:
    """Items with high scores are wanted more, and are shown again more often."""
    random = np.random.default_rng(seed)
    size, before = (grid.ravel() for grid in np.meshgrid(np.arange(-8, 0), np.arange(MOST_LOOKS + 1), indexing="ij"))
    often = looks * np.exp(-before / (size + 9))
    return size, before, often, random.poisson(often * 0.4 * np.exp(size / 3) * TRUTH[before])


def test_it_finds_how_people_tire_though_better_items_are_shown_again_more_often() -> None:
    counts = _counts(0, looks=3_000)
    found = fatigue(*counts)
    _, before, looks, acted = counts
    rates = np.bincount(before, acted) / np.bincount(before, looks)
    assert np.abs(found - TRUTH)[:10].max() < 0.06  # further on there is little to go by
    assert np.abs(found - TRUTH).mean() < np.abs(rates / rates[0] - TRUTH).mean()  # what one would see at first


@given(st.integers(0, 50), st.floats(10, 1_000))
def test_who_looked_more_is_never_less_tired(seed: int, looks: float) -> None:
    found = fatigue(*_counts(seed, looks))
    assert len(found) in (0, MOST_LOOKS + 1)
    assert (np.diff(found) <= 1e-12).all()
    assert ((found > 0) & (found <= 1)).all()


def test_with_few_clicks_nothing_is_said() -> None:
    assert len(fatigue(*_counts(0, looks=5))) == 0


def test_a_visitor_looks_at_places_by_their_chances_again_and_again() -> None:
    looks = Looks()
    for _ in range(3):
        looks.shown("u1", ["a", "b", "c"], CHANCES, NOON)
    assert looks.of("u1", NOON) == pytest.approx({"a": 3.0, "b": 1.5, "c": 0.75})
    assert not looks.of("u2", NOON)
    assert not looks.of(None, NOON)


def test_who_acted_on_an_item_or_did_not_see_it_for_a_while_is_not_tired_of_it() -> None:
    looks = Looks()
    looks.shown("u1", ["a", "b"], CHANCES, NOON)
    looks.acted("u1", "a")
    assert set(looks.of("u1", NOON)) == {"b"}
    later = NOON + PAUSE_HOURS * HOUR + 1
    assert not looks.of("u1", later)
    looks.shown("u1", ["b"], CHANCES, later)
    assert looks.of("u1", later) == {"b": 1.0}


def test_a_forgotten_visitor_is_not_known() -> None:
    looks = Looks()
    looks.shown("u1", ["a"], CHANCES, NOON)
    looks.forget("u1")
    assert not looks.of("u1", NOON)


@given(st.dictionaries(st.integers(0, 99), st.floats(0.01, 1.0), min_size=1), st.lists(st.integers(0, 99), min_size=1))
def test_only_what_somebody_is_tired_of_loses(tired: dict[int, float], asked: list[int]) -> None:
    found = Tired(np.asarray(list(tired)), np.asarray(list(tired.values()))).remains(np.asarray(asked))
    assert found.tolist() == [tired.get(number, 1.0) for number in asked]
