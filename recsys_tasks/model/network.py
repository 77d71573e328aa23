"""The network, in the order data flows: item table, encoder, decoder, and a copy head beside generation.

The copy head shares one softmax with generation (CopyNet, Gu et al. 2016): the score of item i is
log(exp(h·e_i + b_i) + Σ_j exp(u_j) [item_j = i]) over the events j of the history, so that habits and
discoveries compete in one distribution.

Letters in shapes: B rows, W window, H history, T session tokens, S sessions, V vocabulary, D width, K negatives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys_tasks.features.sequences import COUNT_BUCKETS, GAP_BUCKETS
from recsys_tasks.model.attention import DecoderLayer, EncoderLayer, local_mask
from recsys_tasks.model.copying import CopyMass
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM

MASKED = -1e4  # finite, so that a row in which nothing is allowed still has a gradient
_DAYS = (1.0, 1500.0)  # periods of the time angles
_NEGLIGIBLE = 1e-30


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network. `sessions_repeat` says whether an item may come twice in a session."""

    items: int
    category_sizes: tuple[int, ...] = ()
    sessions_repeat: bool = False
    width: int = 64
    heads: int = 2
    encoder_layers: int = 1
    decoder_layers: int = 1
    expansion: int = 2
    dropout: float = 0.0
    places: int = 64
    local_tokens: int = 32  # in training a token sees at least this many of its session before it
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


class Query(NamedTuple):
    """What the decoder reads of a running session; see `features.sequences.query_inputs`."""

    history: Tensor  # [B, H]
    age_bucket: Tensor  # [B, H]
    is_last: Tensor  # [B, H]
    tokens: Tensor  # [B, T]
    token_kinds: Tensor  # [B, T]
    length: Tensor  # [B]
    hour: Tensor  # [B]
    weekday: Tensor  # [B]
    session_gap: Tensor  # [B]


class Window(NamedTuple):
    """A training batch: B windows of W events of one user each, cut into S sessions; see `model.windows`."""

    events: Events
    previous: Tensor  # [B, W] item before in the session, 0 at its beginning
    previous_kind: Tensor  # [B, W]
    place: Tensor  # [B, W] place in the session
    session: Tensor  # [B, W] number of the session in the window
    session_hour: Tensor  # [B, W]
    session_weekday: Tensor  # [B, W]
    session_gap: Tensor  # [B, W]
    session_days: Tensor  # [B, S]
    session_first: Tensor  # [B, S] where each session begins
    next_same: Tensor  # [B, W] where the item comes next
    same_in_session: Tensor  # [B, S, W] where in session s the item of event j comes first; W: nowhere


class ItemTable(nn.Module):
    """An item's vector is its own plus its categories'; the same table reads items and scores them."""

    categories: Tensor

    def __init__(self, config: NetworkConfig, categories: Tensor, log_share: Tensor) -> None:
        super().__init__()
        self.register_buffer("categories", categories)  # [V, levels]
        self.own = nn.Embedding(config.items, config.width)
        self.of_category = nn.ModuleList(nn.Embedding(size, config.width) for size in config.category_sizes)
        self.bias = nn.Parameter(log_share.clone())  # [V]
        for table in (self.own, *self.of_category):
            nn.init.normal_(table.weight, std=1 / math.sqrt(config.width * (1 + len(config.category_sizes))))

    def forward(self, item: Tensor) -> Tensor:
        """Vectors [..., D] of items [...]."""
        vector: Tensor = self.own(item)
        for level, table in enumerate(self.of_category):
            vector = vector + table(self.categories[:, level][item])
        return vector

    def matrix(self) -> Tensor:
        """Vectors of all items [V, D]."""
        vector = self.own.weight
        for level, table in enumerate(self.of_category):
            vector = vector + table(self.categories[:, level])
        return vector


class Recommender(nn.Module):
    """Encoder over a user's history, decoder over the current session, scores over all items."""

    frequency: Tensor

    def __init__(self, config: NetworkConfig, categories: Tensor, log_share: Tensor) -> None:
        super().__init__()
        self.config = config
        width = config.width
        sizes = (width, config.heads, config.expansion, config.dropout)
        self.items = ItemTable(config, categories, log_share)
        self.kind = _table(max(EVENT_TYPE_CODES.values()) + 1, width)
        self.hour, self.weekday = _table(24, width), _table(7, width)
        self.gap, self.session_gap = _table(GAP_BUCKETS, width), _table(GAP_BUCKETS, width)
        self.repeats, self.recurrence = _table(COUNT_BUCKETS, width), _table(GAP_BUCKETS, width)
        self.place = _table(config.places, width)
        self.begin = nn.Parameter(torch.randn(width) / math.sqrt(width))
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(config.decoder_layers))
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.drop = nn.Dropout(config.dropout)
        self.copy_query, self.copy_key = nn.Linear(width, width), nn.Linear(width, width)
        self.age_weight = nn.Linear(width, config.age_rank)
        self.age_table = nn.Parameter(0.1 * torch.randn(2 * GAP_BUCKETS, config.age_rank))
        self.age_offset = nn.Parameter(torch.full((2 * GAP_BUCKETS,), -3.0))
        periods = torch.logspace(math.log10(_DAYS[0]), math.log10(_DAYS[1]), width // config.heads // 2)
        self.register_buffer("frequency", 2 * math.pi / periods)

    # What training and inference share

    def encode(self, events: Events) -> Tensor:
        """Memory [B, H, D] of a history, oldest first, padded at the end (which causal attention never sees)."""
        x = self.items(events.item) + self.kind(events.kind)
        x = x + self.hour(events.hour) + self.weekday(events.weekday) + self.gap(events.gap)
        x = self.drop(x + self.repeats(events.repeats) + self.recurrence(events.recurrence))
        angle = self._angle(events.days)
        for layer in self.encoder:
            x = layer(x, angle)
        memory: Tensor = self.encoder_norm(x)
        return memory

    def age_curve(self, memory: Tensor) -> Tensor:
        """Bias [B, H, 2 * GAP_BUCKETS] of copying each event at each age; the second half where it is the latest
        with its item."""
        return F.linear(self.age_weight(memory), self.age_table, self.age_offset)

    def _read_session(
        self, item: Tensor, kind: Tensor, place: Tensor, hour: Tensor, weekday: Tensor, session_gap: Tensor
    ) -> Tensor:
        x = torch.where(item[..., None] == 0, self.begin, self.items(item) + self.kind(kind))
        x = x + self.place(place.clamp(max=self.config.places - 1)) + self.hour(hour) + self.weekday(weekday)
        read: Tensor = self.drop(x + self.session_gap(session_gap))
        return read  # [B, T, D]

    def _decode(
        self, x: Tensor, memory: Tensor, own: Tensor | None, visible: Tensor, days: Tensor, memory_days: Tensor
    ) -> Tensor:
        # A last entry of zeros is always visible: attention to nothing, with score 0 whatever the time.
        memory = F.pad(memory, (0, 0, 0, 1))
        visible = F.pad(visible, (0, 1), value=True)
        angles = (self._angle(days), self._angle(F.pad(memory_days, (0, 1))))
        for layer in self.decoder:
            x = layer(x, memory, own, visible, angles)
        state: Tensor = self.decoder_norm(x)
        return state  # [B, T, D]

    def _angle(self, days: Tensor) -> Tensor:
        return (days[:, :, None] * self.frequency)[:, None]  # [B, T] -> [B, 1, T, D/h/2]

    # Training: every session of a window at all positions in one pass

    def loss(self, window: Window, negatives: Tensor, log_expected: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the targets' cross entropies, and their number.

        The softmax is over the target, `negatives` [K] shared by all positions, corrected by the logarithm of
        how often each was expected to be drawn (Bengio and Senécal 2008), and all events that can be copied.
        """
        events, item = window.events, window.events.item
        rows = torch.arange(len(item), device=item.device)[:, None]
        column = torch.arange(item.shape[1], device=item.device)
        memory = self.encode(events)
        before = column < window.session_first[..., None]  # [B, S, W]
        x = self._read_session(
            window.previous,
            window.previous_kind,
            window.place,
            window.session_hour,
            window.session_weekday,
            window.session_gap,
        )
        own = local_mask(window.session, self.config.local_tokens)
        days = window.session_days[rows, window.session]  # [B, W]
        state = self._decode(x, memory, own, before[rows, window.session][:, None], days, events.days)
        known = item >= FIRST_ITEM  # [B, W]
        target, total = self._generation(state[known], item[known], negatives, log_expected)
        copied_target, copied = self._copying(window, memory, state, before & known[:, None])
        target = torch.logaddexp(target, copied_target[known])
        total = torch.logaddexp(total, copied[known])
        return (total - target).sum(), known.sum()

    def _generation(
        self, state: Tensor, item: Tensor, negatives: Tensor, log_expected: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log mass of the targets and of everything generated, [N] each, for states [N, D]."""
        target = (state * self.items(item)).sum(-1) + self.items.bias[item]
        other = torch.addmm(self.items.bias[negatives] - log_expected, state, self.items(negatives).T)  # [N, K]
        other = other.masked_fill(negatives == item[:, None], MASKED)
        return target, torch.logaddexp(target, other.logsumexp(-1))

    def _copying(self, window: Window, memory: Tensor, state: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """Log mass of copying the target and of copying anything, [B, W] each."""
        events, sessions = window.events, window.session_first.shape[1]
        rows = torch.arange(len(memory), device=memory.device)[:, None]
        column = torch.arange(memory.shape[1], device=memory.device)
        ages = _gap_bucket(window.session_days[:, None] - events.days[..., None])  # [B, W, S]
        latest = (window.next_same[..., None] >= window.session_first[:, None]).long()
        bias = self.age_curve(memory).gather(2, ages + GAP_BUCKETS * latest)
        bias = bias.masked_fill(~allowed.transpose(1, 2), MASKED)
        # One product gives query·key + the bias of the query's session: the session's one-hot picks its column.
        picks = F.one_hot(window.session, sessions).to(bias.dtype)  # [B, W, S]
        query = torch.cat([self.copy_query(state) / math.sqrt(self.config.width), picks], -1)
        key = torch.cat([self.copy_key(memory), bias], -1)
        scores = query @ key.transpose(1, 2)  # [B, W, W]
        fresh = None
        if not self.config.sessions_repeat:
            fresh = window.same_in_session[rows, window.session] >= column[:, None]
        copied, copied_target = CopyMass.apply(scores, events.item, fresh)
        return copied_target, copied

    # Inference: the history is encoded once, sessions are decoded per request

    def encode_history(self, events: Events) -> tuple[Tensor, Tensor, Tensor]:
        """What of a history can be kept: memory [B, H, D], copy keys [B, H, D], copy biases [B, H, 2 * GAP_BUCKETS]."""
        memory = self.encode(events)
        return memory, self.copy_key(memory), self.age_curve(memory)

    def decode_session(
        self, memory: Tensor, copy_key: Tensor, age_curve: Tensor, memory_days: Tensor, query: Query
    ) -> Tensor:
        """Scores [B, V] of the next item: log masses, not normalised. Items that cannot come are at `MASKED`."""
        place = torch.arange(query.tokens.shape[1], device=query.tokens.device)[None]
        x = self._read_session(
            query.tokens,
            query.token_kinds,
            place,
            query.hour[:, None],
            query.weekday[:, None],
            query.session_gap[:, None],
        )
        visible = (query.history > 0)[:, None, None]  # [B, 1, 1, H]
        now = torch.zeros_like(query.length[:, None]).to(memory_days.dtype)  # days count from the session's start
        states = self._decode(x, memory, None, visible, now, memory_days)
        last = (query.length - 1)[:, None, None].expand(-1, 1, states.shape[-1])
        state = states.gather(1, last).squeeze(1)  # [B, D]
        generated = state @ self.items.matrix().T + self.items.bias  # [B, V]
        copied = (copy_key @ (self.copy_query(state) / math.sqrt(self.config.width))[..., None]).squeeze(-1)
        age = query.age_bucket + GAP_BUCKETS * query.is_last
        copied = copied + age_curve.gather(2, age[..., None]).squeeze(-1)
        copied = copied.masked_fill(query.history < FIRST_ITEM, MASKED)  # [B, H]
        top = torch.maximum(generated.amax(-1, keepdim=True), copied.amax(-1, keepdim=True))
        mass = torch.scatter_add((generated - top).exp(), 1, query.history, (copied - top).exp())
        scores = mass.clamp(min=_NEGLIGIBLE).log() + top
        scores = scores.masked_fill(torch.arange(scores.shape[1], device=scores.device) < FIRST_ITEM, MASKED)
        if not self.config.sessions_repeat:
            scores = scores.scatter(1, query.tokens, torch.full_like(query.tokens, MASKED, dtype=scores.dtype))
        return scores


def _table(size: int, width: int) -> nn.Embedding:
    table = nn.Embedding(size, width)
    nn.init.normal_(table.weight, std=0.5 / math.sqrt(width))
    return table


def _gap_bucket(days: Tensor) -> Tensor:
    """`features.sequences.gap_bucket` of a gap in days that is not negative."""
    return (1 + torch.log1p(days.clamp(min=0) * 1440.0) * 1.6).clamp(max=GAP_BUCKETS - 1).long()
