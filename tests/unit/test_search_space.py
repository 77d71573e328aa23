"""What a study of hyperparameters varies."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.trial import FixedTrial

from recsys_tasks.model.tensors import NetworkConfig
from recsys_tasks.model.training_loop import TrainingConfig
from recsys_tasks.training.hyperparameters import (
    ALL_FROM_DATA,
    Hyperparameters,
    NetworkHyperparameters,
    TrainingHyperparameters,
)
from recsys_tasks.training.search_space import recipe_parameters, search_space, suggest, with_parameters

NETWORK, TRAINING = NetworkConfig(num_items=100), TrainingConfig()


@given(
    dimension=st.sampled_from([16, 64, 128, 320]),
    dropout=st.floats(0, 0.9),
    batch=st.integers(16, 20_000),
    rate=st.floats(1e-5, 0.5),
    history=st.booleans(),
    negatives=st.sampled_from([0, 64, 1024]),
)
def test_the_recipe_is_within_every_range_and_gives_itself(
    dimension: int, dropout: float, batch: int, rate: float, history: bool, negatives: int
) -> None:
    network = replace(
        NETWORK,
        embedding_dim=dimension,
        num_heads=max(1, dimension // 32),
        dropout=dropout,
        history=history,
    )
    training = replace(TRAINING, batch_tokens=batch, learning_rate=rate, num_negatives=negatives)
    space = search_space(network, training, ALL_FROM_DATA)
    recipe = recipe_parameters(network, training)
    parameters = suggest(FixedTrial({name: recipe[name] for name in space}), space)
    chosen = with_parameters(ALL_FROM_DATA, parameters)
    assert chosen.apply_to_network(network) == network
    assert chosen.apply_to_training(training) == training


def test_what_a_person_has_set_does_not_vary() -> None:
    fixed = Hyperparameters(
        NetworkHyperparameters(dropout=0.25), TrainingHyperparameters(learning_rate=0.001, negative_power=0)
    )
    space = search_space(fixed.apply_to_network(NETWORK), fixed.apply_to_training(TRAINING), fixed)
    assert not {"network.dropout", "training.learning_rate", "training.negative_power"} & set(space)
    chosen = with_parameters(fixed, {"training.weight_decay": 0.1})
    assert chosen.network.dropout == 0.25
    assert (chosen.training.learning_rate, chosen.training.weight_decay) == (0.001, 0.1)


def test_only_dimensions_that_the_set_number_of_heads_divides_are_tried() -> None:
    fixed = Hyperparameters(NetworkHyperparameters(num_heads=3))
    network = replace(NETWORK, embedding_dim=96, num_heads=3)
    dimensions = search_space(network, TRAINING, fixed)["network.embedding_dim"]
    assert isinstance(dimensions, CategoricalDistribution)
    assert dimensions.choices == (96, 192)


@pytest.mark.parametrize(("dimension", "heads"), [(32, 1), (96, 3), (256, 8)])
def test_a_varied_dimension_has_a_head_for_each_32(dimension: int, heads: int) -> None:
    chosen = with_parameters(ALL_FROM_DATA, {"network.embedding_dim": dimension})
    assert chosen.network.num_heads == heads


def test_sampling_varies_only_where_there_are_sampled_negatives() -> None:
    names = {"training.num_negatives", "training.negative_power"}
    assert names <= set(search_space(NETWORK, TRAINING, ALL_FROM_DATA))
    assert not names & set(search_space(NETWORK, replace(TRAINING, num_negatives=0), ALL_FROM_DATA))


def test_a_set_value_outside_of_a_range_is_allowed() -> None:
    fixed = Hyperparameters(training=TrainingHyperparameters(weight_decay=0))  # the range is logarithmic
    assert "training.weight_decay" not in search_space(NETWORK, fixed.apply_to_training(TRAINING), fixed)
