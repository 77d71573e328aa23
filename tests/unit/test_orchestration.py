import json
import runpy
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from recsys_tasks import orchestration as loop
from recsys_tasks.settings import settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEEKS = [loop.FIRST_INTERVAL + n * timedelta(days=7) for n in range(4)]


@pytest.fixture(params=[None, "2017-12-25T00:00:00+00:00"])
def _replayed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.cache_clear()
    if request.param:
        monkeypatch.setenv("RECSYS_SIMULATION_START", request.param)
    else:
        monkeypatch.delenv("RECSYS_SIMULATION_START", raising=False)


@pytest.mark.usefixtures("_replayed")
def test_a_backfill_emits_its_asset_event_once_after_its_last_week() -> None:
    starts = [start for start in WEEKS if start <= loop.ingestion_end() - loop.WEEK]
    latest = [loop.is_latest(start + loop.WEEK, NOW) for start in starts]
    assert latest == [False] * (len(starts) - 1) + [True]
    settings.cache_clear()


def test_a_live_week_emits_its_asset_event_at_once() -> None:
    assert loop.is_latest(WEEKS[1], WEEKS[1] + timedelta(hours=1))


def test_the_first_interval_includes_the_preceding_year() -> None:
    first = loop.interval_to_ingest(WEEKS[0], WEEKS[1])
    second = loop.interval_to_ingest(WEEKS[1], WEEKS[2])
    assert (first.start, first.end) == (loop.YEAR_START, second.start)
    assert second.end == WEEKS[2]


def test_a_deadline_is_set_if_an_alert_url_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    settings.cache_clear()
    assert loop.create_deadline("a_dag", timedelta(hours=1)) is None
    monkeypatch.setenv("RECSYS_ALERT_URL", "http://127.0.0.1:9/hook")
    settings.cache_clear()
    assert loop.create_deadline("a_dag", timedelta(hours=1)) is not None
    settings.cache_clear()


def test_an_alert_names_the_task_and_reaches_the_webhook(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[dict[str, object]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    task = SimpleNamespace(dag_id="d", task_id="t", map_index=-1, log_url="http://airflow/log")
    context = {"ti": task, "dag_run": SimpleNamespace(run_id="r"), "exception": ValueError("no")}
    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("RECSYS_ALERT_URL", f"http://127.0.0.1:{server.server_port}/hook")
        settings.cache_clear()
        loop.on_failure(context)
    settings.cache_clear()
    (alert,) = received
    assert (alert["kind"], alert["dag_id"], alert["task_id"], alert["error"]) == (
        "task_failed",
        "d",
        "t",
        "ValueError: no",
    )


def test_an_undeliverable_alert_raises_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_ALERT_URL", "http://127.0.0.1:9/hook")
    settings.cache_clear()
    loop.on_failure({"reason": "task_failure", "dag": SimpleNamespace(dag_id="d"), "run_id": "r"})
    settings.cache_clear()


def _promotion(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Any:
    """Loads the DAG with environment variables."""
    for name, value in variables.items():
        monkeypatch.setenv(f"RECSYS_{name}", value)
    settings.cache_clear()
    path = Path(__file__).parents[2] / "dags" / "promote_model.py"
    found = runpy.run_path(str(path))["promote_model"]()
    monkeypatch.undo()
    settings.cache_clear()
    return found


def test_without_approval_and_rollout_activation_follows_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    promotion = _promotion(monkeypatch)
    assert promotion.get_task("check_gate").downstream_task_ids == {"activate"}


def test_approval_comes_between_the_gate_and_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    promotion = _promotion(monkeypatch, APPROVAL="person")
    asked = promotion.get_task("approve")
    assert promotion.get_task("check_gate").downstream_task_ids >= {"approve"}
    assert asked.downstream_task_ids == {"record_approval"}
    assert promotion.get_task("record_approval").downstream_task_ids == {"activate"}
    assert asked.defaults == ["Reject"]
    assert asked.response_timeout == timedelta(hours=24)


def test_a_rollout_comes_between_approval_and_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    promotion = _promotion(monkeypatch, APPROVAL="person", CANARY_SHARE="0.1")
    assert promotion.get_task("record_approval").downstream_task_ids == {"start_rollout"}
    assert promotion.get_task("await_rollout").downstream_task_ids == {"activate"}
    assert promotion.get_task("await_rollout").mode == "reschedule"  # frees the worker while it waits


@pytest.mark.parametrize(
    ("chosen", "user", "expected"),
    [
        ("Approve", {"id": "7", "name": "somebody"}, (True, "somebody (7)")),
        ("Reject", {"id": "7", "name": "somebody"}, (False, "somebody (7)")),
        ("Reject", None, (False, "nobody within 24 hours")),
    ],
)
def test_an_approval_names_the_approver(chosen: str, user: dict[str, str] | None, expected: tuple[bool, str]) -> None:
    assert loop.read_approval({"chosen_options": [chosen], "responded_by_user": user}) == expected
