"""Configuration and tensors of the network: what its training and its inference read and return.

Letters in shapes: B rows, W window, H history, T session tokens, S sessions, V vocabulary, D width, K negatives,
A content tokens of an item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from recsys_tasks.features.sequences import GAP_BUCKETS

MASKED = -1e4  # finite, so that a row in which nothing is allowed still has a gradient


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network.

    Attributes:
        items: how many numbers the vocabulary has; content_tokens: the same of content tokens.
        history: whether there is one to read; without it there is no encoder and a row is one session.
        sessions_repeat: whether an item may come twice in a session.
        query_words: how many words of a search are read; 0 where nothing is searched.
        copying: whether items of the history and the session are copied beside generating.
        recurrent: a decoder of recurrent units instead of attention, which cannot read a history.
        neighbours: how many items that come in the same sessions take part in an item's vector.
        local_tokens: in training a token sees at least this many of its session before it.
    """

    items: int
    content_tokens: int = 0
    history: bool = True
    sessions_repeat: bool = False
    copying: bool = True
    recurrent: bool = False
    query_words: int = 0
    width: int = 64
    heads: int = 2
    encoder_layers: int = 1
    decoder_layers: int = 1
    expansion: int = 2
    dropout: float = 0.0
    places: int = 64
    local_tokens: int = 64
    neighbours: int = 0
    age_rank: int = 8


class Events(NamedTuple):
    """What the encoder reads, [B, H] each; see `features.sequences.event_inputs`."""

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
    """What the decoder reads of a running session; see `features.sequences.query_inputs`."""

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
        """Where in the copy head's curves each event of the history is [B, H]."""
        return self.age_bucket + GAP_BUCKETS * self.is_last

    def session(self) -> SessionInputs:
        """Its tokens."""
        place = torch.arange(self.tokens.shape[1], device=self.tokens.device).expand(self.tokens.shape)
        begin = (self.hour, self.weekday, self.session_gap)
        columns = (self.tokens, self.token_kinds, self.token_gaps, self.token_words, place)
        return SessionInputs(*columns, *(column[:, None] for column in begin))


class Past(NamedTuple):
    """What the sessions of a window have before them: the window's own events; see `model.windows`."""

    events: Events
    session_days: Tensor  # [B, S]
    session_first: Tensor  # [B, S] where each session begins
    next_same: Tensor  # [B, W] where the item comes next
    same_in_session: Tensor  # [B, S, W] where in session s the item of event j comes first; W: nowhere


class SessionInputs(NamedTuple):
    """Tokens of a session [B, T], each of which reads the event before the one it predicts."""

    item: Tensor
    kind: Tensor
    gap: Tensor
    words: Tensor
    place: Tensor
    hour: Tensor
    weekday: Tensor
    since: Tensor  # bucket of the time since the session before


class Window(NamedTuple):
    """A training batch: B windows of W events of one user each, cut into S sessions; see `model.windows`."""

    item: Tensor  # [B, W]
    inputs: SessionInputs  # what the decoder reads to predict each of them
    session: Tensor  # [B, W] number of the session in the window
    weight: Tensor  # [B, W] how much each counts as what is to be predicted
    buys: Tensor  # [B, W] 1 where the session buys something with the event or later
    past: Past | None  # None where rows are single sessions


class Loss(NamedTuple):
    """Sums over a batch's targets: cross entropies of the next item, and of whether the session buys; and of what the
    targets count."""

    next_item: Tensor
    intent: Tensor
    targets: Tensor


class Sample(NamedTuple):
    """Negatives [K] that all targets share, and the logarithm of how often each was expected to be drawn.

    Subtracting that from the scores corrects for the drawing (Bengio and Senécal 2008).
    """

    items: Tensor
    log_expected: Tensor
