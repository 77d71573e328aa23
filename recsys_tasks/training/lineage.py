"""What a run was trained on: its own training sessions, and those of the versions that it started from."""

from __future__ import annotations

from datetime import UTC, datetime

from mlflow.entities import Run

from recsys_tasks.errors import InputError
from recsys_tasks.features.snapshot import open_snapshot
from recsys_tasks.registry import runs, versions
from recsys_tasks.storage.folder import Folder

SCRATCH = "scratch"


def trained_until(run_id: str, snapshots: Folder) -> datetime:
    """Returns the time from which on no session that starts is in the training of a run.

    A run is trained on sessions before the test part of its snapshot. A warm start has the weights of a version, and
    with them its training. Therefore the result is the latest `test_start` of the run and of all its ancestors. Where
    that is unknown, a later time stands for it: the snapshot's cut-off if the snapshot is gone, and if an ancestor is
    gone, the time at which its successor began to train.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    until: list[datetime] = []
    while True:
        run = runs.get_run(run_id)
        until.append(_test_start(run, snapshots))
        started_from = run.data.tags.get("started_from", SCRATCH)
        if started_from == SCRATCH:
            return max(until)
        try:
            run_id = versions.version_by_number(started_from).run_id
        except InputError:  # deleted from the registry
            return max(*until, datetime.fromtimestamp(run.info.start_time / 1_000, UTC))


def _test_start(run: Run, snapshots: Folder) -> datetime:
    try:
        return open_snapshot(snapshots, run.data.tags["snapshot_id"]).test_start
    except InputError:  # maintenance removed it
        return datetime.fromisoformat(run.data.tags.get("test_start", run.data.tags["cutoff"]))
