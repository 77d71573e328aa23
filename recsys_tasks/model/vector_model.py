"""Plugin models: item vectors and a module that encodes a session, with their ONNX export.

The score of an item is the dot product of its vector and the session's, plus the item's bias. Exported to the graphs of
a bundle, such a model answers at the endpoint like the built-in one, search and similar items included, but without
copying, neighbors and purchase intent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from recsys_tasks.engine.bundle import (
    BIAS,
    DECODER,
    ENCODER,
    INTENT,
    NETWORK,
    SCAN,
    SECOND_STAGE,
    VECTORS,
    VOCABULARY,
    WORDS,
)
from recsys_tasks.engine.graphs import STATE_INPUT, STATE_OUTPUT, Graph, next_state
from recsys_tasks.engine.purchase_intent import PurchaseIntent
from recsys_tasks.engine.scoring import ItemVectors
from recsys_tasks.errors import InvariantError
from recsys_tasks.features.item_neighbors import ItemNeighbors
from recsys_tasks.features.session_neighbors import SessionNeighbors
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.export import check_quantization, export_graph
from recsys_tasks.model.files import PLUGIN_MODEL
from recsys_tasks.model.scoring_graph import export_scoring_graph
from recsys_tasks.model.tensors import MASKED
from recsys_tasks.names import FIRST_ITEM, PADDING_ITEM

NO_INTENT = PurchaseIntent(reason="The model has no purchase intent")
_MAX_DIFFERENCE = 1e-3  # of a session's vector, between module and graph
_MAX_NORM_ERROR = 1e-3
_EXAMPLE_HISTORY, _EXAMPLE_SESSION = 7, 4  # lengths


@dataclass(frozen=True)
class VectorModel:
    """A fitted plugin model.

    Attributes:
        vectors: unit vectors of the items [V, D], by which similar items are found; zeros of items that the model does
            not know.
        bias: of the items [V].
        session: maps item vectors of the events before the session [1, H, D] and of those of the session
            [1, 1 + T, D], oldest first, to a vector [1, D]. The first row of the session is its start, of zeros. An
            empty history is one row of zeros, and so is an item that the model does not know. It must be exportable by
            `torch.onnx` for any H and T.
        parameters: of the model, for its MLflow run.
    """

    vectors: np.ndarray
    bias: np.ndarray
    session: nn.Module
    parameters: Mapping[str, object] = field(default_factory=dict)

    def served_vectors(self) -> np.ndarray:
        """Vectors of the items as the endpoint reads them [V, D]: zeros for the numbers that are no items."""
        vectors = self.vectors.astype(np.float32)
        vectors[:FIRST_ITEM] = 0.0
        return vectors

    @torch.inference_mode()
    def direction(self, vectors: Tensor, history: np.ndarray, session: np.ndarray) -> np.ndarray:
        """Vector of a session [D].

        Args:
            vectors: `served_vectors` [V, D].
            history, session: item numbers of the events before the session and in it, oldest first.
        """
        start = np.asarray([PADDING_ITEM])
        numbers = history if len(history) else start, np.concatenate([start, session])
        inputs = (vectors[torch.from_numpy(items.astype(np.int64))][None] for items in numbers)
        found: np.ndarray = self.session(*inputs)[0].numpy()
        return found


class _Encoder(nn.Module):
    def forward(self, vectors: Tensor) -> Tensor:
        return vectors * 1.0  # a graph needs an operation


class _Decoder(nn.Module):
    """The session's vector; its state is the vectors of the tokens so far."""

    def __init__(self, session: nn.Module, sessions_repeat: bool) -> None:
        super().__init__()
        self.session, self.sessions_repeat = session, sessions_repeat

    def forward(self, history: Tensor, before: Tensor, vectors: Tensor) -> tuple[Tensor, ...]:
        tokens = torch.cat([before, vectors], 1)
        # Without the output of the session's tokens, their items are excluded from lists.
        copied = [history, tokens] if self.sessions_repeat else [history]
        return (self.session(history, tokens), *(torch.full_like(part[..., 0], MASKED) for part in copied), tokens)


def export_vector_model(
    name: str, model: VectorModel, vocabulary: Vocabulary, sessions_repeat: bool, folder: Path
) -> None:
    """Writes the files of a model that a bundle contains.

    Args:
        name: of the model.
        model: fitted.
        vocabulary: of its items.
        sessions_repeat: whether lists may have items of the session.
        folder: to write to.

    Raises:
        InvariantError: the arrays do not fit the vocabulary, or the graphs differ from the model.
    """
    _check_shapes(name, model, len(vocabulary))
    vectors, bias = model.served_vectors(), model.bias.astype(np.float32)
    bias[:FIRST_ITEM] = MASKED
    dim = vectors.shape[1]
    for file, array in {
        VECTORS: vectors,
        BIAS: bias,
        WORDS: np.zeros((max(len(vocabulary.token_names), 1), dim), np.float32),
    }.items():
        np.save(folder / file, array)
    config = {PLUGIN_MODEL: name, "query_words": 0, "is_trained": True, "session_neighbor_weight": 0.0}
    (folder / NETWORK).write_text(json.dumps(config, indent=2), encoding="utf-8")
    vocabulary.save(folder / VOCABULARY)
    NO_INTENT.save(folder / INTENT)
    (folder / SECOND_STAGE).write_bytes(b"")
    ItemNeighbors.none(len(vocabulary)).save(folder)
    SessionNeighbors.none(len(vocabulary)).save(folder)
    export_scoring_graph(vectors, bias, folder / SCAN)
    random = torch.Generator().manual_seed(0)
    history, before, tokens = (
        torch.randn(1, length, dim, generator=random) for length in (_EXAMPLE_HISTORY, _EXAMPLE_SESSION, 2)
    )
    decoder, dynamic = _Decoder(model.session.eval(), sessions_repeat).eval(), {1: Dim.DYNAMIC}
    outputs = ["direction", "of_history", *(["of_session"] if sessions_repeat else []), STATE_OUTPUT + "vectors"]
    export_graph(_Encoder(), (history,), folder / ENCODER, ["vectors"], ["history"], (dynamic,))
    inputs = ["history", STATE_INPUT + "vectors", "vectors"]
    export_graph(decoder, (history, before, tokens), folder / DECODER, inputs, outputs, (dynamic, dynamic, dynamic))
    _verify(name, model, folder)


def _check_shapes(name: str, model: VectorModel, num_items: int) -> None:
    if model.vectors.ndim != 2 or len(model.vectors) != num_items or model.bias.shape != (num_items,):
        raise InvariantError(
            f"Model {name} has item vectors {model.vectors.shape} and biases {model.bias.shape}; the vocabulary has"
            f" {num_items} items, so that they must be ({num_items}, D) and ({num_items},)"
        )
    if not (np.isfinite(model.vectors).all() and np.isfinite(model.bias).all()):
        raise InvariantError(f"Model {name} has item vectors or biases that are not finite")
    norms = np.linalg.norm(model.vectors[FIRST_ITEM:], axis=1)
    if (np.minimum(norms, np.abs(norms - 1)) > _MAX_NORM_ERROR).any():
        raise InvariantError(
            f"Model {name} has item vectors of other lengths than 1 and 0. Normalize them; the session's vector"
            " may have any length"
        )


@torch.inference_mode()
def _verify(name: str, model: VectorModel, folder: Path) -> None:
    """Compares the graphs, run token by token, with the model."""
    encoder, decoder, scan = (Graph(folder / file) for file in (ENCODER, DECODER, SCAN))
    items = ItemVectors(np.load(folder / VECTORS), np.load(folder / BIAS))
    numbers = np.arange(3) + min(FIRST_ITEM, len(items) - 3)
    history, session = items[numbers][None], items[np.concatenate([[PADDING_ITEM], numbers[::-1]])][None]
    inputs, state = encoder({"vectors": history}), decoder.initial_state()
    for position in range(session.shape[1]):
        found = decoder({**inputs, **state, "vectors": session[:, position : position + 1]})
        state = next_state(found)
    expected = model.session(torch.from_numpy(history), torch.from_numpy(session)).numpy()
    difference = float(np.abs(found["direction"] - expected).max())
    if not difference < _MAX_DIFFERENCE:
        raise InvariantError(f"The exported graph of model {name} differs from its module by {difference:.2g}")
    check_quantization(items, scan, found["direction"])


def is_vector_model(folder: Path) -> bool:
    """Whether a folder has the files of a plugin model."""
    return PLUGIN_MODEL in json.loads((folder / NETWORK).read_text(encoding="utf-8"))
