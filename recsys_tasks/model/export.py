"""The two ONNX graphs that serving runs: `encoder.onnx` once a history, `decoder.onnx` once a request."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from recsys_tasks.errors import InvariantError
from recsys_tasks.features.sequences import Timeline, build_timeline, query_inputs
from recsys_tasks.model.network import Events, ItemTable, NetworkConfig, Query, Recommender
from recsys_tasks.names import FIRST_ITEM

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
MEMORY = ("memory", "copy_key", "age_curve")
_ROUNDING = 1e-3
_ALONG_HISTORY = ("history", "age_bucket", "is_last")
_ALONG_SESSION = ("tokens", "token_kinds", "token_gaps", "token_words")


class _Encoder(nn.Module):
    def __init__(self, network: Recommender) -> None:
        super().__init__()
        self.network = network

    def forward(self, *events: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.network.encode_history(Events(*events))


class _Decoder(nn.Module):
    def __init__(self, network: Recommender) -> None:
        super().__init__()
        self.network = network

    def forward(self, memory: Tensor, copy_key: Tensor, age_curve: Tensor, days: Tensor, *query: Tensor) -> Tensor:
        return self.network.decode_session((memory, copy_key, age_curve), days, Query(*query))


def export_graphs(network: Recommender, folder: Path) -> None:
    """Writes both graphs, for any length of history and session, one request at a time."""
    network = _folded(network)
    events, query = _example(network.config)
    with torch.inference_mode():
        memory = [part.clone() for part in network.encode_history(events)]
    long = Dim.DYNAMIC
    _export(
        _Encoder(network),
        tuple(events),
        folder / ENCODER,
        list(Events._fields),
        list(MEMORY),
        (tuple({1: long} for _ in events),),
    )
    per_query = tuple({1: long} if name in (*_ALONG_HISTORY, *_ALONG_SESSION) else None for name in Query._fields)
    _export(
        _Decoder(network),
        (*memory, events.days, *query),
        folder / DECODER,
        [*MEMORY, "days", *(f"query_{name}" for name in Query._fields)],
        ["scores"],
        (*({1: long},) * 4, per_query),
    )


def item_vectors(network: Recommender) -> np.ndarray:
    """Unit vectors of all items [V, D] as the graphs have them."""
    with torch.inference_mode():
        vectors: np.ndarray = network.eval().items.matrix().cpu().numpy()
    return vectors


class _Vectors(nn.Module):
    """An item table whose vectors are made: what a graph needs of it."""

    def __init__(self, table: ItemTable) -> None:
        super().__init__()
        self.vectors = nn.Parameter(table.matrix().detach().clone())
        self.bias = nn.Parameter(table.bias.detach().clone())
        words = table.of_content.weight if hasattr(table, "of_content") else self.vectors[:1]
        self.words = nn.Parameter(words.detach().clone())

    def forward(self, item: Tensor) -> Tensor:
        return F.embedding(item, self.vectors)

    def matrix(self) -> Tensor:
        return self.vectors

    def read(self, tokens: Tensor) -> Tensor:
        known = (tokens > 0).to(self.words.dtype)[..., None]
        return F.normalize((F.embedding(tokens, self.words) * known).sum(-2), dim=-1)


def _folded(network: Recommender) -> Recommender:
    """The same network with the items' vectors made once, not at every request."""
    folded = copy.deepcopy(network).eval()
    folded.items = _Vectors(network.items)  # type: ignore[assignment]
    return folded


def verify_graphs(network: Recommender, folder: Path) -> float:
    """Runs both graphs beside the network and returns the largest difference between their scores.

    Raises:
        InvariantError: they differ by more than rounding explains.
    """
    events, query = _example(network.config)
    with torch.inference_mode():
        expected = network.answer(events, query).numpy()
    encoder, decoder = (onnxruntime.InferenceSession(folder / name) for name in (ENCODER, DECODER))
    memory = encoder.run(None, _wanted(encoder, {name: value.numpy() for name, value in events._asdict().items()}))
    given = {**dict(zip(MEMORY, memory, strict=True)), "days": events.days.numpy()}
    given |= {f"query_{name}": value.numpy() for name, value in query._asdict().items()}
    scores = decoder.run(None, _wanted(decoder, given))[0]
    difference = float(np.abs(scores - expected).max())
    if not difference < _ROUNDING:
        raise InvariantError(f"The ONNX graphs differ from the network by {difference:.2g} in a score")
    return difference


def _wanted(graph: onnxruntime.InferenceSession, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {needed.name: given[needed.name] for needed in graph.get_inputs()}


def _export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: list[str],
    outputs: list[str],
    shapes: tuple[object, ...],
) -> None:
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            example,
            path,
            dynamo=True,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )


def _example(config: NetworkConfig) -> tuple[Events, Query]:
    """A request of some length; the graphs take any."""
    history, session = 40, 5
    count = history + session
    random = np.random.default_rng(0)
    zeros = np.zeros(count, np.int64)
    sessions = np.where(np.arange(count) < history, 0, 1)
    seconds = 1.5e9 + 3600.0 * np.arange(count)
    began = np.where(sessions == 0, seconds[0], seconds[history])
    item = random.integers(FIRST_ITEM, max(config.items, FIRST_ITEM + 1), count)
    queries = random.integers(0, max(config.content_tokens, 1), (4, config.query_words)) * np.arange(4)[:, None].clip(
        max=1
    )
    searches = np.where(np.arange(count) % 7 == 3, 1 + np.arange(count) % 3, 0)
    timeline: Timeline = build_timeline(zeros, sessions, item, zeros + 1, seconds, began, searches, queries)
    events, query = query_inputs(timeline, np.asarray([history]), np.asarray([count - 1]), history)
    return (
        Events(**{name: torch.from_numpy(value) for name, value in events.items()}),
        Query(**{name: torch.from_numpy(value) for name, value in query.items()}),
    )
