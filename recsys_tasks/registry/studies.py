"""Studies in MLflow: a run of a study, with a nested run of each trial, in an experiment of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import RunStatus
from optuna import TrialPruned

from recsys_tasks.registry.runs import log_epoch
from recsys_tasks.registry.tracking import TUNING, client, experiment_id


def start_study_run(name: str, tags: Mapping[str, str]) -> str:
    """Creates the run of a study; returns its id.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    run = client().create_run(experiment_id(TUNING), run_name=name, tags=dict(tags))
    return str(run.info.run_id)


@contextmanager
def trial_run(
    study_run_id: str, number: int, parameters: Mapping[str, Any]
) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Opens the nested run of a trial for the context; yields a function that logs the metrics of an epoch.

    A pruned trial's run has the tag `state` and ends as killed; that of a failed one ends as failed.
    """
    client()
    with mlflow.start_run(
        experiment_id=experiment_id(TUNING), run_name=f"trial {number}", nested=True, parent_run_id=study_run_id
    ) as run:
        run_id = run.info.run_id
        mlflow.log_params(dict(parameters))
        try:
            yield lambda epoch, metrics: log_epoch(run_id, epoch, metrics)
        except TrialPruned:
            mlflow.set_tag("state", "pruned")
            mlflow.end_run(RunStatus.to_string(RunStatus.KILLED))
            raise


def end_study_run(run_id: str, metrics: Mapping[str, float], tags: Mapping[str, str], folder: Path) -> None:
    """Completes the run of a study with metrics, tags and the files of a folder."""
    mlflow_client = client()
    for metric, value in metrics.items():
        mlflow_client.log_metric(run_id, metric, value)
    for tag, content in tags.items():
        mlflow_client.set_tag(run_id, tag, content)
    mlflow_client.log_artifacts(run_id, str(folder))
    mlflow_client.set_terminated(run_id)
