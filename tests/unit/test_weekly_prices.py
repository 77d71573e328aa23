"""Weekly item prices derived from purchase lines."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from math import floor
from random import Random
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.ingestion.weekly_prices import PriceVersions, PurchaseLines, derive_price_versions
from recsys_tasks.interval import Interval

MONDAY = datetime(2017, 5, 1, tzinfo=UTC)
DAY, WEEK = timedelta(days=1), timedelta(days=7)
Line = tuple[int, datetime, float, float]

TIMES = st.integers(0, 5 * 7 * 86_400 - 1).map(lambda second: MONDAY + timedelta(seconds=second))
CENTS = st.integers(1, 400)
LINES = st.lists(
    st.tuples(st.integers(1, 3), TIMES, CENTS.map(lambda cents: cents / 100), st.integers(1, 4).map(float)),
    max_size=40,
)


def _lines(lines: list[Line]) -> PurchaseLines:
    item, time, amount, quantity = zip(*lines, strict=True) if lines else ((), (), (), ())
    return PurchaseLines(
        np.asarray(item, np.int64),
        np.asarray([moment.timestamp() for moment in time], np.int64),
        np.asarray(amount, float),
        np.asarray(quantity, float),
    )


def _versions(lines: list[Line], interval: Interval | None = None) -> list[tuple[int, datetime, int]]:
    return _as_rows(derive_price_versions(_lines(lines), interval))


def _as_rows(versions: PriceVersions) -> list[tuple[int, datetime, int]]:
    times = [datetime.fromtimestamp(second, UTC) for second in versions.valid_from.tolist()]
    return list(zip(versions.item.tolist(), times, versions.cents.tolist(), strict=True))


def _without_repetitions(versions: list[tuple[int, datetime, int]]) -> list[tuple[int, datetime, int]]:
    """Drops the versions with the price of the item's version before: what loading skips."""
    ordered = sorted(versions)
    return ordered[:1] + [row for last, row in pairwise(ordered) if (last[0], last[2]) != (row[0], row[2])]


def test_a_price_is_the_median_of_the_weeks_unit_prices_valid_from_the_last_line_that_it_uses() -> None:
    lines: list[Line] = [
        (1, MONDAY, 3.00, 1),
        (1, MONDAY + DAY, 2.00, 2),
        (1, MONDAY + 2 * DAY, 2.50, 1),
        (1, MONDAY + WEEK, 9.00, 1),
    ]
    assert _versions(lines) == [(1, MONDAY + 2 * DAY, 250), (1, MONDAY + WEEK, 900)]


def test_a_week_with_the_same_price_adds_no_version() -> None:
    lines: list[Line] = [(1, MONDAY + week * WEEK, price, 1.0) for week, price in enumerate((2.0, 2.0, 3.0, 2.0, 2.0))]
    assert [(at, cents) for _, at, cents in _versions(lines)] == [
        (MONDAY, 200),
        (MONDAY + 2 * WEEK, 300),
        (MONDAY + 3 * WEEK, 200),
    ]


@pytest.mark.parametrize(
    ("amount", "quantity"),
    [(0, 1), (-1, 1), (1, 0), (0, 0), (1, -2), (np.nan, 1), (1, np.nan), (np.inf, 1), (1, np.inf), (25, 10_000)],
)
def test_a_line_without_a_usable_amount_or_quantity_gives_no_price(amount: float, quantity: float) -> None:
    assert _versions([(1, MONDAY, amount, quantity)]) == []
    assert _versions([(1, MONDAY, amount, quantity), (1, MONDAY, 2, 1)]) == [(1, MONDAY, 200)]


def test_half_a_cent_is_rounded_up() -> None:
    assert _versions([(1, MONDAY, 2.01, 2)]) == [(1, MONDAY, 101)]
    assert _versions([(1, MONDAY, 1.00, 1), (1, MONDAY, 1.01, 1)]) == [(1, MONDAY, 101)]


def test_a_week_that_is_cut_by_the_end_of_the_interval_belongs_to_the_next_one() -> None:
    lines = [(1, MONDAY + DAY, 1.0, 1.0), (1, MONDAY + 3 * DAY, 3.0, 1.0)]
    cut = MONDAY + 2 * DAY
    assert _versions(lines, Interval(MONDAY, cut)) == []
    assert _versions(lines, Interval(cut, MONDAY + WEEK)) == [(1, MONDAY + 3 * DAY, 200)] == _versions(lines)


@given(LINES)
def test_each_change_of_the_weekly_median_in_exact_arithmetic_is_one_version(lines: list[Line]) -> None:
    weeks: dict[tuple[int, int], list[Line]] = {}
    for line in lines:
        if round(line[2] * 100) * 2 >= line[3]:  # at least half a cent
            weeks.setdefault((line[0], (line[1] - MONDAY) // WEEK), []).append(line)
    prices = []
    for (item, _), bought in sorted(weeks.items()):
        unit_prices = [_round_half_up(Fraction(round(amount * 100), int(number))) for _, _, amount, number in bought]
        prices.append((item, max(line[1] for line in bought), _round_half_up(median(unit_prices))))
    assert _versions(lines) == _without_repetitions(prices)


def _round_half_up(value: Fraction | float) -> int:
    return floor(Fraction(value) + Fraction(1, 2))


@given(LINES, st.sets(TIMES, max_size=6))
def test_consecutive_intervals_give_the_versions_of_their_union(lines: list[Line], cuts: set[datetime]) -> None:
    bounds = sorted({MONDAY - WEEK, *cuts, MONDAY + 6 * WEEK})
    parts = [row for start, end in pairwise(bounds) for row in _versions(lines, Interval(start, end))]
    assert _without_repetitions(parts) == _versions(lines)


@given(LINES, TIMES)
def test_a_price_depends_on_no_line_after_the_start_of_its_validity(lines: list[Line], cutoff: datetime) -> None:
    past = [line for line in lines if line[1] <= cutoff]
    week_start = cutoff - (cutoff - MONDAY) % WEEK
    known = [row for row in _versions(lines) if row[1] <= cutoff]
    in_past = _versions(past)
    assert [row for row in known if row[1] < week_start] == [row for row in in_past if row[1] < week_start]
    assert {row for row in known if row[1] >= week_start} <= set(in_past)


@given(LINES, st.randoms(use_true_random=False))
def test_the_order_of_the_lines_does_not_matter(lines: list[Line], random: Random) -> None:
    shuffled = lines.copy()
    random.shuffle(shuffled)
    assert _versions(shuffled) == _versions(lines)
