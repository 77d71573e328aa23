"""Configuration of the network, and the tensors that its training and inference read and return.

Letters in shapes: B rows, W events of a window, H history events, T session tokens, S sessions, V items in the
vocabulary, D embedding dimension, K negatives, A content tokens of an item.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from recsys_tasks.features.sequences import GAP_BUCKETS

MASKED = -1e4  # logit of an excluded entry; finite, so that a fully masked row still has a gradient


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes and parts of the network. The fields are the keys of `network.json`.

    Attributes:
        num_items: size of the item vocabulary, reserved numbers included.
        num_trained_items: how many of them have an embedding of their own; 0 for all. The others, at the end, are
            placed by their content alone.
        num_content_tokens: size of the content-token vocabulary; 0 without content.
        text_dim: dimension of the items' text vectors; 0 without a text encoder.
        vector_spaces: dimension of the items' vectors in each space of the shop's own encoders.
        history: whether the encoder exists. Without it a row is a single session.
        sessions_repeat: whether an item may occur twice in a session.
        copying: whether pointer logits over history and session events are added to the vocabulary logits.
        recurrent: whether the decoder is a GRU instead of a Transformer; it cannot read a history.
        query_words: number of words read of each search; 0 if searches are not read.
        embedding_dim, num_heads: D and the number of attention heads.
        num_encoder_layers, num_decoder_layers: number of layers.
        ffn_multiplier: hidden size of the feed-forward maps, in multiples of D.
        dropout: probability.
        max_positions: number of position embeddings; later positions share the last one.
        local_tokens: in training a token attends to at least this many earlier tokens of its session.
        num_neighbors: number of co-occurring items that contribute to an item's vector.
        neighbor_tokens: number of a session's latest items whose neighbors are a component of the mixture; 0 without.
        age_rank: rank of the age bias of the pointer logits.
        discovery_weight: factor on the mass of generated items and neighbors after the training; see
            `training.component_weights`.
        session_neighbor_weight: mass of the session neighbors, as a multiple of the mass that the other components give
            to the same items; 0 turns them off.
        is_trained: whether the network was trained. Before there are sessions to train on, only the items' content
            vectors are used.
    """

    num_items: int
    num_trained_items: int = 0
    num_content_tokens: int = 0
    text_dim: int = 0
    vector_spaces: dict[str, int] = field(default_factory=dict)
    history: bool = True
    sessions_repeat: bool = False
    copying: bool = True
    recurrent: bool = False
    query_words: int = 0
    embedding_dim: int = 64
    num_heads: int = 2
    num_encoder_layers: int = 1
    num_decoder_layers: int = 1
    ffn_multiplier: int = 2
    dropout: float = 0.0
    max_positions: int = 64
    local_tokens: int = 64
    num_neighbors: int = 0
    neighbor_tokens: int = 0
    age_rank: int = 16
    discovery_weight: float = 1.0
    session_neighbor_weight: float = 0.0
    is_trained: bool = True

    @property
    def num_embedded_items(self) -> int:
        """Number of items with an embedding of their own."""
        return self.num_trained_items or self.num_items


class ItemInputs(NamedTuple):
    """What is known of the items before the training.

    Attributes:
        content: content tokens, padded with 0 [V, A].
        text: text vectors [V, text_dim].
        spaces: vectors of the shop's own encoders [V, ΣT].
        log_share: logarithm of the expected share of future events [V].
        neighbors: co-occurring items, padded with 0 [V, G].
    """

    content: Tensor
    text: Tensor
    spaces: Tensor
    log_share: Tensor
    neighbors: Tensor


class Events(NamedTuple):
    """Encoder input, [B, H] each; see `features.sequences.encoder_inputs`."""

    item: Tensor
    kind: Tensor
    hour: Tensor
    weekday: Tensor
    gap: Tensor
    repeats: Tensor
    recurrence: Tensor
    days: Tensor
    words: Tensor  # [B, H, A] of a search


class Query(NamedTuple):
    """Decoder input of a running session; see `features.sequences.session_inputs`."""

    history: Tensor  # [B, H]
    age_bucket: Tensor  # [B, H]
    is_last: Tensor  # [B, H]
    tokens: Tensor  # [B, T]
    token_kinds: Tensor  # [B, T]
    token_gaps: Tensor  # [B, T]
    token_words: Tensor  # [B, T, A]
    length: Tensor  # [B]
    hour: Tensor  # [B]
    weekday: Tensor  # [B]
    session_gap: Tensor  # [B]

    def ages(self) -> Tensor:
        """Row of the pointer's age bias for each history event [B, H]."""
        return self.age_bucket + GAP_BUCKETS * self.is_last

    def session(self) -> SessionInputs:
        """The session's tokens."""
        position = torch.arange(self.tokens.shape[1], device=self.tokens.device).expand(self.tokens.shape)
        session_columns = (self.hour, self.weekday, self.session_gap)
        columns = (self.tokens, self.token_kinds, self.token_gaps, self.token_words, position)
        return SessionInputs(*columns, *(column[:, None] for column in session_columns))


class WindowHistory(NamedTuple):
    """History of the sessions of a window: the window's own earlier events; see `model.windows`."""

    events: Events
    session_days: Tensor  # [B, S] start time of each session, in days
    session_first: Tensor  # [B, S] column of each session's first event
    next_same: Tensor  # [B, W] column of the next event with the same item
    same_in_session: Tensor  # [B, S, W] first column in session s of the item of event j; W if it does not occur


class SessionInputs(NamedTuple):
    """Session tokens [B, T]. Each holds the event before the one that it predicts."""

    item: Tensor
    kind: Tensor
    gap: Tensor
    words: Tensor  # [B, T, A]
    position: Tensor
    hour: Tensor
    weekday: Tensor
    session_gap: Tensor  # bucket of the time since the previous session


class WindowBatch(NamedTuple):
    """A training batch: B windows of W events of one user each, cut into S sessions; see `model.windows`."""

    item: Tensor  # [B, W] targets
    inputs: SessionInputs  # decoder input that predicts each target
    session: Tensor  # [B, W] number of the session in the window
    weight: Tensor  # [B, W] weight of each target in the loss
    past: WindowHistory | None  # None where rows are single sessions
    recent: Tensor | None = None  # [B, W, L] latest session items before each target, newest first; 0 without neighbors
    recent_log_weight: Tensor | None = None  # [B, W, L] log weight of each target as their neighbor


class ComponentWeights(NamedTuple):
    """Weights of the mixture's components that validation chooses; see `NetworkConfig`."""

    discovery: float = 1.0
    session_neighbors: float = 0.0


class Loss(NamedTuple):
    """Sums over a batch: cross entropy of the next item, weight of the targets."""

    next_item: Tensor
    targets: Tensor


class NegativeSample(NamedTuple):
    """Negatives [K] shared by all targets, and the log of how often each is expected in the sample [K].

    Subtracting the latter from the logits corrects for the sampling (Bengio and Senécal 2008).
    """

    items: Tensor
    log_expected: Tensor
