"""Search space of a study: the ranges that its trials sample from. What the recipe file sets does not vary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial

from recsys_tasks.model.tensors import NetworkConfig
from recsys_tasks.model.training_loop import TrainingConfig
from recsys_tasks.training.hyperparameters import Hyperparameters

Parameters = Mapping[str, Any]  # values by name: the table, a dot, the hyperparameter

_DIMENSIONS: Final = (32, 64, 96, 128, 192, 256)
_HEAD_DIMENSION: Final = 32
_EMBEDDING, _HEADS = "network.embedding_dim", "network.num_heads"
_INTEGERS: Final = {
    "network.num_decoder_layers": (1, 3, False),
    "network.ffn_multiplier": (1, 4, False),
    "network.neighbor_tokens": (0, 30, False),
    "training.batch_tokens": (128, 8192, True),
}
_INTEGERS_WITH_HISTORY: Final = {"network.num_encoder_layers": (1, 3, False)}
_INTEGERS_WITHOUT_HISTORY: Final = {"network.num_neighbors": (0, 12, False)}
_NUM_NEGATIVES: Final = {"training.num_negatives": (128, 4096, True)}
_FLOATS: Final = {
    "network.dropout": (0.0, 0.6, False),
    "training.decay_fraction": (0.1, 0.6, False),
    "training.learning_rate": (3e-4, 2e-2, True),
    "training.weight_decay": (1e-4, 0.3, True),
}
_NEGATIVE_POWER: Final = {"training.negative_power": (0.0, 1.0, False)}


def search_space(
    network: NetworkConfig, training: TrainingConfig, given: Hyperparameters
) -> dict[str, BaseDistribution]:
    """Returns the distribution of each hyperparameter that a study varies, by name.

    Args:
        network, training: the recipe's values, which are within the ranges.
        given: hyperparameters that a person has set; they are not varied.
    """
    recipe, fixed = recipe_parameters(network, training), _set_names(given)
    is_sampled = training.num_negatives > 0
    integers = _INTEGERS | (_INTEGERS_WITH_HISTORY if network.history else _INTEGERS_WITHOUT_HISTORY)
    integers |= _NUM_NEGATIVES if is_sampled else {}
    floats = _FLOATS | (_NEGATIVE_POWER if is_sampled else {})
    space: dict[str, BaseDistribution] = {
        name: IntDistribution(min(low, recipe[name]), max(high, recipe[name]), log=log)
        for name, (low, high, log) in integers.items()
        if name not in fixed
    }
    space |= {
        name: FloatDistribution(min(low, recipe[name]), max(high, recipe[name]), log=log)
        for name, (low, high, log) in floats.items()
        if name not in fixed
    }
    if _EMBEDDING not in fixed:
        heads = given.network.num_heads or 1
        dimensions = {dimension for dimension in _DIMENSIONS if dimension % heads == 0} | {network.embedding_dim}
        space[_EMBEDDING] = CategoricalDistribution(sorted(dimensions))
    return {name: space[name] for name in sorted(space)}


def recipe_parameters(network: NetworkConfig, training: TrainingConfig) -> dict[str, Any]:
    """Returns all hyperparameters of two configurations by name."""
    configurations = {"network": network, "training": training}
    return {
        f"{table}.{name}": getattr(configurations[table], name)
        for table, names in _hyperparameter_names().items()
        for name in names
    }


def suggest(trial: BaseTrial, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Draws the parameters of a trial."""
    return {name: _suggest(trial, name, distribution) for name, distribution in space.items()}


def with_parameters(given: Hyperparameters, parameters: Parameters) -> Hyperparameters:
    """Returns hyperparameters with those of a trial. A varied dimension gets one attention head per 32 of it."""
    tables: dict[str, dict[str, Any]] = msgspec.to_builtins(given)
    values = dict(parameters)
    if _EMBEDDING in values and given.network.num_heads is None:
        values[_HEADS] = max(1, values[_EMBEDDING] // _HEAD_DIMENSION)
    for name, value in values.items():
        table, key = name.split(".")
        tables[table][key] = value
    return msgspec.convert(tables, Hyperparameters)


def _suggest(trial: BaseTrial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case IntDistribution():
            return trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
        case FloatDistribution():
            return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
        case CategoricalDistribution():
            return trial.suggest_categorical(name, distribution.choices)
    raise TypeError(f"No hyperparameter has a {type(distribution).__name__}")


def _hyperparameter_names() -> dict[str, tuple[str, ...]]:
    empty = Hyperparameters()
    return {table: getattr(empty, table).__struct_fields__ for table in Hyperparameters.__struct_fields__}


def _set_names(given: Hyperparameters) -> set[str]:
    tables: dict[str, dict[str, Any]] = msgspec.to_builtins(given)
    return {
        f"{table}.{name}" for table, values in tables.items() for name, value in values.items() if value is not None
    }
