"""A trained network on disk: sizes and vocabulary as JSON, weights as a NumPy archive, two ONNX graphs.

No pickled code: everything here can be read without trusting whoever wrote it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from recsys_tasks.engine.bundle import NETWORK, VOCABULARY
from recsys_tasks.errors import InputError, OtherModelFormat
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import NetworkConfig
from recsys_tasks.model.training_loop import build_network
from recsys_tasks.names import FIRST_ITEM

WEIGHTS = "weights.npz"


@dataclass(frozen=True)
class TrainedModel:
    """A network with the vocabulary it was trained with."""

    network: Recommender
    vocabulary: Vocabulary


def save_model(model: TrainedModel, folder: Path) -> None:
    """Writes the network's sizes, weights and vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NETWORK).write_text(json.dumps(asdict(model.network.config), indent=2), encoding="utf-8")
    model.vocabulary.save(folder / VOCABULARY)
    weights = {name: value.cpu().numpy() for name, value in model.network.state_dict().items()}
    np.savez(folder / WEIGHTS, **weights)


def load_model(folder: Path) -> TrainedModel:
    """Reads what `save_model` wrote.

    Raises:
        InputError: a file is missing.
        OtherModelFormat: the weights are of another network than this version's.
    """
    try:
        stored = json.loads((folder / NETWORK).read_text(encoding="utf-8"))
        vocabulary = Vocabulary.load(folder / VOCABULARY)
        network = build_network(NetworkConfig(**stored), vocabulary)
        with np.load(folder / WEIGHTS, allow_pickle=False) as weights:
            network.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights.files})
    except OSError as error:
        raise InputError(f"{folder} does not hold a model: {error}") from error
    except (TypeError, RuntimeError, KeyError) as error:
        raise OtherModelFormat(f"The model is of another version of this package: {error}") from error
    network.eval()
    return TrainedModel(network, vocabulary)


def warm_start(network: Recommender, vocabulary: Vocabulary, champion: TrainedModel) -> int:
    """Takes over the champion's weights; rows of items and content go by name. Returns how many items both know.

    What only one of the two networks has, as the content where the other's items have none, stays as it is.
    """
    ours, theirs = network.state_dict(), champion.network.state_dict()
    numbers = champion.vocabulary.numbers(vocabulary.item_ids)
    known = np.flatnonzero(numbers >= FIRST_ITEM)
    reserved = np.arange(FIRST_ITEM)
    rows = {
        name: (np.concatenate([reserved, known + FIRST_ITEM]), np.concatenate([reserved, numbers[known]]))
        for name in ("items.own.weight", "items.bias")
    }
    place = {token: row for row, token in enumerate(champion.vocabulary.content_names)}
    shared = [(row, place[token]) for row, token in enumerate(vocabulary.content_names) if token in place]
    of_content = np.asarray(shared, np.int64).reshape(-1, 2)
    rows["items.of_content.weight"] = (of_content[:, 0], of_content[:, 1])
    for name, value in theirs.items():
        if name not in ours:
            continue
        if name in rows:
            to, taken = (torch.from_numpy(index) for index in rows[name])
            ours[name][to] = value[taken]
        elif ours[name].shape == value.shape:
            ours[name] = value.clone()
    ours |= {f"items.{name}": getattr(network.items, name) for name in ("content", "neighbours")}
    network.load_state_dict(ours)
    return len(known)
