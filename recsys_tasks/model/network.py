"""The network, in the order data flows: item table, encoder, decoder, and a copy head beside generation.

The copy head shares one softmax with generation (CopyNet, Gu et al. 2016): the score of item i is
log(exp(τ cos(h, e_i) + b_i) + Σ_j exp(u_j) [item_j = i]) over the events j of the history and, where sessions repeat
items, of the session so far, so that habits and discoveries compete in one distribution. The cosine keeps the
length of frequent items' vectors from deciding (Gupta et al. 2019, NISER).

Letters in shapes: B rows, W window, H history, T session tokens, S sessions, V vocabulary, D width, K negatives,
A content tokens of an item.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys_tasks.features.sequences import COUNT_BUCKETS, GAP_BUCKETS
from recsys_tasks.model.attention import (
    DecoderLayer,
    Dropout,
    EncoderLayer,
    Memory,
    RecurrentLayer,
    Turn,
    local_mask,
    turn,
)
from recsys_tasks.model.pointer_loss import copy_mass
from recsys_tasks.model.softmax import log_mass
from recsys_tasks.model.tensors import MASKED, Events, Loss, NetworkConfig, Past, Sample, SessionInputs, Window
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM

_DAYS = (1.0, 1500.0)  # periods of the time angles
_PLACES = (6.0, 600.0)  # periods of the place angles
_TEMPERATURE = 12.0  # where τ begins
_NEARNESS, _DROPPED_NEIGHBOURS = 0.5, 0.3  # where the neighbours' part begins, and how many training leaves out


class ItemTable(nn.Module):
    """An item's vector is its own plus its content's plus its neighbours'; the same table reads items and scores them.

    Content are tokens of title, categories and attributes, so that an item that was never trained on has a vector. Of
    its neighbours an item takes part of their mean, one layer of LightGCN (He et al. 2020).
    """

    content: Tensor
    neighbours: Tensor

    def __init__(self, config: NetworkConfig, content: Tensor, log_share: Tensor, neighbours: Tensor) -> None:
        super().__init__()
        self.register_buffer("content", content)  # [V, A], 0 where an item has fewer tokens
        self.register_buffer("neighbours", neighbours)  # [V, G], 0 where an item has fewer
        if config.neighbours:
            self.nearness = nn.Parameter(torch.tensor(_NEARNESS))
        self.own = nn.Embedding(config.items, config.width)
        self.bias = nn.Parameter(log_share.clone())  # [V]
        terms = 1.0
        if config.content_tokens:
            self.of_content = nn.Embedding(config.content_tokens, config.width)
            terms += float((content > 0).sum(1).float().mean())
            nn.init.normal_(self.of_content.weight, std=1 / math.sqrt(config.width * terms))
        nn.init.normal_(self.own.weight, std=1 / math.sqrt(config.width * terms))

    def forward(self, item: Tensor) -> Tensor:
        """Unit vectors [..., D] of items [...]."""
        return self._unit(self.own(item), self.content[item], self.neighbours[item])

    def matrix(self) -> Tensor:
        """Unit vectors of all items [V, D]."""
        return self._unit(self.own.weight, self.content, self.neighbours)

    def read(self, tokens: Tensor) -> Tensor:
        """Unit vectors [..., D] of content alone [..., A]: of an item that is not in the vocabulary, or of a query."""
        return F.normalize(_sums(tokens, self.of_content.weight), dim=-1)

    def _unit(self, own: Tensor, content: Tensor, neighbours: Tensor) -> Tensor:
        vectors = own
        if self.content.shape[1]:
            vectors = vectors + _sums(content, self.of_content.weight)
        if self.neighbours.shape[1]:
            if self.training:
                neighbours = neighbours * (torch.rand(neighbours.shape, device=own.device) > _DROPPED_NEIGHBOURS)
            present = (neighbours > 0).sum(-1, keepdim=True).clamp(min=1)
            vectors = vectors + self.nearness * _sums(neighbours, self.own.weight) / present
        return F.normalize(vectors, dim=-1)


class Recommender(nn.Module):
    """Encoder over a user's history, decoder over the current session, scores over all items."""

    frequency: Tensor
    place_frequency: Tensor

    def __init__(self, config: NetworkConfig, content: Tensor, log_share: Tensor, neighbours: Tensor) -> None:
        super().__init__()
        self.config = config
        width = config.width
        sizes = (width, config.heads, config.expansion, config.dropout)
        self.items = ItemTable(config, content, log_share, neighbours)
        self.kind = _table(max(EVENT_TYPE_CODES.values()) + 1, width)
        self.hour, self.weekday = _table(24, width), _table(7, width)
        self.gap, self.session_gap = _table(GAP_BUCKETS, width), _table(GAP_BUCKETS, width)
        self.place = _table(config.places, width)
        self.begin = nn.Parameter(torch.randn(width) / math.sqrt(width))
        self.loudness, self.temperature = nn.Parameter(torch.ones(())), nn.Parameter(torch.tensor(_TEMPERATURE))
        self.decoder = nn.ModuleList(
            RecurrentLayer(width, config.dropout) if config.recurrent else DecoderLayer(*sizes, config.history)
            for _ in range(config.decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.drop = Dropout(config.dropout)
        self.intent = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        turns = width // config.heads // 2
        self.register_buffer("place_frequency", _frequencies(_PLACES, turns))
        if config.history:
            self.repeats, self.recurrence = _table(COUNT_BUCKETS, width), _table(GAP_BUCKETS, width)
            self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(config.encoder_layers))
            self.encoder_norm = nn.LayerNorm(width)
            self.copy_query, self.copy_key = nn.Linear(width, width), nn.Linear(width, width)
            self.age_weight = nn.Linear(width, config.age_rank)
            self.age_table = nn.Parameter(0.1 * torch.randn(2 * GAP_BUCKETS, config.age_rank))
            self.age_offset = nn.Parameter(torch.full((2 * GAP_BUCKETS,), -3.0))
            self.register_buffer("frequency", _frequencies(_DAYS, turns))
        if config.sessions_repeat:
            self.distance = nn.Parameter(torch.full((config.places,), -1.0))

    # What training and inference share

    def encode(self, events: Events) -> Tensor:
        """Memory [B, H, D] of a history, oldest first, padded at the end (which causal attention never sees)."""
        return self.encode_vectors(self.with_words(self.items(events.item), events.words), events)

    def encode_vectors(self, x: Tensor, events: Events) -> Tensor:
        """The same from the vectors of the events' items and searches [B, H, D], whose numbers are not read."""
        x = self.loudness * x + self.kind(events.kind) + self.gap(events.gap)
        x = x + self.hour(events.hour) + self.weekday(events.weekday)
        x = self.drop(x + self.repeats(events.repeats) + self.recurrence(events.recurrence))
        by = self.turn(events.days)
        for layer in self.encoder:
            x = layer(x, by)
        memory: Tensor = self.encoder_norm(x)
        return memory

    def with_words(self, x: Tensor, words: Tensor) -> Tensor:
        """Vectors of events [B, T, D]: of a search its words', of the others their items'."""
        if not self.config.query_words or not words.shape[-1]:
            return x
        return torch.where((words > 0).any(-1, keepdim=True), self.items.read(words), x)

    def age_curve(self, memory: Tensor) -> Tensor:
        """Bias [B, H, 2 * GAP_BUCKETS] of copying each event at each age; the second half where it is the latest
        with its item."""
        return F.linear(self.age_weight(memory), self.age_table, self.age_offset)

    def _decode(self, x: Tensor, session: SessionInputs, own: Tensor | None, memory: Memory | None) -> Tensor:
        """States [B, T, D] of tokens, of which `x` are the items' or searches' vectors; row by row those that
        predict."""
        x, by = self.tokens(x, session), self.turn_of(session.place)
        for layer in self.decoder:
            x = layer(x, by, own, memory)
        state: Tensor = self.decoder_norm(x)
        return state

    def tokens(self, x: Tensor, session: SessionInputs) -> Tensor:
        """What the decoder's first layer reads [B, T, D], from vectors of the tokens' items or searches."""
        x = self.loudness * x + self.kind(session.kind) + self.gap(session.gap)
        x = torch.where(session.item[..., None] == 0, self.begin, x)
        x = x + self.place(session.place.clamp(max=self.config.places - 1))
        x = x + self.hour(session.hour) + self.weekday(session.weekday) + self.session_gap(session.since)
        read: Tensor = self.drop(x)
        return read

    def turn_of(self, place: Tensor) -> Turn:
        """Rotation of positions [B, T] in a session."""
        return turn(place[..., None] * self.place_frequency)

    def _memory(self, states: Tensor, visible: Tensor, days: Tensor, memory_days: Tensor) -> Memory:
        # A last entry of zeros is always visible: attention to nothing, with score 0 whatever the time.
        turns = (self.turn(days), self.turn(F.pad(memory_days, (0, 1))))
        return Memory(F.pad(states, (0, 0, 0, 1)), F.pad(visible, (0, 1), value=True), turns)

    def turn(self, days: Tensor) -> Turn:
        """Rotation of times [B, T] in days."""
        return turn(days[..., None] * self.frequency)

    # Training: every session of a window at all positions in one pass

    def loss(self, window: Window, sample: Sample | None = None) -> Loss:
        """The loss of a batch.

        The softmax is over all items, or over the target and a sample of negatives, and over all events that can be
        copied.
        """
        item, inputs, past = window.item, window.inputs, window.past
        table, vectors, read = self._look_up(item, inputs.item, sample)
        memory = states = own = None
        if past is not None:
            rows = torch.arange(len(item), device=item.device)[:, None]
            states = self.encode_vectors(self.with_words(vectors, past.events.words), past.events)
            own = local_mask(window.session, self.config.local_tokens)
            days = past.session_days[rows, window.session]  # [B, W]
            memory = self._memory(states, _before(past)[rows, window.session][:, None], days, past.events.days)
        state = self._decode(self.with_words(read, inputs.words), inputs, own, memory)
        known = item >= FIRST_ITEM  # [B, W]
        if past is None:
            known = known & (inputs.place > 0)  # without a history nothing tells how a session begins
        counted = known & (window.weight > 0)
        weight, wanted, direction = window.weight[counted], item[counted], self.direction(state[counted])
        generated = (direction * vectors[counted]).sum(-1) + self.items.bias[wanted]
        copied, target = torch.full_like(generated, MASKED), generated
        masses = self._copying(window, states, state, read)
        if masses is not None:
            target, copied = torch.logaddexp(generated, masses[0][counted]), masses[1][counted]
        if sample is None:
            bias = self.items.bias.masked_fill(torch.arange(len(table), device=item.device) < FIRST_ITEM, MASKED)
            total = log_mass(direction, table, bias, copied, weight)
        else:
            # The target counts once, with its own score, wherever it was drawn.
            bias = self.items.bias[sample.items] - sample.log_expected
            other = torch.logaddexp(copied, generated)
            total = log_mass(direction, table, bias, other, weight, (sample.items, wanted))
        buying = self.intent(state[known]).squeeze(-1)
        intent = F.binary_cross_entropy_with_logits(buying, window.buys[known], reduction="sum")
        return Loss(total - (weight * target).sum(), intent, weight.sum())

    def _look_up(self, item: Tensor, before: Tensor, sample: Sample | None) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors of what competes [K or V, D], of the targets and of the items before them [B, W, D].

        Each item that takes part is looked up once, however often it comes, so that its gradient is small.
        """
        if sample is None:
            table = self.items.matrix()
            return table, F.embedding(item, table), F.embedding(before, table)
        taking_part, place = torch.cat([item.flatten(), before.flatten(), sample.items]).unique(return_inverse=True)
        table = self.items(taking_part)
        here, previous, drawn = place.split([item.numel(), before.numel(), len(sample.items)])
        vectors, read = (F.embedding(part.view_as(item), table) for part in (here, previous))
        return F.embedding(drawn, table), vectors, read

    def direction(self, state: Tensor) -> Tensor:
        """States [..., D] of length τ, so that their product with an item's vector is τ times a cosine."""
        return self.temperature * F.normalize(state, dim=-1)

    def _copying(
        self, window: Window, memory: Tensor | None, state: Tensor, read: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Log mass of copying the target and of copying anything, [B, W] each; None where nothing is copied."""
        if not self.config.copying:
            return None
        scores, items = [], []
        allowed = None
        if memory is not None and window.past is not None:
            scores.append(self._history_scores(window, window.past, memory, state))
            items.append(window.item)
            if not self.config.sessions_repeat:
                rows = torch.arange(len(memory), device=memory.device)[:, None]
                column = torch.arange(memory.shape[1], device=memory.device)
                allowed = window.past.same_in_session[rows, window.session] >= column[:, None]
        if self.config.sessions_repeat:
            place = torch.arange(state.shape[1], device=state.device)
            usable = window.session[:, :, None] == window.session[:, None]
            before, bias = window.inputs.item, self.items.bias[window.inputs.item]
            again = self._again(self.direction(state), read, bias, before, place[:, None] - place)
            scores.append(again.masked_fill(~usable, MASKED))
            items.append(window.inputs.item)
        if not scores:
            return None
        copied, target = copy_mass(torch.cat(scores, -1), torch.cat(items, -1), window.item, allowed)
        return target, copied

    def _again(self, direction: Tensor, vectors: Tensor, bias: Tensor, item: Tensor, distance: Tensor) -> Tensor:
        """Scores [B, T', T] of taking an item [B, T] of the session again: its own, and how long ago it was."""
        scores = direction @ vectors.transpose(1, 2) + bias[:, None]
        scores = scores + self.distance[distance.clamp(0, self.config.places - 1)]
        return scores.masked_fill((distance < 0) | (item < FIRST_ITEM)[:, None], MASKED)

    def _history_scores(self, window: Window, past: Past, memory: Tensor, state: Tensor) -> Tensor:
        """Scores [B, W, W] of copying the events before each session."""
        query = self.copy_query(state) / math.sqrt(self.config.width)
        ages = _gap_bucket(past.session_days[:, None] - past.events.days[..., None])  # [B, W, S]
        latest = (past.next_same[..., None] >= past.session_first[:, None]).long()
        bias = self.age_curve(memory).gather(2, ages + GAP_BUCKETS * latest)
        allowed = _before(past) & (window.item >= FIRST_ITEM)[:, None]  # [B, S, W]
        bias = bias.masked_fill(~allowed.transpose(1, 2), MASKED)
        # One product gives query·key + the bias of the query's session: the session's one-hot picks its column.
        picks = F.one_hot(window.session, past.session_first.shape[1]).to(bias.dtype)  # [B, W, S]
        return torch.cat([query, picks], -1) @ torch.cat([self.copy_key(memory), bias], -1).transpose(1, 2)

    @property
    def layers(self) -> list[DecoderLayer]:
        """Those of a decoder that is not recurrent."""
        return cast("list[DecoderLayer]", list(self.decoder))


def _sums(numbers: Tensor, table: Tensor) -> Tensor:
    """Sums [..., D] of the rows [..., N] of a table; 0 is none."""
    sums = F.embedding_bag(numbers.flatten(0, -2), table, mode="sum", padding_idx=0)
    return sums.unflatten(0, numbers.shape[:-1])


def _before(past: Past) -> Tensor:
    """Which events of the window come before each session [B, S, W]."""
    column = torch.arange(past.events.item.shape[1], device=past.session_first.device)
    return column < past.session_first[..., None]


def _frequencies(periods: tuple[float, float], count: int) -> Tensor:
    return 2 * math.pi / torch.logspace(math.log10(periods[0]), math.log10(periods[1]), count)


def _table(size: int, width: int) -> nn.Embedding:
    table = nn.Embedding(size, width)
    nn.init.normal_(table.weight, std=0.5 / math.sqrt(width))
    return table


def _gap_bucket(days: Tensor) -> Tensor:
    """`features.sequences.gap_bucket` of a gap in days that is not negative."""
    return (1 + torch.log1p(days.clamp(min=0) * 1440.0) * 1.6).clamp(max=GAP_BUCKETS - 1).long()
