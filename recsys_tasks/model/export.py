"""What serving needs of a network: ONNX graphs, `encoder.onnx` run once a history, `decoder.onnx` and `scan.onnx` (see
`model.scan`) once a request, and beside them the vectors that they are given, of items and of words, as arrays that can
be mapped."""

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
from recsys_tasks.engine.graphs import AFTER, BEFORE, Graph, state_after
from recsys_tasks.engine.inputs import CODES
from recsys_tasks.engine.scoring import Copies, ItemVectors, NextItem, word_vectors
from recsys_tasks.errors import InvariantError
from recsys_tasks.features.sequences import MAX_TOKENS, Arrays, Timeline, build_timeline, query_inputs
from recsys_tasks.model.incremental import (
    Encoded,
    Reading,
    SessionState,
    cache_history,
    decode_session,
    encode_history,
    score_items,
)
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.scoring_graph import export_scan
from recsys_tasks.model.tensors import MASKED, Events, NetworkConfig, Query, SessionInputs
from recsys_tasks.names import FIRST_ITEM, PADDING_ITEM

_ROUNDING, _MOST_ROUNDED = 1e-3, 0.5  # of a score; that of vectors rounded to bytes
_LEAST, _NEGLIGIBLE = -25.0, 1e-30  # scores so far below the best one are as good as none
# What is given to the graphs as vectors is not read as numbers.
_OF_EVENTS = tuple(name for name in Events._fields if name != "words")
_ALONG_SESSION = ("place", "codes", "vectors", "bias")


class _Encoder(nn.Module):
    def __init__(self, network: Recommender) -> None:
        super().__init__()
        self.network = network

    def forward(self, vectors: Tensor, *columns: Tensor) -> Encoded:
        events = Events(words=vectors, **dict(zip(_OF_EVENTS, columns, strict=True)))
        return cache_history(self.network, self.network.encode_vectors(vectors, events), events)


class _Decoder(nn.Module):
    """The decoder, all of whose tables are one: with `codes` [1, T, C] in the order of `serving.inputs.CODES`."""

    table: Tensor
    begin: Tensor

    def __init__(self, network: Recommender) -> None:
        super().__init__()
        self.network = network
        places = network.place.weight[torch.arange(MAX_TOKENS).clamp(max=network.config.places - 1)]
        # The beginning has gap 0, no vector, and a kind for itself.
        kinds = torch.cat([(network.begin - network.gap.weight[0])[None], network.kind.weight[1:]])
        moments = (network.hour.weight, network.weekday.weight, network.session_gap.weight)
        tables = [kinds, network.gap.weight, places, *moments]
        begins = np.cumsum([0, *(len(table) for table in tables[:-1])])
        self.register_buffer("table", torch.cat(tables).detach())
        self.register_buffer("begin", torch.as_tensor(begins))

    def forward(
        self,
        encoded: Encoded,
        ages: Tensor,
        days: Tensor,
        state: SessionState,
        place: Tensor,
        codes: Tensor,
        vectors: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, ...]:
        x = self.network.loudness * vectors + F.embedding(codes + self.begin, self.table).sum(-2)
        reading, after = decode_session(self.network, (encoded, ages, days), x, place, vectors, bias, state)
        return tuple(part for part in (*reading, *(after or ())) if part is not None)


def export_graphs(network: Recommender, folder: Path) -> None:
    """Writes the graphs, for any length of history and session, one request at a time, and the vectors."""
    network = network.eval()
    items = network.items
    words = items.of_content.weight if network.config.content_tokens else items.own.weight[:1]
    with torch.inference_mode():
        matrix, item_bias = items.matrix(), items.bias.clone()
        matrix[PADDING_ITEM] = 0.0
        item_bias[:FIRST_ITEM] = MASKED
        arrays = {VECTORS: matrix, BIAS: item_bias, WORDS: words}
        for name, array in arrays.items():
            np.save(folder / name, array.cpu().numpy().astype(np.float32))
        export_scan(matrix.cpu().numpy(), item_bias.cpu().numpy(), folder / SCAN)
        events, query = _example(network.config)
        ages, days, session = _asked(events, query)
        encoded = encode_history(network, events)
        vectors, bias = matrix[session.item], item_bias[session.item]
        read = network.tokens(vectors, session)
        _, state = decode_session(network, (encoded, ages, days), read, session.place, vectors, bias)
        assert state is not None, "a recurrent decoder reads no history"  # noqa: S101
        of_events = network.items(events.item)
    long, config = Dim.DYNAMIC, network.config
    _export(
        _Encoder(network),
        _apart((of_events, *(getattr(events, name) for name in _OF_EVENTS))),
        folder / ENCODER,
        ["vectors", *_OF_EVENTS],
        list(Encoded._fields),
        ({1: long}, tuple({1: long} for _ in _OF_EVENTS)),
    )
    state_names = [name for name, part in state._asdict().items() if part is not None]
    along = SessionState._make(({3: long}, {3: long}, *(None if part is None else {1: long} for part in state[2:])))
    _export(
        _Decoder(network),
        _apart((encoded, ages, days, state, session.place, _codes(session), vectors, bias)),
        folder / DECODER,
        [*Encoded._fields, "ages", "days", *(BEFORE + name for name in state_names), *_ALONG_SESSION],
        [
            *(name for name in Reading._fields if name != "of_session" or config.sessions_repeat),
            *(AFTER + name for name in state_names),
        ],
        (
            Encoded._make(({3: long}, {3: long}, {3: long}, {1: long}, {1: long})),
            {1: long},
            None,
            along,
            *({1: long} for _ in _ALONG_SESSION),
        ),
    )


def _apart(example: Any) -> Any:
    """Copies of tensors that share no memory with others: an export takes one that comes twice for one input."""
    return pytree.tree_map_only(Tensor, torch.clone, example)


def verify_graphs(network: Recommender, folder: Path) -> float:
    """Runs the graphs beside the network and returns the largest difference between their scores; and looks whether
    the scan of all items is that of their vectors.

    Raises:
        InvariantError: they differ by more than rounding explains.
    """
    events, query = _example(network.config)
    with torch.inference_mode():
        expected = score_items(network, events, query).numpy()[0]
    vectors, bias, words = (np.load(folder / name) for name in (VECTORS, BIAS, WORDS))
    encoder, decoder, scan = (Graph(folder / name) for name in (ENCODER, DECODER, SCAN))
    given = {name: value.numpy() for name, value in events._asdict().items()}
    given["vectors"] = word_vectors(words, given["words"], vectors[given["item"]])
    ages, days, session = _asked(events, query)
    asked = encoder(given) | {"ages": ages.numpy(), "days": days.numpy()}
    item = session.item.numpy()
    asked |= {"vectors": word_vectors(words, session.words.numpy(), vectors[item]), "bias": bias[item]}
    asked |= {"place": session.place.numpy(), "codes": _codes(session).numpy()}
    state = decoder.beginning()
    for part in (slice(0, -1), slice(-1, None)):  # the last token in a session that goes on
        tokens = {name: asked[name][:, part] for name in _ALONG_SESSION}
        reading = decoder({**asked, **tokens, **state})
        state = state_after(reading)
    items = ItemVectors(vectors, bias)
    _check_rounding(items, scan, reading["direction"])
    of_history = Copies.of(query.history.numpy()[0])
    found = NextItem(items, scan, reading, of_history, item[0]).best(1, also=np.arange(len(items)))
    shares = np.full(len(items), _NEGLIGIBLE)
    np.maximum.at(shares, found.numbers, found.scores)
    scores, expected = (np.maximum(part - part.max(), _LEAST) for part in (np.log(shares), expected))
    difference = float(np.abs(scores - expected).max())
    if not difference < _ROUNDING:
        raise InvariantError(f"The ONNX graphs differ from the network by {difference:.2g} in a score")
    return difference


def _check_rounding(items: ItemVectors, scan: Graph, direction: np.ndarray) -> None:
    known = np.arange(FIRST_ITEM, len(items))
    nothing: Arrays = {
        "copies": np.zeros(1, np.int64),
        "place": np.zeros(1, np.int64),
        "copied": np.zeros(1, np.float32),
    }
    amount: Arrays = {"gone": known[:0], "offset": np.zeros(1, np.float32), "few": np.ones(1, np.int64)}
    found = scan({"direction": direction, "items": items.first, "also": known, **nothing, **amount})
    exact = items.products(direction[0]) + items.bias
    rounded = float(np.abs(found["rounded"] - exact[found["numbers"]])[-len(known) :].max(initial=0.0))
    if not rounded < _MOST_ROUNDED:
        raise InvariantError(f"The graph over all items differs from their vectors by {rounded:.2g} in a score")


def _asked(events: Events, query: Query) -> tuple[Tensor, Tensor, SessionInputs]:
    """A request as the decoder's graph reads it: ages of the history's events, days, and tokens."""
    return query.ages(), torch.zeros_like(events.days[:, 0]), query.session()


def _codes(session: SessionInputs) -> Tensor:
    """What a session says beside its items, in the order of `serving.inputs.CODES` [1, T, C]."""
    columns = [getattr(session, name).expand(session.item.shape) for name in CODES]
    return torch.stack(columns, -1)


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
