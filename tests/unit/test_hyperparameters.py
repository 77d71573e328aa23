"""Recipes: hyperparameters that a person sets, and the recipe file of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.model.tensors import NetworkConfig
from recsys_tasks.model.training_loop import TrainingConfig
from recsys_tasks.training.hyperparameters import ALL_FROM_DATA, format_recipe, load_recipe

NETWORK, TRAINING = NetworkConfig(num_items=100), TrainingConfig()


def _write(folder: Path, content: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(content, encoding="utf-8")
    return path


def test_without_a_recipe_all_hyperparameters_follow_from_the_data() -> None:
    given = load_recipe(None)
    assert given.apply_to_network(NETWORK) == NETWORK
    assert given.apply_to_training(TRAINING) == TRAINING


def test_a_recipe_sets_what_it_names_and_leaves_the_rest(tmp_path: Path) -> None:
    given = load_recipe(
        _write(tmp_path, "[network]\nembedding_dim = 96\nnum_heads = 3\n[training]\nlearning_rate = 0.01\n")
    )
    network, training = given.apply_to_network(NETWORK), given.apply_to_training(TRAINING)
    assert (network.embedding_dim, network.num_heads, network.num_decoder_layers) == (96, 3, NETWORK.num_decoder_layers)
    assert (training.learning_rate, training.weight_decay) == (0.01, TRAINING.weight_decay)


def test_the_recipe_of_a_run_gives_the_same_hyperparameters_again(tmp_path: Path) -> None:
    given = load_recipe(_write(tmp_path, "[training]\nbatch_tokens = 300\n"))
    training = given.apply_to_training(TRAINING)
    written = format_recipe(NETWORK, training, given)
    assert "batch_tokens = 300  # set in the recipe" in written
    assert "dropout = 0.0  # less for more events" in written
    again = load_recipe(_write(tmp_path, written))
    assert again != ALL_FROM_DATA
    assert again.apply_to_network(NetworkConfig(num_items=100, embedding_dim=32, dropout=0.3)) == NETWORK
    assert again.apply_to_training(TrainingConfig(learning_rate=1.0, batch_tokens=1)) == training


@pytest.mark.parametrize(
    "content",
    [
        "[network]\nwidth = 64",
        "[network]\nembedding_dim = 0",
        "[network]\ndropout = 1.0",
        "[training]\nlearning_rate = 0",
        '[training]\nlearning_rate = "high"',
        "[training]\nseconds = 10",
        "network",
    ],
)
def test_an_invalid_recipe_is_refused_by_name(tmp_path: Path, content: str) -> None:
    with pytest.raises(ConfigurationError, match=r"recipe\.toml cannot be read"):
        load_recipe(_write(tmp_path, content))


def test_heads_that_do_not_divide_the_embedding_are_refused(tmp_path: Path) -> None:
    given = load_recipe(_write(tmp_path, "[network]\nembedding_dim = 64\nnum_heads = 3\n"))
    with pytest.raises(ConfigurationError, match=r"num_heads must divide network\.embedding_dim"):
        given.apply_to_network(NETWORK)
