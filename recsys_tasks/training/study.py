"""A hyperparameter study on a snapshot: its run in MLflow, its trials, and the training of the best one."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from recsys_tasks.errors import InputError
from recsys_tasks.evaluation.gate import PRIMARY_METRIC
from recsys_tasks.evaluation.markdown import markdown_table
from recsys_tasks.features.snapshot import Snapshot, open_snapshot
from recsys_tasks.registry import studies
from recsys_tasks.storage.folder import Folder
from recsys_tasks.training.hyperparameters import Hyperparameters, format_hyperparameters
from recsys_tasks.training.run import TrainingOptions, train_run, tuning_task, use_threads
from recsys_tasks.training.search_space import with_parameters
from recsys_tasks.training.study_plots import draw_study
from recsys_tasks.training.tuning import (
    OnEpoch,
    best_trial,
    complete_trials,
    create_study,
    recipe_trial,
    require_time_for_trials,
    search,
    wait_for_trials,
)

log = logging.getLogger(__name__)
_SNAPSHOT, _UNTIL, _TRIAL_SECONDS, _RUN = "snapshot_id", "until", "trial_seconds", "run_id"  # attributes of a study
_SHOWN_TRIALS: Final = 10


def start_study(
    name: str, snapshot: Snapshot, seconds: float, trial_seconds: float, storage: BaseStorage
) -> optuna.Study:
    """Starts a study on a snapshot; opens it, with its snapshot and end, if it exists.

    Args:
        name: of the study.
        snapshot: training data.
        seconds: duration of the study.
        trial_seconds: time budget of each trial's training.
        storage: of the study.

    Raises:
        InputError: the study is too short for two trials.
    """
    require_time_for_trials(seconds, trial_seconds)
    study = create_study(name, storage)
    if _RUN not in study.user_attrs:
        tags = {"study": name, "snapshot_id": snapshot.snapshot_id}
        attributes = {
            _SNAPSHOT: snapshot.snapshot_id,
            _UNTIL: (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(),
            _TRIAL_SECONDS: trial_seconds,
            _RUN: studies.start_study_run(name, tags),
        }
        for key, value in attributes.items():
            study.set_user_attr(key, value)
    return study


def open_study(name: str, storage: BaseStorage) -> optuna.Study:
    """Opens a started study.

    Raises:
        InputError: there is none of that name.
    """
    names = optuna.get_all_study_names(storage)
    if name not in names:
        existing = f"Existing ones: {', '.join(sorted(names))}" if names else "There is none yet"
        raise InputError(f"No study {name}. {existing}. Start one with: python -m recsys_tasks tune --study {name}")
    return create_study(name, storage)


def run_trials(study: optuna.Study, snapshots: Folder, options: TrainingOptions, max_trials: int | None = None) -> None:
    """Runs trials until the end of a study; several processes may do so at the same time.

    Args:
        study: from `start_study` or `open_study`.
        snapshots: folder of snapshots.
        options: seed, threads and text encoder; the study has the time budget.
        max_trials: maximum number of trials of this process; None for as many as there is time for.

    Raises:
        ConfigurationError: `RECSYS_MODEL` is a plugin model.
        InputError: the snapshot was deleted.
        NotEnoughData: the snapshot has too few sessions to train on.
    """
    attributes = study.user_attrs
    use_threads(options)
    options = replace(options, seconds=attributes[_TRIAL_SECONDS])
    task = tuning_task(open_snapshot(snapshots, attributes[_SNAPSHOT]), options)

    def trial_run(number: int, parameters: Mapping[str, Any]) -> AbstractContextManager[OnEpoch]:
        return studies.trial_run(attributes[_RUN], number, parameters)

    search(study, task, datetime.fromisoformat(attributes[_UNTIL]), max_trials, trial_run)


def train_best(study: optuna.Study, snapshots: Folder, options: TrainingOptions) -> str | None:
    """Completes the run of a study, and trains its best hyperparameters from scratch as a new run.

    The training has the time budget of a trial.

    Returns:
        The new run's id; None if no trial was better than the recipe.

    Raises:
        NotEnoughData: no trial is complete.
    """
    wait_for_trials(study, datetime.fromisoformat(study.user_attrs[_UNTIL]))
    run_id, best = study.user_attrs[_RUN], best_trial(study)
    given = options.hyperparameters if best is None else with_parameters(options.hyperparameters, best.params)
    _log_result(study, given)
    if best is None:
        log.info("No trial of study %s was better than the recipe", study.study_name)
        return None
    snapshot = open_snapshot(snapshots, study.user_attrs[_SNAPSHOT])
    chosen = replace(options, hyperparameters=given, seconds=study.user_attrs[_TRIAL_SECONDS])
    return train_run(
        snapshot, snapshots, chosen, from_scratch=True, tags={"study": study.study_name, "tuned_in": run_id}
    )


def _log_result(study: optuna.Study, given: Hyperparameters) -> None:
    best, recipe = complete_trials(study)[0], recipe_trial(study)
    metrics = {f"best_{PRIMARY_METRIC}": best.value or 0.0}
    metrics |= {f"recipe_{PRIMARY_METRIC}": recipe.value or 0.0} if recipe is not None else {}
    metrics |= {f"trials_{state.name.lower()}": float(count) for state, count in _count_states(study).items()}
    with tempfile.TemporaryDirectory() as folder:
        draw_study(study, Path(folder))
        (Path(folder) / "study.md").write_text(_describe(study), encoding="utf-8")
        (Path(folder) / "recipe.toml").write_text(format_hyperparameters(given), encoding="utf-8")
        studies.end_study_run(study.user_attrs[_RUN], metrics, {"best_trial": str(best.number)}, Path(folder))


def _count_states(study: optuna.Study) -> dict[TrialState, int]:
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    return {state: states.count(state) for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)}


def _format_value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _describe(study: optuna.Study) -> str:
    """Returns the best trials as Markdown."""
    trials = complete_trials(study)[:_SHOWN_TRIALS]
    names = sorted({name for trial in trials for name in trial.params})
    rows = [
        [str(trial.number), f"{trial.value:.4f}", *(_format_value(trial.params.get(name, "")) for name in names)]
        for trial in trials
    ]
    counts = ", ".join(f"{count} {state.name.lower()}" for state, count in _count_states(study).items())
    lines = [
        f"# Study {study.study_name}",
        "",
        f"Trials: {counts}. Each had {study.user_attrs[_TRIAL_SECONDS]:g} s. The best, by {PRIMARY_METRIC} in"
        " validation; trial 0 has the recipe's hyperparameters.",
        "",
        *markdown_table(["trial", PRIMARY_METRIC, *names], rows),
    ]
    return "\n".join(lines) + "\n"
