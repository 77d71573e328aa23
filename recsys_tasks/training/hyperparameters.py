"""Hyperparameters that a person sets, in a TOML file; the recipe derives all others from the data.

Each run has the file `recipe.toml`: all its hyperparameters with the reason of each, in the same format, so that it can
be edited and used for the next run.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.model.tensors import NetworkConfig
from recsys_tasks.model.training_loop import TrainingConfig

_Positive = Annotated[int, msgspec.Meta(ge=1)]
_NotNegative = Annotated[int, msgspec.Meta(ge=0)]
_Rate = Annotated[float, msgspec.Meta(gt=0)]
_SET: Final = "set in the recipe"
_REASONS: Final = {
    "embedding_dim": "128 if the time budget allows 10 passes over the events, else 64",
    "num_heads": "one for each 32 dimensions",
    "num_encoder_layers": "1",
    "num_decoder_layers": "2 if the time budget allows 10 passes over the events, else 1",
    "ffn_multiplier": "hidden size of the feed-forward maps, in multiples of the dimension",
    "dropout": "less for more events, and where the time budget allows few passes",
    "max_positions": "longest session that is read in full",
    "local_tokens": "in training, a token attends to at least so many earlier ones of its session",
    "num_neighbors": "items in an item's vector; none with a history",
    "neighbor_tokens": "latest items of a session whose neighbors are a component; none without a history",
    "age_rank": "rank of the age bias of copying",
    "patience": "validations without improvement that start the decay",
    "validation_interval_events": "events between validations",
    "decay_fraction": "share of the training: 0.35 if the time budget allows 10 passes over the events, else 0.2",
    "window_size": "events of a window: 400 with a history, in which shorter ones make bought items look new",
    "batch_tokens": "200 batches per epoch, within limits",
    "num_negatives": "0, the softmax over all items, up to 10,000 items; else sampled",
    "negative_power": "exponent of the counts by which negatives are sampled",
    "learning_rate": "of the constant phase",
    "weight_decay": "of matrices",
    "precision": "of matrix products: float32, or bfloat16 for a GPU or CPU that multiplies it natively",
}


class NetworkHyperparameters(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Hyperparameters of the network, see `NetworkConfig`; None follows from the data."""

    embedding_dim: _Positive | None = None
    num_heads: _Positive | None = None
    num_encoder_layers: _Positive | None = None
    num_decoder_layers: _Positive | None = None
    ffn_multiplier: _Positive | None = None
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] | None = None
    max_positions: _Positive | None = None
    local_tokens: _Positive | None = None
    num_neighbors: _NotNegative | None = None
    neighbor_tokens: _NotNegative | None = None
    age_rank: _Positive | None = None


class TrainingHyperparameters(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Hyperparameters of the training, see `TrainingConfig`; None follows from the data."""

    patience: _Positive | None = None
    validation_interval_events: _NotNegative | None = None
    decay_fraction: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    window_size: Annotated[int, msgspec.Meta(ge=2)] | None = None
    batch_tokens: _Positive | None = None
    num_negatives: _NotNegative | None = None
    negative_power: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    learning_rate: _Rate | None = None
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] | None = None
    precision: Literal["float32", "bfloat16"] | None = None


class Hyperparameters(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The hyperparameters of a recipe file.

    Attributes:
        network: of the network.
        training: of the training.
    """

    network: NetworkHyperparameters = NetworkHyperparameters()
    training: TrainingHyperparameters = TrainingHyperparameters()

    def apply_to_network(self, config: NetworkConfig) -> NetworkConfig:
        """Returns a network's configuration with these hyperparameters.

        Raises:
            ConfigurationError: the heads do not divide the embedding.
        """
        changed = replace(config, **_given(self.network))
        if changed.embedding_dim % changed.num_heads:
            raise ConfigurationError(
                f"The recipe has {changed.num_heads} heads for an embedding of {changed.embedding_dim} dimensions;"
                " network.num_heads must divide network.embedding_dim"
            )
        return changed

    def apply_to_training(self, config: TrainingConfig) -> TrainingConfig:
        """Returns a training's configuration with these hyperparameters."""
        return replace(config, **_given(self.training))


ALL_FROM_DATA: Final = Hyperparameters()


def load_recipe(path: Path | None) -> Hyperparameters:
    """Reads a recipe file, with the tables `network` and `training`; without a file, all follow from the data.

    Raises:
        ConfigurationError: the file cannot be read, or has an unknown or invalid hyperparameter.
    """
    if path is None:
        return ALL_FROM_DATA
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Hyperparameters)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigurationError(f"The recipe {path} cannot be read: {error}") from error


def format_recipe(network: NetworkConfig, training: TrainingConfig, given: Hyperparameters) -> str:
    """Returns the hyperparameters of a run as a recipe file, each with its reason."""
    tables = (("network", network, given.network), ("training", training, given.training))
    lines = ["# Hyperparameters of this run. To use them for another one, set RECSYS_RECIPE to this file."]
    for name, config, struct in tables:
        values, is_given = asdict(config), _given(struct)
        lines += ["", f"[{name}]"]
        lines += [
            f"{key} = {json.dumps(values[key])}  # {_SET if key in is_given else _REASONS[key]}"
            for key in struct.__struct_fields__
        ]
    return "\n".join(lines) + "\n"


def format_hyperparameters(given: Hyperparameters) -> str:
    """Returns the hyperparameters that are set as a recipe file; all others follow from the data."""
    lines = ["# To train with these hyperparameters, set RECSYS_RECIPE to this file."]
    for name in given.__struct_fields__:
        lines += [
            "",
            f"[{name}]",
            *(f"{key} = {json.dumps(value)}" for key, value in _given(getattr(given, name)).items()),
        ]
    return "\n".join(lines) + "\n"


def _given(struct: NetworkHyperparameters | TrainingHyperparameters) -> dict[str, Any]:
    values = msgspec.structs.asdict(struct)
    return {name: value for name, value in values.items() if value is not None}
