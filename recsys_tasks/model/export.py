"""ONNX export: encoder, decoder and scoring graph, with the item and word vectors as memory-mappable arrays.

Serving runs `encoder.onnx` once per history, and `decoder.onnx` and `scan.onnx` (see `model.scoring_graph`) once per
request.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from recsys_tasks.engine.bundle import BIAS, DECODER, ENCODER, SCAN, VECTORS, WORDS
from recsys_tasks.engine.graphs import STATE_INPUT, STATE_OUTPUT, Graph, next_state
from recsys_tasks.engine.inputs import TOKEN_FEATURES
from recsys_tasks.engine.scoring import CopyCandidates, ItemVectors, Neighbors, NextItemScores, word_vectors
from recsys_tasks.errors import InvariantError
from recsys_tasks.features.item_neighbors import ItemNeighbors
from recsys_tasks.features.sequences import MAX_TOKENS, Arrays, Timeline, build_timeline, session_inputs
from recsys_tasks.features.session_neighbors import SessionNeighbors
from recsys_tasks.model.incremental import (
    EncodedHistory,
    SessionState,
    cache_history,
    decode_session,
    encode_history,
    score_items,
)
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.scoring_graph import export_scoring_graph
from recsys_tasks.model.tensors import MASKED, Events, NetworkConfig, Query, SessionInputs
from recsys_tasks.names import FIRST_ITEM, PADDING_ITEM

_MAX_DIFFERENCE, _MAX_QUANTIZATION_ERROR = 1e-3, 0.5  # of a log score
_MIN_SCORE, _MIN_SHARE = -25.0, 1e-30  # scores this far below the best are not compared
# Inputs and outputs of the graphs. The words of events are replaced by vectors.
_EVENT_INPUTS = tuple(name for name in Events._fields if name != "words")
_TOKEN_INPUTS = ("place", "codes", "vectors", "bias")
_DECODER_OUTPUTS = ("direction", "of_history", "of_session", "of_neighbors", "neighbor_query")  # of `DecoderOutput`
_CODE_FIELDS = {"place": "position", "since": "session_gap"}  # `TOKEN_FEATURES` that `SessionInputs` names otherwise


class _Encoder(nn.Module):
    def __init__(self, network: Recommender) -> None:
        super().__init__()
        self.network = network

    def forward(self, vectors: Tensor, *columns: Tensor) -> EncodedHistory:
        events = Events(words=vectors, **dict(zip(_EVENT_INPUTS, columns, strict=True)))
        return cache_history(self.network, self.network.encode_vectors(vectors, events), events)


class _Decoder(nn.Module):
    """Decoder with its token embeddings in one table, read by `codes` [1, T, C] in the order of `TOKEN_FEATURES`."""

    table: Tensor
    begin: Tensor

    def __init__(self, network: Recommender) -> None:
        super().__init__()
        self.network = network
        last_position = network.config.max_positions - 1
        positions = network.position_embedding.weight[torch.arange(MAX_TOKENS).clamp(max=last_position)]
        # The start token has gap 0 and no item vector. Its own embedding takes the place of kind 0.
        gaps = network.gap_embedding.weight
        kinds = torch.cat([(network.start_token - gaps[0])[None], network.kind_embedding.weight[1:]])
        session_tables = (
            network.hour_embedding.weight,
            network.weekday_embedding.weight,
            network.session_gap_embedding.weight,
        )
        tables = [kinds, gaps, positions, *session_tables]
        begins = np.cumsum([0, *(len(table) for table in tables[:-1])])
        self.register_buffer("table", torch.cat(tables).detach())
        self.register_buffer("begin", torch.as_tensor(begins))

    def forward(
        self,
        encoded: EncodedHistory,
        ages: Tensor,
        days: Tensor,
        state: SessionState,
        position: Tensor,
        codes: Tensor,
        vectors: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, ...]:
        x = self.network.input_scale * vectors + F.embedding(codes + self.begin, self.table).sum(-2)
        output, new_state = decode_session(self.network, (encoded, ages, days), x, position, vectors, bias, state)
        return tuple(part for part in (*output, *(new_state or ())) if part is not None)


def export_vectors(network: Recommender, folder: Path) -> tuple[Tensor, Tensor]:
    """Writes the vectors and neighbors of items, and the graph that scores all items.

    Returns:
        The item vectors [V, D] and biases [V].
    """
    items = network.items
    words = items.content_embedding.weight if network.config.num_content_tokens else items.embedding.weight[:1]
    with torch.inference_mode():
        matrix, item_bias = items.matrix(), items.bias.clone()
        matrix[PADDING_ITEM] = 0.0
        item_bias[:FIRST_ITEM] = MASKED
        arrays = {VECTORS: matrix, BIAS: item_bias, WORDS: words}
        for name, array in arrays.items():
            np.save(folder / name, array.cpu().numpy().astype(np.float32))
        network.item_neighbors.save(folder)
        network.session_neighbors.save(folder)
        export_scoring_graph(matrix.cpu().numpy(), item_bias.cpu().numpy(), folder / SCAN)
    return matrix, item_bias


def export_graphs(network: Recommender, folder: Path) -> None:
    """Writes the graphs, for one request at a time with any length of history and session, and the vectors.

    The graphs of encoder and decoder read vectors of items as inputs: they have no weights of items.
    """
    network = network.eval()
    matrix, item_bias = export_vectors(network, folder)
    with torch.inference_mode():
        events, query = _example(network.config)
        ages, days, session = _decoder_inputs(events, query)
        encoded = encode_history(network, events)
        vectors, bias = matrix[session.item], item_bias[session.item]
        x = network.embed_tokens(vectors, session)
        _, state = decode_session(network, (encoded, ages, days), x, session.position, vectors, bias)
        assert state is not None, "A recurrent decoder cannot be exported: it reads no history"  # noqa: S101
        event_vectors = network.items(events.item)
    dynamic, config = Dim.DYNAMIC, network.config
    export_graph(
        _Encoder(network),
        _clone_tensors((event_vectors, *(getattr(events, name) for name in _EVENT_INPUTS))),
        folder / ENCODER,
        ["vectors", *_EVENT_INPUTS],
        list(EncodedHistory._fields),
        ({1: dynamic}, tuple({1: dynamic} for _ in _EVENT_INPUTS)),
    )
    state_names = [name for name, part in state._asdict().items() if part is not None]
    state_shapes = SessionState._make(
        ({3: dynamic}, {3: dynamic}, *(None if part is None else {1: dynamic} for part in state[2:]))
    )
    export_graph(
        _Decoder(network),
        _clone_tensors((encoded, ages, days, state, session.position, _codes(session), vectors, bias)),
        folder / DECODER,
        [*EncodedHistory._fields, "ages", "days", *(STATE_INPUT + name for name in state_names), *_TOKEN_INPUTS],
        [
            *_decoder_outputs(config),
            *(STATE_OUTPUT + name for name in state_names),
        ],
        (
            EncodedHistory._make(({3: dynamic}, {3: dynamic}, {3: dynamic}, {1: dynamic}, {1: dynamic})),
            {1: dynamic},
            None,
            state_shapes,
            *({1: dynamic} for _ in _TOKEN_INPUTS),
        ),
    )


def _decoder_outputs(config: NetworkConfig) -> list[str]:
    has_neighbors = bool(config.neighbor_tokens)
    present = {
        "of_session": config.sessions_repeat,
        "of_neighbors": has_neighbors,
        "neighbor_query": has_neighbors,
    }
    return [name for name in _DECODER_OUTPUTS if present.get(name, True)]


def _clone_tensors(example: Any) -> Any:
    """Copies of tensors that share no memory: the export merges inputs that do."""
    return pytree.tree_map_only(Tensor, torch.clone, example)


def verify_graphs(network: Recommender, folder: Path) -> float:
    """Compares the graphs with the network on an example; returns the largest difference of a log score.

    Raises:
        InvariantError: they differ by more than rounding explains, or the scoring graph does not fit the item vectors.
    """
    events, query = _example(network.config)
    with torch.inference_mode():
        expected = score_items(network, events, query).numpy()[0]
    vectors, bias, words = (np.load(folder / name) for name in (VECTORS, BIAS, WORDS))
    encoder, decoder, scan = (Graph(folder / name) for name in (ENCODER, DECODER, SCAN))
    encoder_inputs = {name: value.numpy() for name, value in events._asdict().items()}
    encoder_inputs["vectors"] = word_vectors(words, encoder_inputs["words"], vectors[encoder_inputs["item"]])
    ages, days, session = _decoder_inputs(events, query)
    inputs = encoder(encoder_inputs) | {"ages": ages.numpy(), "days": days.numpy()}
    item = session.item.numpy()
    inputs |= {"vectors": word_vectors(words, session.words.numpy(), vectors[item]), "bias": bias[item]}
    inputs |= {"place": session.position.numpy(), "codes": _codes(session).numpy()}
    state = decoder.initial_state()
    for part in (slice(0, -1), slice(-1, None)):  # decode the last token incrementally
        tokens = {name: inputs[name][:, part] for name in _TOKEN_INPUTS}
        output = decoder({**inputs, **tokens, **state})
        state = next_state(output)
    items = ItemVectors(vectors, bias)
    check_quantization(items, scan, output["direction"])
    history_copies = CopyCandidates.from_events(query.history.numpy()[0])
    neighbors = Neighbors(
        ItemNeighbors.load(folder), SessionNeighbors.load(folder), network.config.session_neighbor_weight
    )
    scores_of = NextItemScores(items, scan, output, history_copies, item[0], neighbors)
    scored = scores_of.top_k(1, include=np.arange(len(items)))
    shares = np.full(len(items), _MIN_SHARE)
    np.maximum.at(shares, scored.numbers, scored.scores)
    scores, expected = (np.maximum(part - part.max(), _MIN_SCORE) for part in (np.log(shares), expected))
    difference = float(np.abs(scores - expected).max())
    if not difference < _MAX_DIFFERENCE:
        raise InvariantError(
            f"The ONNX graphs in {folder} differ from the network by {difference:.2g} in a log score; "
            f"at most {_MAX_DIFFERENCE:g} is expected. Export them again"
        )
    return difference


def check_quantization(items: ItemVectors, scan: Graph, direction: np.ndarray) -> None:
    """Compares the graph that scores all items, by quantized vectors, with their vectors.

    Args:
        items: vectors and biases.
        scan: the graph.
        direction: vector of a session [1, D].

    Raises:
        InvariantError: they differ by more than rounding explains.
    """
    known = np.arange(FIRST_ITEM, len(items))
    no_copies: Arrays = {
        "copies": np.zeros(1, np.int64),
        "place": np.zeros(1, np.int64),
        "copied": np.zeros(1, np.float32),
    }
    selection: Arrays = {"gone": known[:0], "offset": np.zeros(1, np.float32), "few": np.ones(1, np.int64)}
    output = scan({"direction": direction, "items": items.base, "also": known, **no_copies, **selection})
    exact = items.dot(direction[0]) + items.bias
    error = float(np.abs(output["rounded"] - exact[output["numbers"]])[-len(known) :].max(initial=0.0))
    if not error < _MAX_QUANTIZATION_ERROR:
        raise InvariantError(
            f"The graph that scores all items differs from their vectors by {error:.2g} in a log score; "
            f"at most {_MAX_QUANTIZATION_ERROR:g} is expected. Export it again"
        )


def _decoder_inputs(events: Events, query: Query) -> tuple[Tensor, Tensor, SessionInputs]:
    """Age rows of the history's events [1, H], the session's start [1] in the days of the events, and its tokens."""
    return query.ages(), torch.zeros_like(events.days[:, 0]), query.session()


def _codes(session: SessionInputs) -> Tensor:
    """Features of the tokens besides their items, in the order of `engine.inputs.TOKEN_FEATURES` [1, T, C]."""
    columns = [getattr(session, _CODE_FIELDS.get(name, name)).expand(session.item.shape) for name in TOKEN_FEATURES]
    return torch.stack(columns, -1)


def export_graph(
    module: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: list[str],
    outputs: list[str],
    shapes: tuple[object, ...],
) -> None:
    """Writes a module as an ONNX graph.

    Args:
        module: in evaluation mode.
        example: its arguments.
        path: of the graph.
        inputs, outputs: names.
        shapes: dynamic dimensions of each argument, as `torch.export` takes them.
    """
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
    """An example request to trace the graphs with; they accept any length."""
    history, session = 40, 5
    count = history + session
    random = np.random.default_rng(0)
    zeros = np.zeros(count, np.int64)
    sessions = np.where(np.arange(count) < history, 0, 1)
    seconds = 1.5e9 + 3600.0 * np.arange(count)
    session_seconds = np.where(sessions == 0, seconds[0], seconds[history])
    item = random.integers(FIRST_ITEM, max(config.num_items, FIRST_ITEM + 1), count)
    queries = random.integers(0, max(config.num_content_tokens, 1), (4, config.query_words)) * np.arange(4)[
        :, None
    ].clip(max=1)
    searches = np.where(np.arange(count) % 7 == 3, 1 + np.arange(count) % 3, 0)
    timeline: Timeline = build_timeline(zeros, sessions, item, zeros + 1, seconds, session_seconds, searches, queries)
    events, query = session_inputs(timeline, np.asarray([history]), np.asarray([count - 1]), history)
    return (
        Events(**{name: torch.from_numpy(value) for name, value in events.items()}),
        Query(**{name: torch.from_numpy(value) for name, value in query.items()}),
    )
