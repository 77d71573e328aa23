from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.validation.expectations import Verdict, forget_results, judge
from recsys_tasks.validation.suites import load_suite

ROOT = Path(__file__).parents[2]
AT = datetime(2026, 1, 1, tzinfo=UTC)
GOOD: dict[str, float | None] = {
    "rows": 1000,
    "bad_share": 0.0,
    "bad_share_item_known": 0.0,
    "rows_per_day": 1000.0,
    "rows_per_day_ratio": 1.1,
    "freshness_hours": 0.5,
    "null_rate_change_user_id": 0.01,
    "null_rate_change_session_id": 0.0,
    "null_rate_change_item_id": 0.0,
    "null_rate_change_price": 0.0,
    "event_type_distance": 0.03,
}
CHANGES = ("rows_per_day_ratio", "event_type_distance", *(name for name in GOOD if name.startswith("null_rate_change")))


def _judge(home: Path, batch_id: str = "shop-1", at: datetime = AT, suites: Path | None = None, **seen: Any) -> Verdict:
    return judge(home, "shop", "events", batch_id, GOOD | seen, at, parameters={"max_bad_share": 0.2}, suites=suites)


def _listed(home: Path, batch_id: str) -> int:
    return (home / "data_docs/index.html").read_text(encoding="utf-8").count(f"'run_name': '{batch_id}'")


def _expectation(**changes: Any) -> dict[str, Any]:
    return {
        "type": "expect_column_max_to_be_between",
        "kwargs": {"column": "rows_per_day_ratio", "min_value": 0.01},
        "severity": "critical",
        "meta": {"reason": "hardly any events"},
    } | changes


def _write(folder: Path, name: str, *expectations: Any) -> Path:
    (folder / f"{name}.json").write_text(json.dumps({"name": name, "expectations": expectations}), encoding="utf-8")
    return folder


def test_a_usual_batch_passes(tmp_path: Path) -> None:
    assert _judge(tmp_path) == Verdict()


def test_an_unusual_batch_is_reported_with_what_was_seen_and_expected(tmp_path: Path) -> None:
    verdict = _judge(tmp_path, rows_per_day_ratio=0.4)
    assert verdict.problems == []
    assert verdict.warnings == [
        "fewer than half or more than twice the usual events per day"
        " (events rows_per_day_ratio is 0.4, should be at least 0.5 and at most 2)"
    ]


def test_an_unbelievable_batch_is_stopped(tmp_path: Path) -> None:
    [problem] = _judge(tmp_path, bad_share=0.25).problems
    assert problem == "too many rows are bad (events bad_share is 0.25, should be at most 0.2)"
    assert any("fewer than a fifth" in problem for problem in _judge(tmp_path, rows_per_day_ratio=0.1).problems)


@pytest.mark.parametrize("metrics", [CHANGES, tuple(GOOD)], ids=["no history", "nothing at all"])
def test_what_was_not_measured_is_not_judged(tmp_path: Path, metrics: tuple[str, ...]) -> None:
    unmeasured: dict[str, Any] = dict.fromkeys(metrics)
    assert _judge(tmp_path, **unmeasured) == Verdict()
    assert _listed(tmp_path, "shop-1") == 1


def test_the_suite_of_a_source_goes_before_the_general_one(tmp_path: Path) -> None:
    own = _write(tmp_path, "events.shop", _expectation(), _expectation(kwargs={"column": "rows", "min_value": 5}))
    verdict = _judge(tmp_path / "home", suites=own, rows_per_day_ratio=0.1, rows=3)
    assert len(verdict.warnings) == 1, "the general warning stays"
    assert verdict.problems == ["hardly any events (events rows is 3, should be at least 5)"]
    general = load_suite("events", "other", GOOD, own)
    assert not any(expected.column == "rows" for expected in general.expectations)


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        (_expectation(type="expect_wonders"), "expect_wonders not found"),
        (_expectation(kwargs={"column": "rows_per_dya", "min_value": 1}), "'rows_per_dya', which is none of"),
        (_expectation(kwargs={"min_value": 1}), "kwargs.column is None"),
        (_expectation(kwargs={"column": "rows"}), "neither min_value nor max_value"),
        (_expectation(kwargs={"column": "rows", "min_value": 1, "max_valu": 3}), "max_valu"),
        (_expectation(kwargs={"column": "rows", "min_value": "many"}), "the limit 'many' is neither"),
        (_expectation(severity="fatal"), "severity is 'fatal'"),
        (_expectation(meta={}), "meta.reason is missing"),
        (_expectation(severety="warning"), "severety"),
        ("rows", "expectations[0]"),
    ],
)
def test_a_malformed_suite_is_refused_with_file_and_place(tmp_path: Path, entry: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        _judge(tmp_path / "home", suites=_write(tmp_path, "events.shop", entry))
    assert complaint in str(refused.value)
    assert "events.shop.json, expectations[0]" in str(refused.value)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"expectations": 1}'])
def test_a_file_that_is_no_suite_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "events.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"events\.json: not an expectation suite"):
        load_suite("events", "shop", GOOD, tmp_path)


def test_one_metric_has_one_limit_of_a_severity(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="a second one for rows_per_day_ratio critical"):
        load_suite("events", "shop", GOOD, _write(tmp_path, "events", _expectation(), _expectation()))


def test_a_parameter_that_is_not_given_is_a_mistake_of_the_suite(tmp_path: Path) -> None:
    own = _write(tmp_path, "events.shop", _expectation(kwargs={"column": "rows", "min_value": {"$PARAMETER": "least"}}))
    with pytest.raises(ConfigurationError, match="least"):
        _judge(tmp_path / "home", suites=own)


def test_the_docs_keep_all_runs_with_pages_that_exist(tmp_path: Path) -> None:
    for day in range(3):
        _judge(tmp_path, f"shop-{day}", AT + timedelta(days=day), rows_per_day_ratio=0.1)
    judge(tmp_path, "shop", "users", "shop-9", {"bad_share": 0.0}, AT, parameters={"max_bad_share": 0.2})
    docs = tmp_path / "data_docs"
    _judge(tmp_path, "profiling-1")
    assert [_listed(tmp_path, name) for name in ("shop-0", "shop-1", "shop-2", "shop-9", "profiling-1")] == [1] * 5
    for name in ("events/shop", "users/shop"):
        assert (docs / "expectations" / f"{name}.html").is_file()
    [page] = docs.glob("validations/events/shop/shop-0/*/*.html")
    assert "Critical if fewer than a fifth" in page.read_text(encoding="utf-8")


def test_judging_a_batch_again_replaces_its_result(tmp_path: Path) -> None:
    first = _judge(tmp_path, bad_share=0.5)
    again = _judge(tmp_path, at=AT.astimezone(timezone(timedelta(hours=5))), bad_share=0.5)
    assert first == again
    assert _listed(tmp_path, "shop-1") == 1
    assert len(list(tmp_path.glob("results/**/*.json"))) == 1


def test_old_results_are_forgotten_with_their_pages(tmp_path: Path) -> None:
    _judge(tmp_path, "shop-0", AT - timedelta(days=90))
    _judge(tmp_path, "shop-1")
    assert forget_results(tmp_path, AT - timedelta(days=30)) == 1
    _judge(tmp_path, "shop-2")
    assert [_listed(tmp_path, f"shop-{number}") for number in range(3)] == [0, 1, 1]
    assert not list(tmp_path.glob("data_docs/validations/events/shop/shop-0/*/*.html"))


@pytest.mark.parametrize("rest", ["", "{"])
def test_what_a_killed_process_left_half_written_does_not_stop_the_next(tmp_path: Path, rest: str) -> None:
    _judge(tmp_path, "shop-0")
    for path in (*tmp_path.glob("suites/**/*.json"), *tmp_path.glob("results/**/*.json")):
        path.write_text(rest, encoding="utf-8")
    _judge(tmp_path, "shop-1")
    _judge(tmp_path, "shop-0")
    assert [_listed(tmp_path, f"shop-{number}") for number in range(2)] == [1, 1]


def test_the_general_suites_are_well_formed() -> None:
    users = {"bad_share"}
    items = users | {f"null_rate_change_{name}" for name in ("title", "category_path", "brand", "price")}
    for kind, metrics in (("events", set(GOOD)), ("items", items), ("users", users)):
        assert load_suite(kind, "any", metrics).expectations


def test_processes_that_judge_at_once_keep_each_others_results(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.integration.test_judge import _judge\n"
        "for number in range(8): _judge(Path(sys.argv[1]), f'{sys.argv[2]}-{number}')"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], cwd=ROOT) for name in "ab"]
    assert [process.wait(120) for process in started] == [0, 0]
    for batch_id in (f"{name}-{number}" for name in "ab" for number in range(8)):
        assert _listed(tmp_path, batch_id) == 1
        assert len(list(tmp_path.glob(f"data_docs/validations/events/shop/{batch_id}/*/*.html"))) == 1
