"""A trained network on disk: configuration and vocabulary as JSON, weights as a NumPy archive.

Contains no pickled objects, so that reading a model never runs code.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from recsys_tasks.engine.bundle import INTENT, NETWORK, SECOND_STAGE, VOCABULARY
from recsys_tasks.engine.purchase_intent import PurchaseIntent
from recsys_tasks.errors import IncompatibleModelFormat, InputError
from recsys_tasks.features.item_neighbors import ItemNeighbors
from recsys_tasks.features.session_neighbors import SessionNeighbors
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import NetworkConfig
from recsys_tasks.model.training_loop import build_network
from recsys_tasks.names import FIRST_ITEM

WEIGHTS = "weights.npz"
FORMAT = 5  # of the configuration keys and weight names; raise it when one of them changes
_FORMAT_KEY = "format"
_SPACE_PROJECTION = "items.space_projection.weight"
PLUGIN_MODEL = "model"  # key of the configuration of a plugin model: its name


NOT_FITTED = PurchaseIntent(reason="Purchase intent was not fitted to this network")


@dataclass(frozen=True)
class TrainedModel:
    """A network with the vocabulary it was trained with, the purchase intent that reads its states, and the second
    stage that rescores its candidates (an ONNX graph, empty for none)."""

    network: Recommender
    vocabulary: Vocabulary
    intent: PurchaseIntent = NOT_FITTED
    second_stage: bytes = b""


def save_model(model: TrainedModel, folder: Path) -> None:
    """Writes a network's configuration and weights, its vocabulary and its purchase intent into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {_FORMAT_KEY: FORMAT, **asdict(model.network.config)}
    (folder / NETWORK).write_text(json.dumps(config, indent=2), encoding="utf-8")
    model.vocabulary.save(folder / VOCABULARY)
    model.network.item_neighbors.save(folder)
    model.network.session_neighbors.save(folder)
    model.intent.save(folder / INTENT)
    (folder / SECOND_STAGE).write_bytes(model.second_stage)
    weights = {name: value.cpu().numpy() for name, value in model.network.state_dict().items()}
    np.savez(folder / WEIGHTS, **weights)


def load_model(folder: Path) -> TrainedModel:
    """The model that `save_model` wrote, in evaluation mode.

    Raises:
        InputError: a file is missing.
        IncompatibleModelFormat: the model has another format, or its weights do not fit the network.
    """
    try:
        config = json.loads((folder / NETWORK).read_text(encoding="utf-8"))
        if PLUGIN_MODEL in config:
            raise IncompatibleModelFormat(f"{config[PLUGIN_MODEL]} is a plugin model, without a network to start from")
        found = config.pop(_FORMAT_KEY, 1)  # the first format had no number
        if found != FORMAT:
            raise IncompatibleModelFormat(
                f"The model has format {found}; this version of the package reads format {FORMAT}. Train a new model"
            )
        vocabulary = Vocabulary.load(folder / VOCABULARY)
        network = build_network(NetworkConfig(**config), vocabulary)
        network.item_neighbors = ItemNeighbors.load(folder)
        network.session_neighbors = SessionNeighbors.load(folder)
        with np.load(folder / WEIGHTS, allow_pickle=False) as weights:
            network.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights.files})
        intent = PurchaseIntent.load(folder / INTENT)
        stage = folder / SECOND_STAGE
        second_stage = stage.read_bytes() if stage.exists() else b""  # earlier versions had none
    except OSError as error:
        raise InputError(f"{folder} does not contain a model: {error}") from error
    except (TypeError, RuntimeError, KeyError, ValueError) as error:
        raise IncompatibleModelFormat(f"The model was written by another version of this package: {error}") from error
    network.eval()
    return TrainedModel(network, vocabulary, intent, second_stage)


def warm_start(network: Recommender, vocabulary: Vocabulary, champion: TrainedModel) -> int:
    """Copies the champion's weights into a network; returns the number of items that both vocabularies contain.

    Rows of items and content tokens are matched by name. Weights that exist in only one of the two networks are left
    as they are, such as content embeddings if only one vocabulary has content.
    """
    weights, champion_weights = network.state_dict(), champion.network.state_dict()
    numbers = champion.vocabulary.numbers(vocabulary.item_ids)
    known = np.flatnonzero((numbers >= FIRST_ITEM) & (numbers < champion.vocabulary.num_trained))
    known = known[known < vocabulary.num_trained - FIRST_ITEM]
    reserved = np.arange(FIRST_ITEM)
    rows = {
        name: (np.concatenate([reserved, known + FIRST_ITEM]), np.concatenate([reserved, numbers[known]]))
        for name in ("items.embedding.weight", "items.trained_bias")
    }
    champion_row = {token: row for row, token in enumerate(champion.vocabulary.token_names)}
    shared = [(row, champion_row[token]) for row, token in enumerate(vocabulary.token_names) if token in champion_row]
    content_rows = np.asarray(shared, np.int64).reshape(-1, 2)
    rows["items.content_embedding.weight"] = (content_rows[:, 0], content_rows[:, 1])
    config = champion.network.config
    if config.num_content_tokens or config.text_dim or config.vector_spaces:
        weights["items.embedding.weight"].zero_()  # items new to the champion begin where their content places them
    for name, value in champion_weights.items():
        if name not in weights:
            continue
        if name in rows:
            target, source = (torch.from_numpy(index) for index in rows[name])
            weights[name][target] = value[source]
        elif weights[name].shape == value.shape:
            weights[name] = value.clone()
    unchanged = ("content", "text", "spaces", "neighbors", "untrained_bias")
    weights |= {f"items.{name}": getattr(network.items, name) for name in unchanged if f"items.{name}" in weights}
    if network.config.vector_spaces:
        weights[_SPACE_PROJECTION] = _projection_of_known_spaces(network, champion.network)
    network.load_state_dict(weights)
    return len(known)


@torch.no_grad()
def _projection_of_known_spaces(network: Recommender, champion: Recommender) -> torch.Tensor:
    """The champion's projection of each vector space that it knows; 0 for others, so that no item moves at first."""
    dims = network.config.vector_spaces
    projection = torch.zeros_like(network.items.space_projection.weight)
    if not champion.config.vector_spaces or projection.shape[0] != champion.config.embedding_dim:
        return projection
    learned = dict(
        zip(
            champion.config.vector_spaces,
            champion.items.space_projection.weight.split(champion.items.space_dims, dim=1),
            strict=True,
        )
    )
    for name, block in zip(dims, projection.split(list(dims.values()), dim=1), strict=True):
        if name in learned and learned[name].shape == block.shape:
            block.copy_(learned[name])
    return projection
