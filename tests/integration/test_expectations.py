"""Expectation suites on batch profiles: results, custom suites, data docs, concurrency."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.storage.folder import Folder
from recsys_tasks.validation.expectations import SuiteResult, delete_old_results, erase_failing_rows, run_suite
from recsys_tasks.validation.failing_rows import FailingRows
from recsys_tasks.validation.suites import load_suite

ROOT = Path(__file__).parents[2]
LANDED_AT = datetime(2026, 1, 1, tzinfo=UTC)
USUAL_METRICS: dict[str, float | None] = {
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
    "missing_days": 0.0,
    "swapped_id_share": 0.0,
    "top_user_share": 0.02,
    "new_user_share_change": 0.1,
    "new_item_share_change": -0.1,
    "users_per_item_ratio": 1.2,
}
HISTORY_METRICS = (
    "rows_per_day_ratio",
    "event_type_distance",
    "missing_days",
    "users_per_item_ratio",
    *(name for name in USUAL_METRICS if "_change" in name),
)


def _run_suite(
    home: Path,
    batch_id: str = "shop-1",
    at: datetime = LANDED_AT,
    suites: Path | None = None,
    failing_rows: Sequence[FailingRows] = (),
    **metrics: Any,
) -> SuiteResult:
    return run_suite(
        Folder.of(home),
        "shop",
        "events",
        batch_id,
        USUAL_METRICS | metrics,
        at,
        parameters={"max_bad_share": 0.2},
        suites=suites,
        failing_rows=failing_rows,
    )


def _count_listed(home: Path, batch_id: str) -> int:
    return (home / "data_docs/index.html").read_text(encoding="utf-8").count(f">{batch_id}</a>")


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
    assert _run_suite(tmp_path) == SuiteResult()


def test_an_unusual_batch_is_reported_with_the_value_and_its_limits(tmp_path: Path) -> None:
    result = _run_suite(tmp_path, rows_per_day_ratio=0.4)
    assert result.problems == []
    assert result.warnings == [
        "fewer than half or more than twice the usual events per day"
        " (events rows_per_day_ratio is 0.4, should be at least 0.5 and at most 2)"
    ]


ROWS = [
    FailingRows(
        "price_is_number",
        "price is not a finite number",
        40,
        [
            {"row_number": 3, "id": "e3", "value": "<script>alert(1)</script>", "user_id": "u1"},
            {"row_number": 9, "id": "e9", "value": "http://elsewhere.example/a.js", "user_id": "u2"},
        ],
    )
]


def _read_pages(home: Path) -> dict[str, str]:
    docs = home / "data_docs"
    return {str(path.relative_to(docs)): path.read_text(encoding="utf-8") for path in docs.rglob("*.html")}


def test_the_page_of_a_batch_shows_its_failing_rows_escaped(tmp_path: Path) -> None:
    _run_suite(tmp_path, failing_rows=ROWS, bad_share=0.25)
    [page] = [content for name, content in _read_pages(tmp_path).items() if name.startswith("validations/")]
    assert "40 rows: price is not a finite number" in page
    assert "the first 2" in page
    assert "<td>e3</td>" in page.replace("\n", "").replace("  ", "")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page
    assert page.index("too many rows are bad") < page.index('class="met"')  # what failed comes first


def test_pages_request_nothing_from_any_host_and_their_links_lead_to_pages(tmp_path: Path) -> None:
    _run_suite(tmp_path, failing_rows=ROWS, bad_share=0.25)
    pages = _read_pages(tmp_path)
    assert len(pages) == 3  # index, suite, result
    for name, page in pages.items():
        references = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)|url\(([^)]*)\)|@import\s+(\S+)""", page)
        targets = {next(filter(None, found)) for found in references} - {"data:,"}
        assert targets
        for target in targets:
            assert (tmp_path / "data_docs" / name).parent.joinpath(target).resolve().is_file(), (name, target)


def test_an_erasure_removes_the_rows_of_users_from_results_and_pages(tmp_path: Path) -> None:
    _run_suite(tmp_path, failing_rows=ROWS)
    _run_suite(tmp_path, batch_id="shop-2", at=LANDED_AT + timedelta(hours=1))
    assert erase_failing_rows(Folder.of(tmp_path), ["u1", "u7"]) == 1
    stored = "".join(path.read_text(encoding="utf-8") for path in tmp_path.rglob("*") if path.is_file())
    assert "e3" not in re.findall(r"\be\d\b", stored)
    assert "e9" in re.findall(r"\be\d\b", stored)
    assert erase_failing_rows(Folder.of(tmp_path), ["u1"]) == 0


def test_a_critical_failure_is_a_problem(tmp_path: Path) -> None:
    [problem] = _run_suite(tmp_path, bad_share=0.25).problems
    assert problem == "too many rows are bad (events bad_share is 0.25, should be at most 0.2)"
    assert any("fewer than a fifth" in problem for problem in _run_suite(tmp_path, rows_per_day_ratio=0.1).problems)


@pytest.mark.parametrize("metrics", [HISTORY_METRICS, tuple(USUAL_METRICS)], ids=["no history", "nothing at all"])
def test_expectations_on_missing_metrics_are_skipped(tmp_path: Path, metrics: tuple[str, ...]) -> None:
    unmeasured: dict[str, Any] = dict.fromkeys(metrics)
    assert _run_suite(tmp_path, **unmeasured) == SuiteResult()
    assert _count_listed(tmp_path, "shop-1") == 1


def test_the_suite_of_a_source_overrides_the_general_one(tmp_path: Path) -> None:
    custom = _write(tmp_path, "events.shop", _expectation(), _expectation(kwargs={"column": "rows", "min_value": 5}))
    result = _run_suite(tmp_path / "home", suites=custom, rows_per_day_ratio=0.1, rows=3)
    assert len(result.warnings) == 1, "the general warning stays"
    assert result.problems == ["hardly any events (events rows is 3, should be at least 5)"]
    general = load_suite("events", "other", USUAL_METRICS, custom)
    assert not any(expected.column == "rows" for expected in general.expectations)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (_expectation(type="expect_wonders"), "expect_wonders not found"),
        (_expectation(kwargs={"column": "rows_per_dya", "min_value": 1}), "'rows_per_dya', which is not one of"),
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
def test_a_malformed_suite_is_rejected_with_file_and_index(tmp_path: Path, entry: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        _run_suite(tmp_path / "home", suites=_write(tmp_path, "events.shop", entry))
    assert message in str(refused.value)
    assert "events.shop.json, expectations[0]" in str(refused.value)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"expectations": 1}'])
def test_a_file_that_is_not_a_suite_is_rejected(tmp_path: Path, text: str) -> None:
    (tmp_path / "events.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"events\.json: not an expectation suite"):
        load_suite("events", "shop", USUAL_METRICS, tmp_path)


def test_duplicate_expectations_of_a_metric_and_severity_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="duplicate expectation for rows_per_day_ratio critical"):
        load_suite("events", "shop", USUAL_METRICS, _write(tmp_path, "events", _expectation(), _expectation()))


def test_a_suite_parameter_without_a_value_is_rejected(tmp_path: Path) -> None:
    custom = _write(
        tmp_path, "events.shop", _expectation(kwargs={"column": "rows", "min_value": {"$PARAMETER": "least"}})
    )
    with pytest.raises(ConfigurationError, match="least"):
        _run_suite(tmp_path / "home", suites=custom)


def test_the_data_docs_list_all_runs_with_existing_pages(tmp_path: Path) -> None:
    for day in range(3):
        _run_suite(tmp_path, f"shop-{day}", LANDED_AT + timedelta(days=day), rows_per_day_ratio=0.1)
    run_suite(
        Folder.of(tmp_path), "shop", "users", "shop-9", {"bad_share": 0.0}, LANDED_AT, parameters={"max_bad_share": 0.2}
    )
    docs = tmp_path / "data_docs"
    _run_suite(tmp_path, "profiling-1")
    batch_ids = ("shop-0", "shop-1", "shop-2", "shop-9", "profiling-1")
    assert [_count_listed(tmp_path, batch_id) for batch_id in batch_ids] == [1] * 5
    for name in ("events/shop", "users/shop"):
        assert (docs / "expectations" / f"{name}.html").is_file()
    [page] = docs.glob("validations/events/shop/shop-0/*/*.html")
    assert "Critical if fewer than a fifth" in page.read_text(encoding="utf-8")


def test_validating_a_batch_again_replaces_its_result(tmp_path: Path) -> None:
    first = _run_suite(tmp_path, bad_share=0.5)
    again = _run_suite(tmp_path, at=LANDED_AT.astimezone(timezone(timedelta(hours=5))), bad_share=0.5)
    assert first == again
    assert _count_listed(tmp_path, "shop-1") == 1
    assert len(list(tmp_path.glob("results/**/*.json"))) == 1


def test_old_results_are_deleted_with_their_pages(tmp_path: Path) -> None:
    _run_suite(tmp_path, "shop-0", LANDED_AT - timedelta(days=90))
    _run_suite(tmp_path, "shop-1")
    assert delete_old_results(Folder.of(tmp_path), LANDED_AT - timedelta(days=30)) == 1
    _run_suite(tmp_path, "shop-2")
    assert [_count_listed(tmp_path, f"shop-{number}") for number in range(3)] == [0, 1, 1]
    assert not list(tmp_path.glob("data_docs/validations/events/shop/shop-0/*/*.html"))


@pytest.mark.parametrize("rest", ["", "{"])
def test_partial_files_of_a_killed_process_do_not_fail_the_next_run(tmp_path: Path, rest: str) -> None:
    _run_suite(tmp_path, "shop-0")
    for path in (*tmp_path.glob("suites/**/*.json"), *tmp_path.glob("results/**/*.json")):
        path.write_text(rest, encoding="utf-8")
    _run_suite(tmp_path, "shop-1")
    _run_suite(tmp_path, "shop-0")
    assert [_count_listed(tmp_path, f"shop-{number}") for number in range(2)] == [1, 1]


def test_the_general_suites_are_well_formed() -> None:
    users = {"bad_share"}
    items = users | {f"null_rate_change_{name}" for name in ("title", "category_path", "brand", "price")}
    for kind, metrics in (("events", set(USUAL_METRICS)), ("items", items), ("users", users)):
        assert load_suite(kind, "any", metrics).expectations


def test_concurrent_validations_keep_each_others_results(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.integration.test_expectations import _run_suite\n"
        "for number in range(8): _run_suite(Path(sys.argv[1]), f'{sys.argv[2]}-{number}')"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], cwd=ROOT) for name in "ab"]
    assert [process.wait(120) for process in started] == [0, 0]
    for batch_id in (f"{name}-{number}" for name in "ab" for number in range(8)):
        assert _count_listed(tmp_path, batch_id) == 1
        assert len(list(tmp_path.glob(f"data_docs/validations/events/shop/{batch_id}/*/*.html"))) == 1
