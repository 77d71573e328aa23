"""What a training in several processes tells the process that started them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recsys_tasks.errors import ConfigurationError, NotEnoughData
from recsys_tasks.settings import settings
from recsys_tasks.training import processes
from recsys_tasks.training.processes import TrainingProcessesFailed, train_in_processes, write_outcome


def _fail() -> str:
    raise NotEnoughData("there is no event")


def test_the_id_of_the_run_is_handed_over(tmp_path: Path) -> None:
    write_outcome(tmp_path / "outcome", lambda: "run7")
    assert json.loads((tmp_path / "outcome").read_text()) == {"run_id": "run7"}


def test_an_error_of_the_training_is_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str]) -> None:
        write_outcome(Path(command[command.index("--train-only") + 1]), _fail)

    monkeypatch.setattr(processes, "_run", run)
    with pytest.raises(NotEnoughData, match="there is no event"):
        train_in_processes(2, "snapshot", from_scratch=False)


def test_processes_that_end_without_a_result_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_run", lambda command: None)
    with pytest.raises(TrainingProcessesFailed, match="2 processes"):
        train_in_processes(2, "snapshot", from_scratch=False)


def test_fewer_gpus_than_processes_are_an_error_unless_the_cpu_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr(processes, "_run", lambda command: None)
    with pytest.raises(ConfigurationError, match="has 1 GPU"):
        train_in_processes(2, "snapshot", from_scratch=False)
    monkeypatch.setenv("RECSYS_TRAINING_DEVICE", "cpu")
    settings.cache_clear()
    try:
        with pytest.raises(TrainingProcessesFailed):  # they were started
            train_in_processes(2, "snapshot", from_scratch=False)
    finally:
        monkeypatch.undo()
        settings.cache_clear()
