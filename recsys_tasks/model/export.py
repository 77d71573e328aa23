"""The two ONNX graphs that serving runs: `encoder.onnx` once a history, `decoder.onnx` once a request."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from recsys_tasks.errors import InvariantError
from recsys_tasks.features.sequences import Timeline, build_timeline, query_inputs
from recsys_tasks.model.network import Events, Query, Recommender
from recsys_tasks.names import FIRST_ITEM

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
MEMORY = ("memory", "copy_key", "age_curve")
_ROUNDING = 1e-3
_ALONG_HISTORY = ("history", "age_bucket", "is_last")
_ALONG_SESSION = ("tokens", "token_kinds")


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
        return self.network.decode_session(memory, copy_key, age_curve, days, Query(*query))


def export_graphs(network: Recommender, folder: Path) -> None:
    """Writes both graphs, for any length of history and session, one request at a time."""
    network.eval()
    events, query = _example(network.config.items)
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


def verify_graphs(network: Recommender, folder: Path) -> float:
    """Runs both graphs beside the network and returns the largest difference between their scores.

    Raises:
        InvariantError: they differ by more than rounding explains.
    """
    events, query = _example(network.config.items)
    with torch.inference_mode():
        expected = network.decode_session(*network.encode_history(events), events.days, query).numpy()
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


def _example(items: int) -> tuple[Events, Query]:
    """A request of some length; the graphs take any."""
    history, session = 40, 5
    count = history + session
    random = np.random.default_rng(0)
    zeros = np.zeros(count, np.int64)
    sessions = np.where(np.arange(count) < history, 0, 1)
    seconds = 1.5e9 + 3600.0 * np.arange(count)
    began = np.where(sessions == 0, seconds[0], seconds[history])
    item = random.integers(FIRST_ITEM, max(items, FIRST_ITEM + 1), count)
    timeline: Timeline = build_timeline(zeros, sessions, item, zeros + 1, seconds, began)
    events, query = query_inputs(timeline, np.asarray([history]), np.asarray([count - 1]), history)
    return (
        Events(**{name: torch.from_numpy(value) for name, value in events.items()}),
        Query(**{name: torch.from_numpy(value) for name, value in query.items()}),
    )
