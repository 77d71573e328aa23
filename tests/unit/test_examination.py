"""What a click says: how likely its place was looked at, and whether it is a wish at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.features.position_bias import click_weights, examination, falling
from recsys_tasks.features.sequences import new_wishes

VIEW, CART, BUY = 2, 3, 4


def _shown(seed: int, items: int = 200, places: int = 10, each: int = 400) -> tuple[np.ndarray, ...]:
    """Lists in which good items stand higher, mostly; places are looked at by 1 / p."""
    random = np.random.default_rng(seed)
    wanted = random.beta(1, 8, items)
    order = np.argsort(-(wanted + random.normal(0, 0.1, (each, items))))[:, :places]
    item, place = order.ravel(), np.tile(np.arange(places), each)
    acted = (random.random(len(item)) < wanted[item] / (place + 1)).astype(int)
    pairs, number = np.unique(np.stack([item, place]), axis=1, return_inverse=True)
    shown = np.bincount(number)
    return pairs[0], pairs[1], shown, np.bincount(number, acted)


def test_it_finds_how_likely_places_are_looked_at_though_better_items_stand_higher() -> None:
    item, place, shown, acted = _shown(0, each=4_000)
    found = examination(item, place, shown, acted)
    truth = 1 / np.arange(1, 11)
    rates = np.bincount(place, acted) / np.bincount(place, shown)
    assert np.abs(found - truth).max() < 0.07
    assert np.abs(found - truth).mean() < np.abs(rates / rates[0] - truth).mean()  # what one would see at first


@given(st.integers(0, 50))
def test_further_down_is_never_looked_at_more(seed: int) -> None:
    found = examination(*_shown(seed, items=30, each=200))
    assert len(found) in (0, 10)
    assert (np.diff(found) <= 1e-12).all()
    assert (found > 0).all()


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 100)), min_size=1, max_size=8))
def test_what_falls_is_kept_and_what_rises_is_pooled_to_its_mean(pairs: list[tuple[float, float]]) -> None:
    values, weights = (np.asarray(column) for column in zip(*pairs, strict=True))
    found = falling(values, weights)
    assert (np.diff(found) <= 1e-12).all()
    assert falling(found, weights) == pytest.approx(found)
    weights = np.maximum(weights, 1e-12)
    assert (weights * found).sum() == pytest.approx((weights * values).sum())
    assert falling(values, weights)[0] == pytest.approx(  # the largest mean of any beginning
        (np.cumsum(weights * values) / np.cumsum(weights)).max(), abs=1e-9
    )


def test_with_few_clicks_nothing_is_said_and_all_clicks_count_the_same() -> None:
    nothing = examination(np.asarray([0, 1]), np.asarray([0, 1]), np.asarray([50, 50]), np.asarray([9, 3]))
    assert len(nothing) == 0
    assert (click_weights(np.asarray([0, 1, 7]), nothing) == 1).all()


def test_a_click_counts_the_more_the_less_its_place_is_looked_at() -> None:
    chances = np.asarray([1.0, 0.5, 0.25, 0.001])
    weights = click_weights(np.asarray([0, 1, 2, 3, 4, 9, 0]), chances)
    assert weights[0] == weights[-1] == 1  # not from a list
    assert weights[2] == pytest.approx(2 * weights[1])
    assert weights[3] == pytest.approx(4 * weights[1])
    assert weights[4] == pytest.approx(10 * weights[1])  # there is a limit
    assert weights[5] == weights[4]  # beyond what is known: as the last place
    assert weights[1:6].mean() == pytest.approx(1)


def test_steps_on_the_way_to_buying_are_no_new_wishes() -> None:
    #                    view i1, cart i1, buy i1, view i2, view i2, buy i1, | view i1, buy i3
    session = np.asarray([0, 0, 0, 0, 0, 0, 1, 1])
    item = np.asarray([1, 1, 1, 2, 2, 1, 1, 3])
    kind = np.asarray([VIEW, CART, BUY, VIEW, VIEW, BUY, VIEW, BUY])
    assert new_wishes(session, item, kind).tolist() == [True, False, False, True, True, True, True, True]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(1, 4)), max_size=30))
def test_the_first_event_of_an_item_in_a_session_is_a_wish_and_steps_only_rise(
    rows: list[tuple[int, int, int]],
) -> None:
    rows.sort(key=lambda row: row[0])
    session, item, kind = (
        (np.asarray(column, np.int64) for column in zip(*rows, strict=True)) if rows else (np.zeros(0, np.int64),) * 3
    )
    wishes = new_wishes(session, item, kind)
    for place, (of_session, of_item, code) in enumerate(rows):
        before = [row[2] for row in rows[:place] if row[:2] == (of_session, of_item)]
        assert wishes[place] == (not before or max(before) >= code)
