"""A training in several processes of this machine, which PyTorch's `torchrun` starts and restarts."""

from __future__ import annotations

import json
import subprocess
import sys

from recsys_tasks.errors import RecsysError

_MAX_RESTARTS = 3


class TrainingProcessesFailed(RecsysError):
    """The processes of a training failed more often than they are restarted; their log lines say why."""


def train_in_processes(number: int, snapshot_id: str, from_scratch: bool) -> str:
    """Trains on a snapshot in processes that share every batch; returns the id of the MLflow run.

    If a process ends, all of them start again from the checkpoint of the last complete epoch.

    Raises:
        TrainingProcessesFailed: they ended too often.
    """
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={number}", f"--max-restarts={_MAX_RESTARTS}", "-m", "recsys_tasks", "train"]
    command += ["--train-only", "--json", "--snapshot", snapshot_id]
    command += ["--from-scratch"] * from_scratch
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise TrainingProcessesFailed(f"A training in {number} processes failed with status {done.returncode}")
    run_id: str = json.loads(done.stdout.splitlines()[-1])["run_id"]
    return run_id
