"""Monitors on a real warehouse: arms, CTR regressions, drift, sample ratio; and the alarms they open and close."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sqlalchemy import Engine, text

from recsys_tasks.experiments.definition import Arm, Experiment
from recsys_tasks.experiments.online_metrics import CLICK_THROUGH
from recsys_tasks.experiments.stored_results import find_shown_days, load_daily_rates, read_results, update_results
from recsys_tasks.experiments.verdicts import estimate_exploration_cost, load_arm_metrics, load_experiment_results
from recsys_tasks.feedback.attribution import AttributionRules, attribute_days
from recsys_tasks.interval import Interval
from recsys_tasks.monitoring.alarms import read_open_alarms, write_alarms
from recsys_tasks.monitoring.monitors import Finding, ServedModel, run_monitors, serving_period
from recsys_tasks.monitoring.report import build_report, draw_days_chart
from recsys_tasks.monitoring.rules import read_rules
from recsys_tasks.plugins import MONITOR_GROUP
from recsys_tasks.warehouse import statement
from tests.integration.feedback import START, action_event, impression_events, ingest_feedback, load_catalog
from tests.packages import install

EXPERIMENT = Experiment("x", [Arm("ours", 0.5), Arm("popular", 0.5, "popularity")])
SERVED = ServedModel("2", START - timedelta(days=1), "1")
WEEK = Interval(START - timedelta(days=20), START + timedelta(days=20))


@pytest.fixture
def shop(warehouse: Engine, tmp_path: Path) -> Engine:
    load_catalog(warehouse, tmp_path)
    return warehouse


def _lists(at: datetime, chance: Callable[[str], float], visitors: int = 400, seed: int = 0, **about: Any) -> list[Any]:
    """A list of four items for each visitor, half of them in either arm, and what they clicked."""
    random, rows = np.random.default_rng(seed), []
    for number in range(visitors):
        arm = ("ours", "popular")[number % 2]
        request, when = f"r{at:%d%H}-{number}", at + timedelta(minutes=number)
        told = {"experiment": "x", "arm": arm, "model_version": "2", **about}
        rows += impression_events(request, ["i1", "i2", "i3", "i4"], user=f"v{number}", at=when, **told)
        for item in np.flatnonzero(random.random(4) < chance(arm)):
            minutes = (when - START) / timedelta(minutes=1) + 1
            rows.append(action_event("view", f"i{item + 1}", f"v{number}", minutes, request_id=request))
    return rows


def _check(shop: Engine, served: ServedModel = SERVED) -> dict[str, Finding]:
    attribute_days(shop, AttributionRules(24, 60))
    with shop.begin() as connection:
        found = run_monitors(connection, read_rules(), served, EXPERIMENT)
        write_alarms(connection, found, served)
    return {finding.rule.name: finding for finding in found}


def test_without_impressions_there_are_no_findings(shop: Engine) -> None:
    assert _check(shop) == {}


def test_a_version_below_the_popularity_baseline_asks_for_a_rollback(shop: Engine, tmp_path: Path) -> None:
    ingest_feedback(shop, tmp_path, _lists(START, lambda arm: 0.1 if arm == "ours" else 0.3))
    found = _check(shop)["CTR below the popularity baseline"]
    assert found.fires
    assert found.rule.action == "roll_back"
    assert "version 2 9.25%" in found.explanation
    assert "the popularity baseline 29.62%" in found.explanation
    with shop.connect() as connection:
        (alarm,) = (alarm for alarm in read_open_alarms(connection) if alarm.action == "roll_back")
    assert (alarm.model_version, alarm.explanation) == ("2", found.explanation)
    _check(shop)  # once more: the same alarm
    with shop.connect() as connection:
        assert [one.alarm_id for one in read_open_alarms(connection) if one.action == "roll_back"] == [alarm.alarm_id]
    _check(shop, ServedModel("3", SERVED.cutoff, "2"))  # of another version nothing is known
    with shop.connect() as connection:
        assert not [one for one in read_open_alarms(connection) if one.action == "roll_back"]


def test_a_previous_version_that_does_no_better_asks_for_retraining_instead(shop: Engine, tmp_path: Path) -> None:
    three = Experiment("x", [Arm("ours", 0.4), Arm("popular", 0.4, "popularity"), Arm("before", 0.2, "previous")])
    rows = _lists(START, lambda arm: 0.1 if arm == "ours" else 0.3)
    for number in range(100):
        about: dict[str, Any] = {"experiment": "x", "arm": "before", "model_version": "1"}
        rows += impression_events(f"b{number}", ["i1", "i2", "i3", "i4"], f"w{number}", START, **about)
    clicked = [action_event("view", "i1", f"w{number}", request_id=f"b{number}") for number in range(20)]
    ingest_feedback(shop, tmp_path, [*rows, *clicked])
    attribute_days(shop, AttributionRules(24, 60))
    with shop.begin() as connection:
        (found, *_) = run_monitors(connection, read_rules(), SERVED, three)
    assert found.fires
    assert found.rule.action == "retrain"
    assert "the previous version does no better (5.00%)" in found.explanation
    much = [
        action_event("view", f"i{item}", f"w{number}", request_id=f"b{number}")
        for number in range(100)
        for item in (2, 3)
    ]
    ingest_feedback(shop, tmp_path, much)
    attribute_days(shop, AttributionRules(24, 60))
    with shop.begin() as connection:
        (found, *_) = run_monitors(connection, read_rules(), SERVED, three)
    assert found.rule.action == "roll_back"


def test_a_version_as_good_as_the_baseline_fires_no_alarm(shop: Engine, tmp_path: Path) -> None:
    ingest_feedback(shop, tmp_path, _lists(START, lambda _: 0.2))
    assert not _check(shop)["CTR below the popularity baseline"].fires


def test_arms_with_few_visitors_are_not_compared(shop: Engine, tmp_path: Path) -> None:
    ingest_feedback(shop, tmp_path, _lists(START, lambda arm: 0.0 if arm == "ours" else 0.9, visitors=20))
    assert "CTR below the popularity baseline" not in _check(shop)


def test_a_ctr_regression_asks_for_retraining(shop: Engine, tmp_path: Path) -> None:
    ingest_feedback(shop, tmp_path, _lists(START - timedelta(days=2), lambda _: 0.3))
    assert "CTR regression" not in _check(shop)
    ingest_feedback(shop, tmp_path, _lists(START, lambda _: 0.15, seed=1))
    found = _check(shop)["CTR regression"]
    assert found.fires
    assert found.rule.action == "retrain"


@pytest.mark.parametrize(("popular", "then"), [(0.3, "roll_back"), (0.15, "retrain")])
def test_a_regression_under_a_new_version_asks_for_a_rollback_unless_the_baseline_falls_too(
    shop: Engine, tmp_path: Path, popular: float, then: str
) -> None:
    ingest_feedback(shop, tmp_path, _lists(START - timedelta(days=2), lambda _: 0.3, model_version="1"))
    ingest_feedback(shop, tmp_path, _lists(START, lambda arm: 0.15 if arm == "ours" else popular, seed=1))
    found = _check(shop)["CTR regression"]
    assert found.fires
    assert found.rule.action == then
    assert ("version 2 is new since then" in found.explanation) == (then == "roll_back")


def test_item_drift_fires_on_a_changed_distribution_and_not_on_the_same(shop: Engine, tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def bought(days: float, shares: np.ndarray, count: int = 600) -> list[Any]:
        items = random.choice(20, count, p=shares)
        return [
            action_event("purchase", f"i{item}", f"b{number}", days * 1_440 + number / 10)
            for number, item in enumerate(items)
        ]

    usual = np.full(20, 1 / 20)
    ingest_feedback(shop, tmp_path, [*bought(-5, usual), *bought(0, usual), *_lists(START, lambda _: 0.2)])
    assert not _check(shop)["item drift"].fires
    other = np.concatenate([np.full(5, 0.15), np.full(15, 0.25 / 15)])
    ingest_feedback(shop, tmp_path, [*bought(3, other), *_lists(START + timedelta(days=3), lambda _: 0.2, seed=2)])
    found = _check(shop)["item drift"]
    assert found.fires
    moved = found.evidence["moved"]
    assert {item for item, before, now in moved if now > before} <= {f"i{number}" for number in range(5)}
    item, before, now = moved[0]  # what moved most
    assert before < 0.08 < 0.12 < now
    assert f"moved most: {item} {before:.1%} to {now:.1%}" in found.explanation


def test_quarantined_feedback_holds_promotions(shop: Engine, tmp_path: Path) -> None:
    bad = [action_event("view", "i1", f"x{number}", price=-1) for number in range(100)]
    ingest_feedback(shop, tmp_path, [*_lists(START, lambda _: 0.2, visitors=100), *bad])
    found = _check(shop)["quarantine rate of feedback"]
    assert found.fires
    assert found.rule.action == "hold_promotions"


def test_events_that_any_caller_can_post_do_not_hold_promotions(shop: Engine, tmp_path: Path) -> None:
    unknown = [action_event("view", "no such item", f"x{number}") for number in range(2_000)]
    repeated = [action_event("view", f"i{number % 4 + 1}", "y", event_id="twice") for number in range(500)]
    old = [action_event("view", "i1", "z", event_time="1990-01-01T00:00:00Z") for _ in range(500)]
    ingest_feedback(shop, tmp_path, [*_lists(START, lambda _: 0.2, visitors=100), *unknown, *repeated, *old])
    assert not _check(shop)["quarantine rate of feedback"].fires
    with shop.connect() as connection:
        waiting = {row.rule: row.waiting for row in connection.execute(statement("monitoring/quarantine_by_rule"))}
    assert waiting["item_known"] == 2_000, "they are counted and reported"


def test_a_sample_ratio_mismatch_invalidates_the_experiment(shop: Engine, tmp_path: Path) -> None:
    rows = [row for row in _lists(START, lambda _: 0.2) if row["user_id"] not in {f"v{n}" for n in range(1, 300, 2)}]
    ingest_feedback(shop, tmp_path, rows)
    assert _check(shop)["sample ratio mismatch"].fires
    with shop.connect() as connection:
        (verdict,) = load_experiment_results(connection, WEEK, EXPERIMENT)
    assert not verdict.has_expected_sample_ratio
    assert "Sample ratio mismatch" in verdict.summary_lines()[0]


def test_the_experiment_result_says_which_arm_is_ahead_and_whether_significantly(shop: Engine, tmp_path: Path) -> None:
    ingest_feedback(shop, tmp_path, _lists(START, lambda arm: 0.3 if arm == "ours" else 0.1))
    _check(shop)
    with shop.connect() as connection:
        (verdict,) = load_experiment_results(connection, WEEK, EXPERIMENT)
    (line,) = verdict.summary_lines()
    assert line.startswith("popular: 11.25%")
    assert "significantly lower" in line


def test_comparisons_are_adjusted_for_what_visitors_did_before(shop: Engine, tmp_path: Path) -> None:
    random, rows, before = np.random.default_rng(0), [], START - timedelta(days=3)
    for number in range(600):
        user, chance = f"v{number}", 0.5 if number % 3 == 0 else 0.1
        for request, at, told in (
            (f"before{number}", before, {"experiment": "", "arm": ""}),
            (f"r{number}", START, {"experiment": "x", "arm": ("ours", "other")[number % 2]}),
        ):
            rows += impression_events(request, [f"i{n}" for n in range(20)], user, at, model_version="2", **told)
            for item in np.flatnonzero(random.random(20) < chance):
                minutes = (at - START) / timedelta(minutes=1) + 1
                rows.append(action_event("view", f"i{item}", user, minutes, request_id=request))
    ingest_feedback(shop, tmp_path, rows)
    _check(shop)
    with shop.connect() as connection:
        (found,) = load_experiment_results(connection, WEEK)
        plain = load_arm_metrics(connection, WEEK)["x", "ours"].rates[CLICK_THROUGH]
    adjusted = found.comparisons[0].comparison.rate if found.control_arm == "other" else None
    assert adjusted is not None
    assert adjusted.visitors == plain.visitors == 300
    assert adjusted.high - adjusted.low < 0.6 * (plain.high - plain.low)
    assert abs(adjusted.value - 0.7 / 3) < 0.03


def test_the_holdout_is_compared_with_everybody_else_over_all_experiments(shop: Engine, tmp_path: Path) -> None:
    random, rows = np.random.default_rng(0), []
    for number in range(1_200):
        arm = "holdout" if number % 4 == 0 else ("ours", "other")[number % 2]
        user, experiment = f"v{number % 600}", "first" if number < 600 else "second"
        told: dict[str, Any] = {"experiment": experiment, "arm": arm, "model_version": "2"}
        rows += impression_events(f"r{number}", ["i1", "i2", "i3", "i4"], user, **told)
        for item in np.flatnonzero(random.random(4) < (0.1 if arm == "holdout" else 0.3)):
            rows.append(action_event("view", f"i{item + 1}", user, request_id=f"r{number}"))
    earlier = START - timedelta(days=2)
    for number in range(100):  # before the first list of the holdout
        told = {"experiment": "zeroth", "arm": "ours"}
        rows += impression_events(f"earlier{number}", ["i1", "i2", "i3"], f"w{number}", earlier, **told)
        told = {"experiment": "", "arm": ""}  # in no experiment
        rows += impression_events(f"outside{number}", ["i1", "i2", "i3"], f"x{number}", **told)
        told = {"experiment": "second", "arm": "ours", "session": f"s{number}"}
        rows += impression_events(f"anonymous{number}", ["i1", "i2", "i3"], None, **told)
    ingest_feedback(shop, tmp_path, rows)
    _check(shop)
    with shop.connect() as connection:
        results = {result.experiment: result for result in load_experiment_results(connection, WEEK)}
    assert set(results) == {"zeroth", "first", "second", "long-term holdout"}
    found = results["long-term holdout"]
    assert found.visitors == {"holdout": 150, "everybody else": 450}, "a visitor of two experiments counts once"
    assert "everybody else: 30." in found.summary_lines()[0]
    assert "significantly higher" in found.summary_lines()[0]
    assert results["first"].control_arm == "other"
    assert [line.split(":")[0] for line in results["first"].summary_lines()] == ["ours", "holdout"]


def test_interleaving_reports_which_list_visitors_prefer(shop: Engine, tmp_path: Path) -> None:
    rows = []
    for number in range(200):
        teams = ["model", "neighbours", "model", "neighbours"]
        rows += impression_events(
            f"r{number}", ["i1", "i2", "i3", "i4"], f"v{number}", experiment="x", arm="both", teams=teams
        )
        item = "i1" if number % 10 < 7 else "i2"
        rows.append(action_event("view", item, f"v{number}", request_id=f"r{number}"))
    ingest_feedback(shop, tmp_path, rows)
    _check(shop)
    with shop.connect() as connection:
        (verdict,) = load_experiment_results(connection, WEEK)
    assert "both: 70% of 200 visitors clicked more of model than of neighbours" in verdict.summary_lines()[0]


def test_the_cost_of_exploration_is_estimated_from_propensities(shop: Engine, tmp_path: Path) -> None:
    random, rows = np.random.default_rng(0), []
    for number in range(300):
        best = random.random(4) < 0.8
        chances = np.where(best, 0.8 + 0.2 / 10, 0.2 / 10).tolist()
        rows += impression_events(
            f"r{number}", ["i1", "i2", "i3", "i4"], f"v{number}", model_version="2", propensities=chances
        )
        for place in np.flatnonzero(random.random(4) < np.where(best, 0.4, 0.05)):
            rows.append(action_event("view", f"i{place + 1}", f"v{number}", request_id=f"r{number}"))
    ingest_feedback(shop, tmp_path, rows)
    _check(shop)
    with shop.connect() as connection:
        found = estimate_exploration_cost(connection, WEEK, "2", [""])
        assert estimate_exploration_cost(connection, WEEK, "1", [""]) is None
        assert estimate_exploration_cost(connection, WEEK, "2", ["popular"]) is None
    assert found is not None
    assert found.without_exploration.low <= 0.4 <= found.without_exploration.high
    assert found.observed_rate < found.without_exploration.value


def test_the_report_is_one_self_contained_file(shop: Engine, tmp_path: Path) -> None:
    ingest_feedback(shop, tmp_path, _lists(START, lambda arm: 0.3 if arm == "ours" else 0.1))
    ingest_feedback(shop, tmp_path, _searches(START))
    findings = list(_check(shop).values())
    with shop.begin() as connection:
        connection.execute(
            text(
                "insert into promotions (model_version, run_id, snapshot_id, decision, reasons)"
                """ values ('2', 'run', 'snapshot', 'refused', '["<bad>", "and slow"]')"""
            )
        )
        made = build_report(connection, findings, EXPERIMENT, lambda run: {"mrr_20": 0.2, "recall_20": 0.4})
    assert made is not None
    page = made.html()
    assert "above, at 95 % confidence" in made.headlines[0]
    for part in (
        'src="data:image/svg+xml;base64,',
        "popular: 11.25%",
        "CTR below the popularity baseline",
        "0.4000",
        "<li>&lt;bad&gt;</li><li>and slow</li>",
        "Quarantine is empty",
        "Searches: 4, of them 50.00% without a result, 25.00% with a corrected word",
        "25.00% repeated in other words",
    ):
        assert part in page
    assert "http://" not in page


def test_a_list_with_a_time_of_another_year_does_not_move_the_days_of_the_chart(shop: Engine, tmp_path: Path) -> None:
    rows = _lists(START, lambda arm: 0.2) + _lists(START + timedelta(days=1), lambda arm: 0.2)
    ingest_feedback(shop, tmp_path, rows)
    _check(shop)
    with shop.connect() as connection:
        period = serving_period(connection)
        assert period is not None
        days = find_shown_days(connection, period)
    stray = START + timedelta(days=500)
    ingest_feedback(
        shop, tmp_path, impression_events("stray", ["i1"], user="late", at=stray, experiment="x", arm="ours")
    )
    _check(shop)
    with shop.connect() as connection:
        period = serving_period(connection)
        assert period is not None
        assert period.end > stray
        assert find_shown_days(connection, period) == days == [START.date(), START.date() + timedelta(days=1)]
        rates = [rate for day in days for rate in load_daily_rates(connection, day)]
    assert _ticks(draw_days_chart(days, rates, EXPERIMENT)) == ["01 May", "02 May"]


def _ticks(chart: str) -> list[str]:
    """The labels of the days; matplotlib draws texts as paths, and leaves them as comments."""
    return re.findall(r"<!-- (\d\d \w+) -->", chart)


def _searches(at: datetime) -> list[dict[str, object]]:
    """One visitor repeats a search in other words, another one clicks before the next search."""
    searches = [
        ("a", 0, "xyzzy", {"results": 0}),
        ("a", 30, "mug", {"results": 9, "corrected": True}),
        ("b", 0, "mug", {"results": 9}),
        ("b", 60, "tea", {"results": 0}),
    ]
    rows: list[dict[str, object]] = [
        {
            "event_type": "search",
            "event_id": f"search-{visitor}-{second}",
            "session_id": visitor,
            "query": query,
            "event_time": (at + timedelta(seconds=second)).isoformat(),
            "properties": properties,
        }
        for visitor, second, query, properties in searches
    ]
    click = action_event("view", "i1", "b", request_id="search-b-0")
    return [*rows, {**click, "event_time": (at + timedelta(seconds=30)).isoformat()}]


def test_results_are_stored_for_days_that_changed_and_disappear_with_the_last_list(
    shop: Engine, tmp_path: Path
) -> None:
    later = START + timedelta(days=3)  # the day after a list counts its late actions
    ingest_feedback(shop, tmp_path, _lists(START, lambda arm: 0.2))
    _check(shop)
    with shop.begin() as connection:
        assert read_results(connection) is None
        update_results(connection, serving_period, EXPERIMENT)
        first = read_results(connection)
        assert first is not None
        update_results(connection, serving_period, EXPERIMENT)
        assert read_results(connection) == first, "nothing was attributed since"
    ingest_feedback(shop, tmp_path, _lists(later, lambda arm: 0.4))
    _check(shop)
    with shop.begin() as connection:
        # A stored rate of a day without changes stays, whatever it is.
        marked = msgspec.structs.replace(first, rates=[msgspec.structs.replace(rate, low=0.0) for rate in first.rates])
        connection.execute(
            text("update experiment_results set results = cast(:results as jsonb)"),
            {"results": msgspec.json.encode(marked).decode()},
        )
        update_results(connection, serving_period, EXPERIMENT)
        both = read_results(connection)
        assert both is not None
        assert (both.days[0], both.days[-1]) == (START.date(), later.date())
        assert [rate for rate in both.rates if rate.day == both.days[0]] == marked.rates
        assert [rate for rate in both.rates if rate.day == later.date()] == load_daily_rates(connection, later.date())
        (summary,) = both.experiments
        (expected,) = load_experiment_results(connection, WEEK, EXPERIMENT)
        assert (summary.visitors, summary.lines) == (expected.visitors, expected.summary_lines())
        renamed = Experiment("y", EXPERIMENT.arms)
        update_results(connection, serving_period, renamed)
        again = read_results(connection)
        assert again is not None
        assert again.definition != both.definition, "another experiment is configured"
        update_results(connection, lambda _: None, EXPERIMENT)
        assert read_results(connection) is None


SEARCHERS = """
import numpy as np
from sqlalchemy import text
from recsys_tasks.monitoring.monitors import Finding

def check(given, rule):
    query = "select count(*) from events where event_type = 'search' and event_time between :begins and :ends"
    count = given.connection.scalar(text(query), given.latest.bounds)
    return Finding(rule, count > rule.min_events, f"{count} searches", {"searches": np.int64(count)})

def fail(given, rule):
    given.connection.execute(text("select 1 from absent"))
"""


def test_monitors_of_packages_have_rules_in_the_file_and_one_that_fails_stops_no_other(
    shop: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {"searches": "searchers:check", "broken": "searchers:fail"}
    install(monkeypatch, tmp_path, "searchers", SEARCHERS, {MONITOR_GROUP: points})
    rule = '[[rules]]\nname = "{0}"\nmonitor = "{0}"\naction = "hold_promotions"\nmin_events = 3\n'
    (tmp_path / "rules.toml").write_text(rule.format("broken") + rule.format("searches"), encoding="utf-8")
    ingest_feedback(shop, tmp_path, [*_lists(START, lambda arm: 0.2), *_searches(START)])
    _check(shop)
    with shop.begin() as connection:
        broken, searches = run_monitors(connection, read_rules(tmp_path / "rules.toml"), SERVED, EXPERIMENT)
        write_alarms(connection, [broken, searches], SERVED)
        failed = Finding(searches.rule, True, "failed", {}, searches.rule.name)
        failed = failed._replace(rule=msgspec.structs.replace(searches.rule, name="failed"))
        write_alarms(connection, [failed], SERVED)
        held = [alarm.rule for alarm in read_open_alarms(connection) if alarm.action == "hold_promotions"]
        assert "searches" in held, "a monitor that fails does not close the alarm of its rule"
    assert (searches.fires, searches.explanation, searches.evidence) == (True, "4 searches", {"searches": 4})
    assert (broken.fires, broken.rule.name, broken.rule.action) == (True, "broken (monitor failed)", "alert")
    assert "the monitor broken failed: ProgrammingError" in broken.explanation
