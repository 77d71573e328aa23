"""Resumption of `make run`: which DAG follows where an earlier start stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console
from sqlalchemy import Engine, text

from recsys_tasks.stack import loop
from recsys_tasks.stack.airflow_api import DagRun
from recsys_tasks.stack.loop import LoopRunner
from recsys_tasks.steps import features
from recsys_tasks.warehouse import engine
from tests.conftest import clear_cached_settings
from tests.shops import add_batch, event

REPLAY_FROM = datetime.fromisoformat("2017-12-25T00:00:00+00:00")


class Triggered(Exception):
    """Raised with the name of the DAG that is triggered."""


class IdleAirflow:
    """An Airflow without any run."""

    def list_runs(self) -> Sequence[DagRun]:
        return []

    def trigger(self, dag_id: str) -> None:
        raise Triggered(dag_id)


class Processes:
    """Services that run."""

    def check(self) -> None:
        return


@pytest.fixture
def runner(warehouse: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopRunner]:
    monkeypatch.setattr(loop, "_MAX_IDLE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "_POLL_INTERVAL_SECONDS", 0.0)
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path))
    monkeypatch.setenv("RECSYS_WAREHOUSE_URL", warehouse.url.render_as_string(hide_password=False))
    clear_cached_settings()
    airflow, processes, starter = (cast("Any", found) for found in (IdleAirflow(), Processes(), None))
    yield LoopRunner(airflow, processes, starter, Console(quiet=True), warehouse, REPLAY_FROM)
    engine().dispose()
    monkeypatch.undo()
    clear_cached_settings()


def _following(runner: LoopRunner, first_dag: str = "ingest_events") -> str:
    with pytest.raises(Triggered) as found:
        runner.run_until("pass", first_dag, lambda: False)
    return str(found.value)


def _add_purchase(warehouse: Engine, at: datetime, source: str = "t") -> None:
    number = add_batch(warehouse, [event("u", f"s{at:%y%m%d}", "i1", at)])
    with warehouse.begin() as connection:
        connection.execute(text("update batches set inserted_rows = 1"))
        changed = {"number": number, "source": source}
        connection.execute(text("update batches set source = :source where number = :number"), changed)


def test_the_first_pass_needs_more_than_the_week_of_the_first_lists(runner: LoopRunner, warehouse: Engine) -> None:
    _add_purchase(warehouse, REPLAY_FROM - timedelta(days=3))
    features.build_features()
    assert _following(runner) == "ingest_events"
    _add_purchase(warehouse, REPLAY_FROM - timedelta(days=30))
    assert _following(runner) == "build_features"
    features.build_features()
    assert _following(runner) == "train_model"


def test_people_in_the_storefront_are_no_simulated_shoppers(runner: LoopRunner, warehouse: Engine) -> None:
    _add_purchase(warehouse, REPLAY_FROM - timedelta(days=30))
    _add_purchase(warehouse, datetime.now(UTC), "feedback")
    features.build_features()
    assert _following(runner, "collect_feedback") == "collect_feedback"
    _add_purchase(warehouse, REPLAY_FROM + timedelta(hours=9), "feedback")
    assert _following(runner, "collect_feedback") == "build_features"
    features.build_features()
    assert _following(runner, "collect_feedback") == "train_model"
