"""Tasks on two machines that share PostgreSQL, MLflow and an S3 bucket, but no disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recsys_tasks.registry import runs
from recsys_tasks.settings import settings
from recsys_tasks.steps import erasure, features, maintenance, promotion, training
from recsys_tasks.warehouse import engine
from tests.conftest import clear_cached_settings, configured_shop
from tests.shops import LENIENT_GATE_RULES, fill

Move = Callable[[str], Path]


@pytest.fixture
def move_to(
    postgres: str, tracking_template: str, tmp_path: Path, bucket: object, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Move]:
    """Continues on the machine of a name, in an empty home folder if it is new; returns the folder."""
    rules = tmp_path / "gate.toml"
    rules.write_text(LENIENT_GATE_RULES)

    def move(machine: str) -> Path:
        home = tmp_path / machine
        home.mkdir(exist_ok=True)
        monkeypatch.setenv("RECSYS_HOME", str(home))
        engine().dispose()
        clear_cached_settings()
        return home

    options = {
        "STORE": "s3://shop/recsys",
        "MIN_ITEM_EVENTS": 1,
        "TEST_SHARE": 0.2,
        "MAX_TRAINING_EPOCHS": 3,
        "GATE_RULES": rules,
        "ENDPOINT_URLS": "[]",
        "ADMIN_TOKEN": "t",
    }
    with configured_shop(postgres, tracking_template, tmp_path, **options) as warehouse:
        fill(warehouse)
        yield move
        engine().dispose()


def test_each_step_may_run_on_another_machine(move_to: Move) -> None:
    move_to("one")
    snapshot = features.build_features()

    two = move_to("two")
    assert features.build_features() == snapshot
    run_id = training.train_model()
    assert settings().checkpoints.names() == []

    move_to("one")
    assert training.evaluate_run(run_id)["model"]["recall_20"] > 0
    number, folder = promotion.build(training.register_run(run_id))

    move_to("two")
    fetched = promotion.find_bundle(number, folder.name)
    assert fetched.is_relative_to(two)
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    assert promotion.judge(number, fetched).promote

    shutil.rmtree(two)  # the machine is replaced
    move_to("three")
    assert promotion.find_bundle(number, folder.name).name == folder.name
    assert maintenance.maintain().snapshots == 0
    assert erasure.erase_users(["u1"]).files > 0
    assert "u:u1" not in features.snapshot().events_table()["user_key"].to_pylist()


def test_an_interrupted_training_resumes_on_another_machine(
    move_to: Move, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    move_to("one")
    features.build_features()
    with monkeypatch.context() as interrupted:
        interrupted.setattr(runs, "log_epoch", _interrupt_after_the_first)
        with pytest.raises(KeyboardInterrupt):
            training.train_model()
    assert settings().checkpoints.names(".pt") != []

    move_to("two")
    with caplog.at_level("INFO"):
        training.train_model()
    assert "Resuming an interrupted training after epoch 1" in caplog.text
    assert settings().checkpoints.names() == []


def _interrupt_after_the_first(run_id: str, epoch: int, metrics: dict[str, float]) -> None:
    if epoch > 1:
        raise KeyboardInterrupt
