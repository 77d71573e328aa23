"""What came of what was shown: to which impression an action belongs, what is left out, and what late events change."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, text

from recsys_tasks.experiments.online_metrics import Shown, online_metrics
from recsys_tasks.features.partitions import build_parts
from recsys_tasks.feedback import attribution
from recsys_tasks.feedback.attribution import Counted, CountingRules, count_outcomes
from recsys_tasks.ingestion.removal import forget
from recsys_tasks.interval import Interval
from recsys_tasks.warehouse import statement
from tests.integration.feedback import START, catalogue, did, report, shown

RULES = CountingRules(hours=24, requests_per_minute=60)
DAY = START.date()


@pytest.fixture
def shop(warehouse: Engine, tmp_path: Path) -> Engine:
    catalogue(warehouse, tmp_path)
    return warehouse


def _count(shop: Engine) -> Counted:
    return count_outcomes(shop, RULES)


def _outcomes(shop: Engine, columns: str = "request_id, impressions, clicks, carts, purchases") -> list[Any]:
    with shop.connect() as connection:
        return [tuple(row) for row in connection.execute(text(f"select {columns} from request_outcomes order by 1"))]


def test_an_action_belongs_to_the_request_it_names(shop: Engine, tmp_path: Path) -> None:
    rows = [*shown("r1", ["i1", "i2", "i3"]), *shown("r2", ["i1", "i2"], at=START + timedelta(minutes=2))]
    rows += [
        did("view", "i1", request_id="r1", minutes=5),
        did("view", "i1", request_id="r1", minutes=6),
        did("add_to_cart", "i2", request_id="r1", minutes=7),
        did("purchase", "i2", request_id="r1", minutes=8, price=3.5, quantity=2),
        did("view", "i9", request_id="r2", minutes=9),  # was not shown
        did("view", "i2", request_id="unknown", minutes=9),
    ]
    report(shop, tmp_path, rows)
    _count(shop)
    assert _outcomes(shop) == [("r1", 3, 2, 1, 1), ("r2", 2, 0, 0, 0)]
    assert [float(row[1]) for row in _outcomes(shop, "request_id, revenue")] == [7.0, 0.0]


def test_without_a_request_the_last_impression_in_the_window_counts(shop: Engine, tmp_path: Path) -> None:
    next_day = START + timedelta(hours=20)
    rows = [
        *shown("r1", ["i1", "i2"]),
        *shown("r2", ["i1"], at=next_day),
        *shown("other", ["i1"], user="u2"),
        did("view", "i1", minutes=60),  # r1
        did("view", "i1", minutes=21 * 60),  # r2, though r1 is within a day too
        did("view", "i2", minutes=25 * 60),  # too late
        did("view", "i2", minutes=-1),  # before it was shown
    ]
    report(shop, tmp_path, rows)
    _count(shop)
    assert _outcomes(shop) == [("other", 1, 0, 0, 0), ("r1", 2, 1, 0, 0), ("r2", 1, 1, 0, 0)]


def test_a_clock_that_is_off_does_not_part_an_action_from_its_request(shop: Engine, tmp_path: Path) -> None:
    rows = [*shown("r1", ["i1"]), did("view", "i1", request_id="r1", minutes=-90)]
    report(shop, tmp_path, rows)
    _count(shop)
    assert _outcomes(shop) == [("r1", 1, 1, 0, 0)]


def test_an_impression_may_be_acted_on_for_as_long_at_the_beginning_of_a_day_as_at_its_end(
    shop: Engine, tmp_path: Path
) -> None:
    rows = []
    for request, at in (("early", START.replace(hour=0, minute=1)), ("late", START.replace(hour=23, minute=59))):
        rows += shown(request, ["i1", "i2", "i3", "i4"], at=at)
        begins, day = (at - START) / timedelta(minutes=1), 24 * 60
        rows.append(did("view", "i1", request_id=request, minutes=begins + day - 1))
        rows.append(did("view", "i2", request_id=request, minutes=begins + day))  # too late
        rows.append(did("view", "i3", request_id=request, minutes=begins - day))  # by a clock that is off
        rows.append(did("view", "i4", request_id=request, minutes=begins - day - 1))  # by one that is wrong
    report(shop, tmp_path, rows)
    _count(shop)
    assert _outcomes(shop) == [("early", 4, 2, 0, 0), ("late", 4, 2, 0, 0)]


def test_late_events_are_counted_into_their_day_and_only_days_they_touch(shop: Engine, tmp_path: Path) -> None:
    later = START + timedelta(days=5)
    report(shop, tmp_path, [*shown("r1", ["i1", "i2"]), *shown("r5", ["i1"], at=later)])
    _count(shop)
    assert _count(shop) == Counted((), 0, 0)
    report(shop, tmp_path, [did("view", "i2", request_id="r1", minutes=22 * 60)])  # of the next day
    again = _count(shop)
    assert DAY in again.days
    assert later.date() not in again.days
    assert _outcomes(shop) == [("r1", 2, 1, 0, 0), ("r5", 1, 0, 0, 0)]


def test_counting_twice_or_in_parts_comes_to_the_same(shop: Engine, tmp_path: Path) -> None:
    rows = [*shown("r1", ["i1", "i2"]), did("view", "i1", request_id="r1"), did("view", "i2", minutes=3)]
    for part in ([rows[0]], rows[1:3], rows):
        report(shop, tmp_path, part)
        _count(shop)
    everything = "request_id, impressions, clicks, milliseconds, list, segment, model_version, traffic"
    assert _outcomes(shop, everything) == [
        ("r1", 2, 2, 2.5, "recommendations", "returning", "1", "shopper"),
    ]


def test_what_machines_and_the_shop_itself_are_shown_counts_and_teaches_nothing(shop: Engine, tmp_path: Path) -> None:
    rows = [*shown("r1", ["i1", "i2"]), did("view", "i1", request_id="r1")]
    rows += shown("test", ["i1"], user="tester", traffic="internal")
    for number in range(100):
        at = START + timedelta(seconds=number / 2)
        rows += shown(f"b{number}", ["i3"], user="robot", at=at)
        rows.append(did("view", "i3", user="robot", minutes=number / 120, request_id=f"b{number}"))
    report(shop, tmp_path, rows)
    assert _count(shop).machines == 1
    with shop.connect() as connection:
        reason = connection.scalar(text("select reason from flagged_visitors where visitor = 'u:robot'"))
        assert reason == "100 lists within one minute"
        figures = online_metrics(connection, Interval.of_day(DAY))[Shown("recommendations", "1", "", "")]
    assert (figures.visitors, figures.sums["shown"], figures.sums["clicks"]) == (1, 2, 1)
    assert _count(shop).machines == 0


def test_what_is_loaded_while_machines_are_flagged_is_counted_the_next_time(
    shop: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = shown("r1", ["i1"])
    for number in range(70):
        rows += shown(f"b{number}", ["i3"], user="robot", at=START + timedelta(seconds=number / 2))
    report(shop, tmp_path, rows)
    flag = attribution._flag

    def after_a_click(*given: Any) -> Any:
        report(shop, tmp_path, [did("view", "i1", request_id="r1")])
        return flag(*given)

    monkeypatch.setattr(attribution, "_flag", after_a_click)
    assert _count(shop).machines == 1
    assert ("r1", 0) in _outcomes(shop, "request_id, clicks")
    assert DAY in _count(shop).days
    assert ("r1", 1) in _outcomes(shop, "request_id, clicks")
    assert _count(shop) == Counted((), 0, 0)


@pytest.mark.parametrize("traffic", ["internal", "bot"])
def test_what_others_than_shoppers_are_shown_is_left_out_of_every_figure(
    shop: Engine, tmp_path: Path, traffic: str
) -> None:
    rows = [*shown("r1", ["i1", "i2"], session="s1"), did("view", "i1", request_id="r1")]
    rows += shown("test", ["i3", "i4"], "tester", traffic=traffic, milliseconds=900.0)  # said with i3 alone
    rows += [did("view", item, "tester", request_id="test") for item in ("i3", "i4")]
    report(shop, tmp_path, rows)
    _count(shop)
    windows: dict[str, Any] = {**Interval.of_day(DAY).bounds, "since": START, "challenger": "1", "champion": "0"}
    windows |= {"cutoff": START + timedelta(days=1), "known": 10**6, "places": 10}

    def figures(name: str) -> list[Any]:
        with shop.connect() as connection:
            return [tuple(row) for row in connection.execute(statement(name), windows)]

    assert figures("promotion/rollout_clicks") == [("1", 1, 1)]
    assert figures("experiments/online_coverage") == [("1", 2, pytest.approx(2 / 20))]
    assert figures("experiments/online_latency") == [("recommendations", "1", "", "", 1, 2.5, 2.5)]
    assert figures("features/impressions_by_position") == [("i1", 1, 1, 1), ("i2", 2, 1, 0)]


def test_who_is_no_shopper_is_as_well_known_as_the_batches_that_a_snapshot_knows(shop: Engine, tmp_path: Path) -> None:
    first, second = shown("test", ["i3", "i4"], "tester", traffic="internal")
    report(shop, tmp_path, [second])
    report(shop, tmp_path, [first])
    shown_to_shoppers = text("select count(*) from shopper_events('-infinity', 'infinity', :known) where position = 2")
    with shop.connect() as connection:
        last = int(connection.scalar(text("select max(loaded_number) from batches")) or 0)
        counts = [connection.scalar(shown_to_shoppers, {"known": known}) for known in (last - 1, last, None)]
    assert counts == [1, 0, 0]


def test_flags_are_a_change_that_snapshots_of_before_do_not_know(shop: Engine, tmp_path: Path) -> None:
    rows = [did("view", "i1", user="human")]
    for number in range(70):
        rows += shown(f"b{number}", ["i3"], user="robot", at=START + timedelta(seconds=number / 2))
        rows.append(did("view", "i3", user="robot", minutes=number / 120, request_id=f"b{number}"))
    report(shop, tmp_path, rows)

    def users(known: int) -> set[str]:
        part = build_parts(shop, tmp_path / "parts", START + timedelta(days=1), known)[-1]
        return set(pq.read_table(tmp_path / "parts" / part.file)["user_key"].to_pylist())

    with shop.connect() as connection:
        before = connection.scalar(text("select max(loaded_number) from batches"))
    _count(shop)
    assert users(int(before or 0)) == {"u:human", "u:robot"}
    assert users(10**6) == {"u:human"}


def test_rates_are_over_visitors_and_by_version_arm_and_segment(shop: Engine, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows, clicks = [], {"a": 0, "b": 0}
    for number in range(60):
        arm = "ab"[number % 2]
        about: dict[str, Any] = {"experiment": "x", "arm": arm, "segment": ("new", "returning")[number % 3 == 0]}
        rows += shown(f"r{number}", ["i1", "i2", "i3", "i4"], user=f"u{number}", **about)
        for item in random.choice(4, int(random.integers(0, 3)), replace=False):
            rows.append(did("view", f"i{item + 1}", user=f"u{number}", request_id=f"r{number}"))
            clicks[arm] += 1
    report(shop, tmp_path, rows)
    _count(shop)
    with shop.connect() as connection:
        found = online_metrics(connection, Interval.of_day(DAY))
        stored = connection.execute(
            text("select arm, value, low, high from online_metrics where metric = 'click_through' and segment = ''")
        ).all()
        other = set(connection.scalars(text("select distinct metric from online_metrics")))
    for arm in "ab":
        rate = found[Shown("recommendations", "1", "x", arm)].rates["click_through"]
        assert rate.value == pytest.approx(clicks[arm] / 120)
        assert rate.low < rate.value < rate.high
        parts = [found[Shown("recommendations", "1", "x", arm, part)] for part in ("new", "returning")]
        assert sum(part.sums["clicks"] for part in parts) == clicks[arm]
    assert {row.arm: pytest.approx(row.value) for row in stored} == {arm: clicks[arm] / 120 for arm in "ab"}
    assert other >= {"add_to_cart", "conversion", "revenue_per_session", "coverage", "latency_p50_ms", "latency_p99_ms"}


def test_a_sampled_request_stands_for_more(shop: Engine, tmp_path: Path) -> None:
    report(shop, tmp_path, [*shown("r1", ["i1", "i2"], sampled=0.25)])
    _count(shop)
    with shop.connect() as connection:
        found = online_metrics(connection, Interval.of_day(DAY))[Shown("recommendations", "1", "", "")]
    assert (found.sums["shown"], found.sums["shown_in_all"]) == (2, 8)


def test_who_is_forgotten_is_not_among_the_outcomes(shop: Engine, tmp_path: Path) -> None:
    report(shop, tmp_path, [*shown("r1", ["i1"]), *shown("r2", ["i1"], user="u2")])
    _count(shop)
    forget(shop, ["u1"])
    assert [row[0] for row in _outcomes(shop)] == ["r2"]
    _count(shop)
    assert [row[0] for row in _outcomes(shop)] == ["r2"]


def test_the_first_feedback_of_a_shop_is_known_to_plans_as_soon_as_it_is_loaded(
    warehouse: Engine, tmp_path: Path
) -> None:
    catalogue(warehouse, tmp_path)
    items = [f"i{number}" for number in range(20)]
    report(warehouse, tmp_path, [row for number in range(500) for row in shown(f"r{number}", items, f"u{number}")])
    with warehouse.connect() as connection:
        found = connection.scalar(
            text("select null_frac from pg_stats where tablename = 'events_2024_05' and attname = 'request_id'")
        )
    assert found == 0  # or a count would look through all impressions for each act
