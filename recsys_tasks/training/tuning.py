"""Tuning: an Optuna study, each trial a training of the same length with other hyperparameters.

The first trial has the recipe's hyperparameters. Several processes can work on a study at once. If a process is killed,
another one repeats its trial once.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import optuna
import torch
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from recsys_tasks.errors import InputError, InvariantError, NotEnoughData, OutOfMemory
from recsys_tasks.model.distributed import training_device
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import NetworkConfig
from recsys_tasks.model.training_loop import TrainingConfig, TrainingData, train
from recsys_tasks.training.hyperparameters import Hyperparameters
from recsys_tasks.training.search_space import Parameters, recipe_parameters, search_space, suggest, with_parameters

log = logging.getLogger(__name__)
OnEpoch = Callable[[int, dict[str, float]], None]
TrialRun = Callable[[int, Parameters], AbstractContextManager[OnEpoch]]

_HEARTBEAT_SECONDS, _GRACE_SECONDS = 30, 180  # a process without a heartbeat for the latter counts as killed
_CHECKS = 10  # a trial can be pruned at each tenth of its time
_UNPRUNED_TRIALS, _UNPRUNED_CHECKS = 4, 3  # neither the first trials nor the first tenths
_MIN_TRIALS = 2  # the recipe's and another one
_TRIAL_ERRORS = (OutOfMemory, MemoryError, torch.OutOfMemoryError, InvariantError)
_POLL_SECONDS = 5.0
_RECIPE = "recipe"  # attribute of the trial with the recipe's hyperparameters


@dataclass(frozen=True)
class TuningTask:
    """Training data, recipe and validation of a study's trials.

    Attributes:
        data: training events, without those of the validation part in the decay phase.
        network, schedule: the recipe's configurations for the time of a trial.
        given: hyperparameters that a person has set, which no trial varies.
        build: an untrained network of a configuration.
        validate: the metric that a study maximizes.
    """

    data: TrainingData
    network: NetworkConfig
    schedule: TrainingConfig
    given: Hyperparameters
    build: Callable[[NetworkConfig], Recommender]
    validate: Callable[[Recommender], float]


def without_validation_events(data: TrainingData) -> TrainingData:
    """Returns training data whose validation events stay out of the decay phase, so that they can judge its result."""
    return data._replace(final_stops=data.stops, final_neighbors=data.neighbors)


def study_storage(url: str) -> BaseStorage:
    """Returns the storage of studies in the schema `tuning` of a PostgreSQL database."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats: the interface is experimental
        return RDBStorage(
            url,
            engine_kwargs={"connect_args": {"options": "-c search_path=tuning"}, "pool_pre_ping": True},
            heartbeat_interval=_HEARTBEAT_SECONDS,
            grace_period=_GRACE_SECONDS,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=1),
        )


def create_study(name: str, storage: BaseStorage | None = None) -> optuna.Study:
    """Creates a study, or opens it if it exists; in memory without a storage."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = MedianPruner(n_startup_trials=_UNPRUNED_TRIALS, n_warmup_steps=_UNPRUNED_CHECKS)
    return optuna.create_study(
        storage=storage, study_name=name, direction="maximize", pruner=pruner, load_if_exists=True
    )


def require_time_for_trials(seconds: float, trial_seconds: float) -> None:
    """Raises an error if the time is too short to compare the recipe with anything.

    Raises:
        InputError: the time is too short; says what it has to be. Or a trial has no time.
    """
    if trial_seconds <= 0:
        raise InputError(f"A trial of {trial_seconds:g} seconds trains nothing; give it more than 0")
    if seconds < _MIN_TRIALS * trial_seconds:
        raise InputError(
            f"A study of {seconds / 60:g} minutes has no time for {_MIN_TRIALS} trainings of {trial_seconds:g} seconds;"
            f" give it at least {_MIN_TRIALS * trial_seconds / 60:g} minutes, or shorten the trials"
        )


def search(
    study: optuna.Study,
    task: TuningTask,
    until: datetime,
    max_trials: int | None = None,
    trial_run: TrialRun = lambda number, parameters: nullcontext(lambda epoch, figures: None),
) -> None:
    """Runs trials of a study; starts none that could not finish in time.

    A trial without enough memory, or whose loss is not finite, fails; the study goes on.

    Args:
        study: from `create_study`; other processes may work on it at the same time.
        task: what to train.
        until: end of the last trial, approximately.
        max_trials: maximum number of trials of this process; None for as many as there is time for.
        trial_run: context of each trial, by its number and parameters; yields what to call after each epoch. If the
            trial is pruned, `optuna.TrialPruned` propagates through it.
    """
    space = search_space(task.network, task.schedule, task.given)
    if not study.get_trials(deepcopy=False):
        recipe = recipe_parameters(task.network, task.schedule)
        study.enqueue_trial({name: recipe[name] for name in space}, user_attrs={_RECIPE: True})

    def objective(trial: optuna.Trial) -> float:
        # Drawn by the trial's number, so that processes that start together do not draw the same.
        study.sampler = TPESampler(seed=task.schedule.seed + trial.number, constant_liar=True)
        parameters = suggest(trial, space)
        with trial_run(trial.number, parameters) as on_epoch:
            return _train(task, trial, with_parameters(task.given, parameters), on_epoch)

    def log_trial(_: optuna.Study, trial: FrozenTrial) -> None:
        result = f"{trial.value:.4f}" if trial.value is not None else "no result"
        log.info("Trial %d of study %s: %s, %s", trial.number, study.study_name, trial.state.name.lower(), result)

    timeout = (until - datetime.now(UTC)).total_seconds() - task.schedule.seconds
    if timeout > 0:
        study.optimize(objective, max_trials, timeout, catch=_TRIAL_ERRORS, callbacks=[log_trial])


def wait_for_trials(study: optuna.Study, until: datetime) -> None:
    """Waits for running trials of other processes, at most until a time and the grace period after it."""
    latest = until + timedelta(seconds=_GRACE_SECONDS)
    while study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) and datetime.now(UTC) < latest:
        time.sleep(_POLL_SECONDS)


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """Returns the best trial; None if none is better than the one with the recipe's hyperparameters.

    Raises:
        NotEnoughData: no trial is complete.
    """
    complete = complete_trials(study)
    if not complete:
        raise NotEnoughData(f"No trial of study {study.study_name} is complete; give it more time, or shorter trials")
    return None if complete[0].user_attrs.get(_RECIPE) else complete[0]


def recipe_trial(study: optuna.Study) -> FrozenTrial | None:
    """Returns the complete trial with the recipe's hyperparameters, if there is one."""
    return next((trial for trial in complete_trials(study) if trial.user_attrs.get(_RECIPE)), None)


def complete_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the trials that were neither pruned nor failed, best first."""
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    return sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number))


def _train(task: TuningTask, trial: optuna.Trial, given: Hyperparameters, on_epoch: OnEpoch) -> float:
    """Trains a network with hyperparameters; returns its validation metric after the decay phase."""
    config, schedule = given.apply_to_network(task.network), given.apply_to_training(task.schedule)
    network = task.build(config).to(training_device())
    started, checked = time.monotonic(), 0

    def validate(trained: Recommender) -> float:
        nonlocal checked
        metric = task.validate(trained)
        tenths = min(int(_CHECKS * (time.monotonic() - started) / schedule.seconds), _CHECKS)
        for step in range(checked + 1, tenths + 1):  # every tenth, as trials are compared at equal ones
            trial.report(metric, step)
        checked = max(checked, tenths)
        if trial.should_prune():
            raise optuna.TrialPruned
        return metric

    train(network, task.data, schedule, validate, on_epoch)
    return task.validate(network)
