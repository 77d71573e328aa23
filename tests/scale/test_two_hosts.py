"""The loop on two Celery workers that share PostgreSQL, Redis and a bucket, but no folder; one of them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import sqlalchemy
from sqlalchemy import text

from recsys_tasks.stack.processes import stop_stack_processes
from recsys_tasks.storage.folder import Folder
from recsys_tasks.warehouse import embedded
from tests.integration.s3 import KEYS, running_s3_server
from tests.shops import LENIENT_GATE_RULES

_SAMPLE = {
    "RECSYS_STORE": "s3://shop/recsys",
    "RECSYS_SAMPLE_USERS": "100",
    "RECSYS_MIN_ITEM_EVENTS": "5",
    "RECSYS_TRAINING_SECONDS": "15",
    "RECSYS_WARM_START_SECONDS": "5",
    "RECSYS_SIMULATION_START": "2017-12-11T00:00:00+00:00",  # one weekly run of ingestion before it
    "RECSYS_TEXT_ENCODER": "none",
    "RECSYS_FEEDBACK_SCHEDULE": "0 0 1 1 *",
    "RECSYS_LANDING_SCHEDULE": "0 0 1 1 *",
    "RECSYS_RECONCILE_SCHEDULE": "0 0 1 1 *",
}
_TASK_STARTS_WITHIN = 900


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Home folder of a stack; the environment is that of the stack."""
    folder = tmp_path / "home"
    folder.mkdir()
    (tmp_path / "s3").mkdir()
    rules = tmp_path / "gate.toml"
    rules.write_text(LENIENT_GATE_RULES)  # how well the model is trained depends on the machine
    with running_s3_server(tmp_path / "s3") as address:
        for name, value in {**_SAMPLE, **KEYS, "AWS_ENDPOINT_URL": address, "RECSYS_HOME": str(folder)}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("RECSYS_GATE_RULES", str(rules))
        yield folder
        stop_stack_processes(folder)


def _kill_the_worker_that_trains(home: Path, stack: subprocess.Popen[str]) -> Path:
    """Kills the worker that runs the first training after an epoch, with everything it started; returns its home."""
    deadline, checkpoints = time.monotonic() + _TASK_STARTS_WITHIN, Folder.of(_SAMPLE["RECSYS_STORE"]) / "checkpoints"
    while not checkpoints.names(".pt"):
        assert stack.poll() is None, "the stack ended before the training"
        assert time.monotonic() < deadline, "no training started"
        time.sleep(0.5)
    (logs,) = home.glob("worker-*/airflow/logs/dag_id=train_model")
    worker = logs.parents[2]
    for process in psutil.process_iter():
        try:
            if process.environ().get("RECSYS_HOME") == str(worker):
                for part in [process, *process.children(recursive=True)]:
                    part.kill()
        except psutil.Error:
            continue
    return worker


def test_the_loop_closes_on_two_hosts_though_one_is_killed(home: Path) -> None:
    stack = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "recsys_tasks.stack", "--once", "--workers", "2"],
        env={**os.environ, "COLUMNS": "200"},
        cwd=Path(__file__).parents[2],
        stdout=(home / "output").open("w"),
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        killed = _kill_the_worker_that_trains(home, stack)
        stack.wait(timeout=1_500)
    finally:
        stack.send_signal(signal.SIGTERM)
        stack.wait(timeout=60)
    output = (home / "output").read_text(encoding="utf-8")
    assert stack.returncode == 0, output + (home / "stack.log").read_text(encoding="utf-8")[-3_000:]

    server = embedded.start(home)
    engine = sqlalchemy.create_engine(embedded.url(server, "warehouse"))
    with engine.connect() as connection:
        counts = connection.execute(text("select count(*), count(distinct event_id) from events")).one()
        promoted = connection.scalar(text("select count(*) from promotions"))
        locations = connection.scalars(text("select location from snapshots")).all()
    engine.dispose()
    server.cleanup()
    assert counts[0] == counts[1] > 0
    assert promoted == 3  # the first lists, the first training, and the one with feedback
    assert all(location.startswith("s3://shop/recsys/snapshots/") for location in locations)

    survivor = next(folder for folder in home.glob("worker-*") if folder != killed)
    assert (survivor / "airflow/logs/dag_id=train_model").is_dir()
    assert not [path for path in home.glob("**/*.parquet")], "files are in the store, on no host"
    store = Folder.of(_SAMPLE["RECSYS_STORE"])
    assert store.exists("report.html")
    assert store.names("index.html", recursive=True) == ["great_expectations/data_docs/index.html"]
    assert (store / "checkpoints").names() == []
    assert (store / "feedback").names() == []
