"""A training in two processes: one run, the model of one process, and a restart when one of them is killed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from recsys_tasks.registry.tracking import client, experiment_id
from recsys_tasks.settings import settings
from recsys_tasks.steps import features, training
from recsys_tasks.warehouse import engine
from tests.conftest import clear_cached_settings, configured_shop
from tests.shops import fill


@pytest.fixture
def shop(postgres: str, tracking_template: str, tmp_path: Path) -> Iterator[None]:
    """A shop with a snapshot."""
    options = {"MIN_ITEM_EVENTS": 1, "TEST_SHARE": 0.2, "MAX_TRAINING_EPOCHS": 8, "TRAINING_THREADS": 1}
    with configured_shop(postgres, tracking_template, tmp_path, **options) as warehouse:
        fill(warehouse)
        features.build_features()
        yield
        engine().dispose()


@pytest.mark.usefixtures("shop")
def test_two_processes_train_one_model_and_restart_after_a_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = training.evaluate_run(training.train_model())["model"]
    monkeypatch.setenv("RECSYS_TRAINING_PROCESSES", "2")
    clear_cached_settings()
    killer = threading.Thread(target=_kill_a_process_after_the_first_epoch, daemon=True)
    killer.start()
    run_id = training.train_model(from_scratch=True)
    killer.join(timeout=1)
    assert not killer.is_alive(), "no process was killed"

    assert settings().checkpoints.names() == []
    finished = client().search_runs([experiment_id()], "attributes.status = 'FINISHED'")
    assert len(finished) == 2
    run = client().get_run(run_id)
    assert run.data.params["processes"] == "2"
    epochs = [metric.step for metric in client().get_metric_history(run_id, "epoch_loss")]
    assert epochs == sorted(set(epochs))
    assert epochs[0] > 1, "resumed from the checkpoint"
    together = training.evaluate_run(run_id)["model"]
    assert together["mrr_20"] == pytest.approx(alone["mrr_20"], abs=0.05)


def _kill_a_process_after_the_first_epoch() -> None:
    while not settings().checkpoints.names(".pt"):
        time.sleep(0.02)
    ranks = [process for process in psutil.process_iter() if _rank(process) == "1"]
    for process in ranks:
        process.kill()
    assert ranks


def _rank(process: psutil.Process) -> str | None:
    try:
        environment: dict[str, str] = process.environ()
    except psutil.Error:
        return None
    return environment.get("RANK")
