"""A training in several processes of this machine, which PyTorch's `torchrun` starts, and restarts if one dies."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from recsys_tasks import errors
from recsys_tasks.errors import ConfigurationError, RecsysError
from recsys_tasks.model.distributed import process_group, training_device

log = logging.getLogger(__name__)
_MAX_RESTARTS = 3
_STOP_SECONDS = 60  # torchrun gives its processes half of it


class TrainingProcessesFailed(RecsysError):
    """The processes of a training still failed after three restarts; their log lines say why."""


def train_in_processes(number: int, snapshot_id: str, from_scratch: bool) -> str:
    """Trains on a snapshot in processes that share every batch; returns the id of the MLflow run.

    If a process dies, all of them start again from the checkpoint of the last complete epoch.

    Raises:
        ConfigurationError: the training is to run on GPUs, but there are fewer than processes.
        RecsysError: what the training raised.
        TrainingProcessesFailed: they died too often.
    """
    if training_device().type == "cuda" and torch.cuda.device_count() < number:
        raise ConfigurationError(
            f"RECSYS_TRAINING_PROCESSES={number}, but this machine has {torch.cuda.device_count()} GPUs; "
            "lower it, or set RECSYS_TRAINING_DEVICE=cpu"
        )
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--max-restarts=0"]
    command += [f"--nproc-per-node={number}", "-m", "recsys_tasks", "train", "--snapshot", snapshot_id]
    command += ["--from-scratch"] * from_scratch
    for _ in range(1 + _MAX_RESTARTS):
        with tempfile.TemporaryDirectory(prefix="recsys-") as folder:
            outcome = Path(folder) / "outcome.json"
            _run([*command, "--train-only", str(outcome)])
            found: dict[str, str] = json.loads(outcome.read_bytes()) if outcome.exists() else {}
        if "error" in found:
            raise _error(found["error"], found["message"])
        if "run_id" in found:
            return found["run_id"]
        log.warning("A process of the training died")
    raise TrainingProcessesFailed(f"A training in {number} processes failed; see the log lines before this one")


def _error(name: str, message: str) -> RecsysError:
    kind = getattr(errors, name, RecsysError)
    try:
        error: RecsysError = kind(message)
    except TypeError:  # takes other arguments
        error = RecsysError(f"{name}: {message}")
    return error


def _run(command: list[str]) -> None:
    with subprocess.Popen(command) as process:  # noqa: S603
        try:
            process.wait()
        except BaseException:
            process.terminate()  # torchrun then ends its processes, which SIGKILL would leave running
            process.wait(_STOP_SECONDS)
            raise


def write_outcome(file: Path, train: Callable[[], str]) -> None:
    """Trains as one of the processes of `train_in_processes`; writes the run's id, or the error, for their parent.

    With an error, the other processes end, too, since they wait for this one; a restart would not help.
    """
    outcome: dict[str, Any] | None = None
    try:
        with process_group() as is_first:
            run_id = train()
            outcome = {"run_id": run_id} if is_first else None
    except RecsysError as error:
        outcome = {"error": type(error).__name__, "message": str(error)}
    if outcome is not None:
        new = file.with_name(f"{os.getpid()}.json")  # several processes may have an error
        new.write_text(json.dumps(outcome), encoding="utf-8")
        new.replace(file)
