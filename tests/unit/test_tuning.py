"""Studies of hyperparameters: the first trial, pruning, failures and the best trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import optuna
import pytest
from optuna.trial import TrialState

from recsys_tasks.errors import InputError, NotEnoughData, OutOfMemory
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import NetworkConfig
from recsys_tasks.model.training_loop import TrainingConfig, build_network
from recsys_tasks.training.hyperparameters import (
    Hyperparameters,
    NetworkHyperparameters,
    TrainingHyperparameters,
)
from recsys_tasks.training.search_space import Parameters
from recsys_tasks.training.tuning import (
    OnEpoch,
    TuningTask,
    best_trial,
    complete_trials,
    create_study,
    recipe_trial,
    require_time_for_trials,
    search,
    without_validation_events,
)
from tests.shops import encoded_shop, small_config, training_data

SECONDS = 0.2  # of a trial
# All but the dropout is set, so that trials are fast.
GIVEN = Hyperparameters(
    NetworkHyperparameters(
        embedding_dim=16, num_heads=1, num_encoder_layers=1, num_decoder_layers=1, ffn_multiplier=1, neighbor_tokens=0
    ),
    TrainingHyperparameters(
        decay_fraction=0.2,
        batch_tokens=256,
        num_negatives=16,
        negative_power=0.5,
        learning_rate=1e-3,
        weight_decay=0.01,
    ),
)


def _task(
    validate: Callable[[Recommender], float],
    build: Callable[[NetworkConfig], Recommender] | None = None,
    seconds: float = SECONDS,
) -> TuningTask:
    shop = encoded_shop(users=20)
    network = GIVEN.apply_to_network(small_config(shop.vocabulary, dropout=0.2))
    schedule = GIVEN.apply_to_training(TrainingConfig(epochs=2, seconds=seconds))
    return TuningTask(
        without_validation_events(training_data(shop)),
        network,
        schedule,
        GIVEN,
        build or (lambda config: build_network(config, shop.vocabulary)),
        validate,
    )


def _search(task: TuningTask, name: str = "study") -> optuna.Study:
    study = create_study(name)
    search(study, task, datetime.now(UTC) + timedelta(minutes=10), max_trials=6)
    return study


def _high_dropout(network: Recommender) -> float:
    return network.config.dropout


def test_the_first_trial_has_the_recipe_and_the_best_is_better() -> None:
    study = _search(_task(_high_dropout))
    recipe, best = recipe_trial(study), best_trial(study)
    assert recipe is not None
    assert recipe.number == 0
    assert recipe.params == {"network.dropout": 0.2}
    assert best is not None
    assert best.params["network.dropout"] > 0.2
    results = [trial.value or 0.0 for trial in complete_trials(study)]
    assert results == sorted(results, reverse=True)


def test_where_no_trial_is_better_the_recipe_is_best() -> None:
    assert best_trial(_search(_task(lambda network: -abs(network.config.dropout - 0.2)))) is None


def test_the_parameters_of_a_trial_depend_on_the_seed_and_its_number_only() -> None:
    task = _task(_high_dropout)
    one, other = ([trial.params for trial in _search(task, name=name).get_trials()[:3]] for name in ("one", "other"))
    assert one == other
    assert len({parameters["network.dropout"] for parameters in one}) == 3


def test_a_trial_without_memory_fails_and_the_study_goes_on() -> None:
    shop = encoded_shop(users=20)

    def build(config: NetworkConfig) -> Recommender:
        if config.dropout == 0.2:
            raise OutOfMemory("No memory")
        return build_network(config, shop.vocabulary)

    study = _search(_task(_high_dropout, build))
    assert study.get_trials()[0].state == TrialState.FAIL
    assert recipe_trial(study) is None
    assert best_trial(study) is not None


def test_trials_below_the_median_are_pruned() -> None:
    states: list[str] = []

    @contextmanager
    def trial_run(number: int, parameters: Parameters) -> Iterator[OnEpoch]:
        try:
            yield lambda epoch, figures: None
        except optuna.TrialPruned:
            states.append("pruned")
            raise

    validated = 0

    def worse_each_time(network: Recommender) -> float:
        nonlocal validated
        validated += 1
        return 1 / validated

    task = _task(worse_each_time, seconds=1e-3)  # all tenths are over at the first validation
    study = create_study("pruned")
    search(study, task, datetime.now(UTC) + timedelta(minutes=10), 8, trial_run)
    pruned = study.get_trials(states=(TrialState.PRUNED,))
    assert pruned
    assert len(states) == len(pruned)
    assert recipe_trial(study) is not None  # the first trials are never pruned


def test_a_study_without_a_complete_trial_says_what_helps() -> None:
    study = create_study("late")
    search(study, _task(_high_dropout), datetime.now(UTC))
    with pytest.raises(NotEnoughData, match="more time"):
        best_trial(study)


def test_a_study_needs_time_for_two_trials() -> None:
    with pytest.raises(InputError, match="at least 5 minutes"):
        require_time_for_trials(200, 150)
    require_time_for_trials(300, 150)
