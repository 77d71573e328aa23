"""Training, evaluation and registration of a model, with the settings of this process."""

from __future__ import annotations

from datetime import UTC, datetime

from optuna.storages import BaseStorage

from recsys_tasks.evaluation.gate import MetricsTable
from recsys_tasks.features.snapshot import find_snapshot, latest_snapshot_id, open_snapshot
from recsys_tasks.features.text_encoder import TextEncoder, load_text_encoder
from recsys_tasks.model import distributed
from recsys_tasks.names import TRANSFORMER
from recsys_tasks.registry import runs
from recsys_tasks.settings import settings
from recsys_tasks.training import evaluation, study
from recsys_tasks.training.hyperparameters import load_recipe
from recsys_tasks.training.processes import train_in_processes
from recsys_tasks.training.run import TrainingOptions, reproduce_run, train_run
from recsys_tasks.training.tuning import study_storage
from recsys_tasks.warehouse import engine


def train_model(snapshot_id: str | None = None, from_scratch: bool = False, content_only: bool = False) -> str:
    """Trains on a snapshot, by default the latest; returns the id of the MLflow run.

    Args:
        from_scratch: whether to ignore the champion's weights.
        content_only: whether to train nothing, so that items are placed by their content and popularity. The version is
            not evaluated, and cannot replace a trained champion.
    """
    chosen = settings()
    snapshot_id = snapshot_id or latest_snapshot_id(engine())
    is_one = chosen.training_processes == 1 or chosen.model != TRANSFORMER or content_only
    if not is_one and not distributed.is_started_by_torchrun():
        return train_in_processes(chosen.training_processes, snapshot_id, from_scratch)
    snapshot = open_snapshot(chosen.snapshots, distributed.broadcast_text(snapshot_id))
    return train_run(snapshot, chosen.snapshots, _options(), from_scratch, content_only=content_only)


def start_study(
    name: str | None = None,
    snapshot_id: str | None = None,
    minutes: float | None = None,
    trial_minutes: float | None = None,
) -> str:
    """Starts a study of hyperparameters, or opens the one of that name; returns its name.

    Args:
        name: default: the snapshot and the time.
        snapshot_id: default: the latest.
        minutes: duration of the study; default: `RECSYS_TUNING_MINUTES`.
        trial_minutes: time budget of each training; default: that of a training from scratch.
    """
    chosen = settings()
    snapshot = find_snapshot(engine(), chosen.snapshots, snapshot_id)
    name = name or f"{snapshot.snapshot_id}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    trial_seconds = chosen.training_seconds if trial_minutes is None else 60 * trial_minutes
    study.start_study(name, snapshot, 60 * (minutes or chosen.tuning_minutes), trial_seconds, _study_storage())
    return name


def run_trials(name: str, max_trials: int | None = None) -> None:
    """Runs trials of a study until its end; several processes may do so at the same time."""
    study.run_trials(study.open_study(name, _study_storage()), settings().snapshots, _options(), max_trials)


def train_best(name: str) -> str | None:
    """Trains a study's best hyperparameters; returns the id of the MLflow run, None if the recipe was best."""
    return study.train_best(study.open_study(name, _study_storage()), settings().snapshots, _options())


def reproduce(run_id: str) -> tuple[str, dict[str, tuple[float, float]]]:
    """Retrains a run; returns the new run's id, and for each metric its old and its new value."""
    chosen = settings()
    return reproduce_run(run_id, chosen.snapshots, chosen.checkpoints, _text_encoder(), chosen.text_vectors)


def _options() -> TrainingOptions:
    chosen = settings()
    return TrainingOptions(
        seconds=chosen.training_seconds,
        warm_start_seconds=chosen.warm_start_seconds,
        max_epochs=chosen.max_training_epochs,
        threads=chosen.training_threads,
        seed=chosen.seed,
        checkpoints=chosen.checkpoints,
        encoder=_text_encoder(),
        text_cache=chosen.text_vectors,
        hyperparameters=load_recipe(chosen.recipe),
        model=chosen.model,
        second_stage=chosen.second_stage == "auto",
    )


def _study_storage() -> BaseStorage:
    return study_storage(engine().url.render_as_string(hide_password=False))


def _text_encoder() -> TextEncoder | None:
    return load_text_encoder(settings().text_encoder, settings().text_encoders)


def evaluate_run(run_id: str) -> MetricsTable:
    """Evaluates a run on the test part of its snapshot and logs the result; returns the metrics by model."""
    return evaluation.evaluate_run(run_id, settings().snapshots)


def register_run(run_id: str) -> str:
    """Registers a run's model as a version and makes it the challenger; returns the version's number."""
    return runs.register(run_id).number
