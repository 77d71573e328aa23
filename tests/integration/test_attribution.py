"""Attribution: which impression an action belongs to, what is excluded, and what late events change."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, text

from recsys_tasks.experiments.online_metrics import MetricKey, load_online_metrics
from recsys_tasks.features.partitions import build_partitions
from recsys_tasks.feedback import attribution
from recsys_tasks.feedback.attribution import AttributionReport, AttributionRules, attribute_days
from recsys_tasks.ingestion.removal import forget
from recsys_tasks.interval import Interval
from recsys_tasks.storage.folder import Folder
from recsys_tasks.warehouse import statement
from tests.integration.feedback import START, action_event, impression_events, ingest_feedback, load_catalog

RULES = AttributionRules(window_hours=24, max_requests_per_minute=60)
DAY = START.date()


@pytest.fixture
def shop(warehouse: Engine, tmp_path: Path) -> Engine:
    load_catalog(warehouse, tmp_path)
    return warehouse


def _attribute(shop: Engine) -> AttributionReport:
    return attribute_days(shop, RULES)


def _outcomes(shop: Engine, columns: str = "request_id, impressions, clicks, carts, purchases") -> list[Any]:
    with shop.connect() as connection:
        return [tuple(row) for row in connection.execute(text(f"select {columns} from request_outcomes order by 1"))]


def test_an_action_is_attributed_to_the_request_it_names(shop: Engine, tmp_path: Path) -> None:
    rows = [
        *impression_events("r1", ["i1", "i2", "i3"]),
        *impression_events("r2", ["i1", "i2"], at=START + timedelta(minutes=2)),
    ]
    rows += [
        action_event("view", "i1", request_id="r1", minutes=5),
        action_event("view", "i1", request_id="r1", minutes=6),
        action_event("add_to_cart", "i2", request_id="r1", minutes=7),
        action_event("purchase", "i2", request_id="r1", minutes=8, price=3.5, quantity=2),
        action_event("view", "i9", request_id="r2", minutes=9),  # was not shown
        action_event("view", "i2", request_id="unknown", minutes=9),
    ]
    ingest_feedback(shop, tmp_path, rows)
    _attribute(shop)
    assert _outcomes(shop) == [("r1", 3, 2, 1, 1), ("r2", 2, 0, 0, 0)]
    assert [float(row[1]) for row in _outcomes(shop, "request_id, revenue")] == [7.0, 0.0]


def test_an_action_without_a_request_is_attributed_to_the_last_impression_in_the_window(
    shop: Engine, tmp_path: Path
) -> None:
    next_day = START + timedelta(hours=20)
    rows = [
        *impression_events("r1", ["i1", "i2"]),
        *impression_events("r2", ["i1"], at=next_day),
        *impression_events("other", ["i1"], user="u2"),
        action_event("view", "i1", minutes=60),  # r1
        action_event("view", "i1", minutes=21 * 60),  # r2, though r1 is within a day too
        action_event("view", "i2", minutes=25 * 60),  # too late
        action_event("view", "i2", minutes=-1),  # before it was shown
    ]
    ingest_feedback(shop, tmp_path, rows)
    _attribute(shop)
    assert _outcomes(shop) == [("other", 1, 0, 0, 0), ("r1", 2, 1, 0, 0), ("r2", 1, 1, 0, 0)]


def test_clock_skew_does_not_separate_an_action_from_its_request(shop: Engine, tmp_path: Path) -> None:
    rows = [*impression_events("r1", ["i1"]), action_event("view", "i1", request_id="r1", minutes=-90)]
    ingest_feedback(shop, tmp_path, rows)
    _attribute(shop)
    assert _outcomes(shop) == [("r1", 1, 1, 0, 0)]


def test_the_attribution_window_is_equally_long_at_the_start_and_end_of_a_day(shop: Engine, tmp_path: Path) -> None:
    rows = []
    for request, at in (("early", START.replace(hour=0, minute=1)), ("late", START.replace(hour=23, minute=59))):
        rows += impression_events(request, ["i1", "i2", "i3", "i4"], at=at)
        begins, day = (at - START) / timedelta(minutes=1), 24 * 60
        rows.append(action_event("view", "i1", request_id=request, minutes=begins + day - 1))
        rows.append(action_event("view", "i2", request_id=request, minutes=begins + day))  # too late
        rows.append(action_event("view", "i3", request_id=request, minutes=begins - day))  # small clock skew
        rows.append(action_event("view", "i4", request_id=request, minutes=begins - day - 1))  # too large a skew
    ingest_feedback(shop, tmp_path, rows)
    _attribute(shop)
    assert _outcomes(shop) == [("early", 4, 2, 0, 0), ("late", 4, 2, 0, 0)]


def test_late_events_update_only_the_days_they_touch(shop: Engine, tmp_path: Path) -> None:
    later = START + timedelta(days=5)
    ingest_feedback(
        shop, tmp_path, [*impression_events("r1", ["i1", "i2"]), *impression_events("r5", ["i1"], at=later)]
    )
    _attribute(shop)
    assert _attribute(shop) == AttributionReport((), 0, 0)
    ingest_feedback(shop, tmp_path, [action_event("view", "i2", request_id="r1", minutes=22 * 60)])  # of the next day
    again = _attribute(shop)
    assert DAY in again.days
    assert later.date() not in again.days
    assert _outcomes(shop) == [("r1", 2, 1, 0, 0), ("r5", 1, 0, 0, 0)]


def test_attribution_is_idempotent_and_incremental(shop: Engine, tmp_path: Path) -> None:
    rows = [
        *impression_events("r1", ["i1", "i2"]),
        action_event("view", "i1", request_id="r1"),
        action_event("view", "i2", minutes=3),
    ]
    for batch in ([rows[0]], rows[1:3], rows):
        ingest_feedback(shop, tmp_path, batch)
        _attribute(shop)
    everything = "request_id, impressions, clicks, milliseconds, list, segment, model_version, traffic"
    assert _outcomes(shop, everything) == [
        ("r1", 2, 2, 2.5, "recommendations", "returning", "1", "shopper"),
    ]


def test_bots_and_internal_traffic_are_excluded_from_metrics(shop: Engine, tmp_path: Path) -> None:
    rows = [*impression_events("r1", ["i1", "i2"]), action_event("view", "i1", request_id="r1")]
    rows += impression_events("test", ["i1"], user="tester", traffic="internal")
    for number in range(100):
        at = START + timedelta(seconds=number / 2)
        rows += impression_events(f"b{number}", ["i3"], user="robot", at=at)
        rows.append(action_event("view", "i3", user="robot", minutes=number / 120, request_id=f"b{number}"))
    ingest_feedback(shop, tmp_path, rows)
    assert _attribute(shop).bots == 1
    with shop.connect() as connection:
        reason = connection.scalar(text("select reason from bot_visitors where visitor = 'u:robot'"))
        assert reason == "100 lists within one minute"
        figures = load_online_metrics(connection, Interval.of_day(DAY))[MetricKey("recommendations", "1", "", "")]
    assert (figures.visitors, figures.sums["shown"], figures.sums["clicks"]) == (1, 2, 1)
    assert _attribute(shop).bots == 0


def test_events_loaded_while_bots_are_flagged_are_attributed_the_next_time(
    shop: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = impression_events("r1", ["i1"])
    for number in range(70):
        rows += impression_events(f"b{number}", ["i3"], user="robot", at=START + timedelta(seconds=number / 2))
    ingest_feedback(shop, tmp_path, rows)
    flag_bots = attribution._flag_bots

    def after_a_click(*given: Any) -> Any:
        ingest_feedback(shop, tmp_path, [action_event("view", "i1", request_id="r1")])
        return flag_bots(*given)

    monkeypatch.setattr(attribution, "_flag_bots", after_a_click)
    assert _attribute(shop).bots == 1
    assert ("r1", 0) in _outcomes(shop, "request_id, clicks")
    assert DAY in _attribute(shop).days
    assert ("r1", 1) in _outcomes(shop, "request_id, clicks")
    assert _attribute(shop) == AttributionReport((), 0, 0)


@pytest.mark.parametrize("traffic", ["internal", "bot"])
def test_impressions_to_bots_and_internal_traffic_are_excluded_from_every_metric(
    shop: Engine, tmp_path: Path, traffic: str
) -> None:
    rows = [*impression_events("r1", ["i1", "i2"], session="s1"), action_event("view", "i1", request_id="r1")]
    rows += impression_events(
        "test", ["i3", "i4"], "tester", traffic=traffic, milliseconds=900.0
    )  # only the impression of i3 says so
    rows += [action_event("view", item, "tester", request_id="test") for item in ("i3", "i4")]
    ingest_feedback(shop, tmp_path, rows)
    _attribute(shop)
    windows: dict[str, Any] = {**Interval.of_day(DAY).bounds, "since": START, "challenger": "1", "champion": "0"}
    windows |= {"cutoff": START + timedelta(days=1), "as_of_change": 10**6, "max_positions": 10}

    def figures(name: str) -> list[Any]:
        with shop.connect() as connection:
            return [tuple(row) for row in connection.execute(statement(name), windows)]

    assert figures("promotion/rollout_clicks") == [("1", 1, 1)]
    assert figures("experiments/online_coverage") == [("1", 2, pytest.approx(2 / 20))]
    assert figures("experiments/online_latency") == [("recommendations", "1", "", "", 1, 2.5, 2.5)]
    assert figures("features/impressions_by_position") == [("i1", 1, 1, 1), ("i2", 2, 1, 0)]


def test_shopper_events_are_filtered_as_of_a_change(shop: Engine, tmp_path: Path) -> None:
    first, second = impression_events("test", ["i3", "i4"], "tester", traffic="internal")
    ingest_feedback(shop, tmp_path, [second])
    ingest_feedback(shop, tmp_path, [first])
    shown_to_shoppers = text("select count(*) from shopper_events('-infinity', 'infinity', :known) where position = 2")
    with shop.connect() as connection:
        last = int(connection.scalar(text("select max(change_number) from batches")) or 0)
        counts = [
            connection.scalar(shown_to_shoppers, {"known": as_of_change}) for as_of_change in (last - 1, last, None)
        ]
    assert counts == [1, 0, 0]


def test_a_bot_flag_is_a_change_that_earlier_snapshots_do_not_include(shop: Engine, tmp_path: Path) -> None:
    rows = [action_event("view", "i1", user="human")]
    for number in range(70):
        rows += impression_events(f"b{number}", ["i3"], user="robot", at=START + timedelta(seconds=number / 2))
        rows.append(action_event("view", "i3", user="robot", minutes=number / 120, request_id=f"b{number}"))
    ingest_feedback(shop, tmp_path, rows)

    def users(as_of_change: int) -> set[str]:
        partition = build_partitions(shop, Folder.of(tmp_path / "parts"), START + timedelta(days=1), as_of_change)[-1]
        return set(pq.read_table(tmp_path / "parts" / partition.file)["user_key"].to_pylist())

    with shop.connect() as connection:
        before = connection.scalar(text("select max(change_number) from batches"))
    _attribute(shop)
    assert users(int(before or 0)) == {"u:human", "u:robot"}
    assert users(10**6) == {"u:human"}


def test_rates_are_over_visitors_and_by_version_arm_and_segment(shop: Engine, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows, clicks = [], {"a": 0, "b": 0}
    for number in range(60):
        arm = "ab"[number % 2]
        list_properties: dict[str, Any] = {
            "experiment": "x",
            "arm": arm,
            "segment": ("new", "returning")[number % 3 == 0],
        }
        rows += impression_events(f"r{number}", ["i1", "i2", "i3", "i4"], user=f"u{number}", **list_properties)
        for item in random.choice(4, int(random.integers(0, 3)), replace=False):
            rows.append(action_event("view", f"i{item + 1}", user=f"u{number}", request_id=f"r{number}"))
            clicks[arm] += 1
    ingest_feedback(shop, tmp_path, rows)
    _attribute(shop)
    with shop.connect() as connection:
        found = load_online_metrics(connection, Interval.of_day(DAY))
        stored = connection.execute(
            text("select arm, value, low, high from online_metrics where metric = 'click_through' and segment = ''")
        ).all()
        other = set(connection.scalars(text("select distinct metric from online_metrics")))
    for arm in "ab":
        rate = found[MetricKey("recommendations", "1", "x", arm)].rates["click_through"]
        assert rate.value == pytest.approx(clicks[arm] / 120)
        assert rate.low < rate.value < rate.high
        by_segment = [found[MetricKey("recommendations", "1", "x", arm, segment)] for segment in ("new", "returning")]
        assert sum(metrics.sums["clicks"] for metrics in by_segment) == clicks[arm]
    assert {row.arm: pytest.approx(row.value) for row in stored} == {arm: clicks[arm] / 120 for arm in "ab"}
    assert other >= {"add_to_cart", "conversion", "revenue_per_session", "coverage", "latency_p50_ms", "latency_p99_ms"}


def test_a_sampled_request_is_scaled_up(shop: Engine, tmp_path: Path) -> None:
    ingest_feedback(shop, tmp_path, [*impression_events("r1", ["i1", "i2"], sampled=0.25)])
    _attribute(shop)
    with shop.connect() as connection:
        found = load_online_metrics(connection, Interval.of_day(DAY))[MetricKey("recommendations", "1", "", "")]
    assert (found.sums["shown"], found.sums["shown_in_all"]) == (2, 8)


def test_outcomes_exclude_a_forgotten_user(shop: Engine, tmp_path: Path) -> None:
    ingest_feedback(shop, tmp_path, [*impression_events("r1", ["i1"]), *impression_events("r2", ["i1"], user="u2")])
    _attribute(shop)
    forget(shop, ["u1"])
    assert [row[0] for row in _outcomes(shop)] == ["r2"]
    _attribute(shop)
    assert [row[0] for row in _outcomes(shop)] == ["r2"]


def test_planner_statistics_include_the_first_feedback_right_after_its_load(warehouse: Engine, tmp_path: Path) -> None:
    load_catalog(warehouse, tmp_path)
    items = [f"i{number}" for number in range(20)]
    ingest_feedback(
        warehouse,
        tmp_path,
        [row for number in range(500) for row in impression_events(f"r{number}", items, f"u{number}")],
    )
    with warehouse.connect() as connection:
        found = connection.scalar(
            text("select null_frac from pg_stats where tablename = 'events_2024_05' and attname = 'request_id'")
        )
    assert found == 0  # otherwise attribution would scan all impressions for each action
