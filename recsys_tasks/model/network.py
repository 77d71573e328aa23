"""The network in the order of its data flow: item table, history encoder, session decoder, mixture of the components.

Three components share one softmax: generating (all items), copying (CopyNet, Gu et al. 2016) and neighbors. The score
of item i is log(exp(τ cos(h, e_i) + b_i) + Σ_j exp(u_j) [item_j = i] + Σ_t exp(v_t) P(i | item_t)), over the events j
of the history and, where sessions repeat items, of the session so far, and over the latest session items t, whose
neighbors P come from co-occurrence (`features.item_neighbors`). Habit and discovery thus compete in one distribution.
The cosine removes the popularity bias of vector lengths (Gupta et al. 2019, NISER).

Session neighbors (`features.session_neighbors`) are a fourth component, added to the scores after training, with a
weight chosen on validation.

Letters in shapes: B rows, W events of a window, H history events, T session tokens, S sessions, V items in the
vocabulary, D embedding dimension, K negatives, A content tokens of an item, G neighbors of an item.
"""

from __future__ import annotations

import math
from types import EllipsisType
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys_tasks.features.item_neighbors import ItemNeighbors
from recsys_tasks.features.sequences import COUNT_BUCKETS, GAP_BUCKETS
from recsys_tasks.features.session_neighbors import SessionNeighbors
from recsys_tasks.model.attention import (
    DecoderLayer,
    Dropout,
    EncoderLayer,
    Memory,
    RecurrentLayer,
    Rotation,
    local_mask,
    rotation,
)
from recsys_tasks.model.pointer_loss import pointer_log_mass
from recsys_tasks.model.softmax import at_least_float32, log_mass
from recsys_tasks.model.tensors import (
    MASKED,
    Events,
    ItemInputs,
    Loss,
    NegativeSample,
    NetworkConfig,
    SessionInputs,
    WindowBatch,
    WindowHistory,
)
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM

_TIME_PERIODS = (1.0, 1500.0)  # shortest and longest period of the time rotation, in days
_POSITION_PERIODS = (6.0, 600.0)  # the same of the position rotation, in positions
_INITIAL_LOGIT_SCALE = 12.0  # τ
_INITIAL_NEIGHBOR_WEIGHT, _NEIGHBOR_DROPOUT = 0.5, 0.3
_INITIAL_NEIGHBOR_LOGIT = -3.0
_AGE_WEIGHT_STD = 0.3
_ID_DROPOUT = 0.1  # share of items without their embedding in a step, from which content learns to place an item
_SPACE_DROPOUT = 0.1  # share of the items' external vectors that a step does not see, so that none is relied on alone


class ItemTable(nn.Module):
    """Item vectors, shared by input and output: normalized sum of embedding, content and neighbor mean.

    Content is the sum of content tokens, which come from title, categories and attributes, of the projected text
    vector, and of the projected vectors of the shop's own encoders, such as of images. It alone places the items
    without an embedding; to learn that, embeddings and vectors are dropped at random in training (DropoutNet, Volkovs
    et al. 2017). The neighbor mean is one layer of LightGCN (He et al. 2020).
    """

    content: Tensor
    text: Tensor
    spaces: Tensor
    neighbors: Tensor
    untrained_bias: Tensor

    def __init__(self, config: NetworkConfig, inputs: ItemInputs) -> None:
        super().__init__()
        content, log_share = inputs.content, inputs.log_share
        self.register_buffer("text", inputs.text)
        if config.text_dim:
            self.text_projection = nn.Linear(config.text_dim, config.embedding_dim, bias=False)
        # Without spaces there is no such weight, as in earlier models.
        self.register_buffer("spaces", inputs.spaces, persistent=bool(config.vector_spaces))
        self.space_dims = list(config.vector_spaces.values())
        self.kept_spaces: Tensor | None = None  # [V, spaces] in training: which vectors are not dropped
        if self.space_dims:
            self.space_projection = nn.Linear(sum(self.space_dims), config.embedding_dim, bias=False)
        self.register_buffer("content", content)
        self.register_buffer("neighbors", inputs.neighbors)
        if config.num_neighbors:
            self.neighbor_weight = nn.Parameter(torch.tensor(_INITIAL_NEIGHBOR_WEIGHT))
        num_embedded = config.num_embedded_items
        self.num_untrained = config.num_items - num_embedded
        self.kept: Tensor | None = None  # [V] in training: whether an item has an embedding that is not dropped
        self.embedding = nn.Embedding(num_embedded, config.embedding_dim)
        self.trained_bias = nn.Parameter(log_share[:num_embedded].clone())
        self.register_buffer("untrained_bias", log_share[num_embedded:].clone())
        terms = 1.0
        if config.num_content_tokens:
            self.content_embedding = nn.Embedding(config.num_content_tokens, config.embedding_dim)
            terms += float((content > 0).sum(1).float().mean())
            nn.init.normal_(self.content_embedding.weight, std=1 / math.sqrt(config.embedding_dim * terms))
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(config.embedding_dim * terms))

    def forward(self, item: Tensor) -> Tensor:
        """Unit vectors [..., D] of items [...]."""
        embedding = self.embedding(item if not self.num_untrained else item * (item < self.embedding.num_embeddings))
        kept = self._kept(item)
        embedding = embedding if kept is None else embedding * kept[..., None]
        return self._normalized_sum(
            embedding, self.content[item], self.text[item], self._kept_vectors(item), self.neighbors[item]
        )

    def matrix(self) -> Tensor:
        """Unit vectors of all items [V, D]."""
        embedding = F.pad(self.embedding.weight, (0, 0, 0, self.num_untrained))
        if self.training and self.kept is not None:
            embedding = embedding * self.kept[:, None]
        return self._normalized_sum(embedding, self.content, self.text, self._kept_vectors(...), self.neighbors)

    def drop_embeddings(self, generator: torch.Generator) -> None:
        """Draws the items whose embeddings are dropped in training until the next call, if content can place them, and
        the vectors that are."""
        if self.content.shape[1] or self.text.shape[1] or self.space_dims:
            drawn = torch.rand(self.embedding.num_embeddings, generator=generator, device="cpu") >= _ID_DROPOUT
            self.kept = F.pad(drawn.to(self.content.device), (0, self.num_untrained))
        if self.space_dims:
            shape = len(self.spaces), len(self.space_dims)
            kept = torch.rand(shape, generator=generator, device="cpu") >= _SPACE_DROPOUT
            self.kept_spaces = kept.to(self.spaces.device)

    def _kept_vectors(self, item: Tensor | EllipsisType) -> Tensor:
        """Vectors of items [..., ΣT], in training without those that are dropped."""
        vectors = self.spaces[item]
        if not self.training or self.kept_spaces is None:
            return vectors
        dims = torch.tensor(self.space_dims, device=vectors.device)
        return vectors * self.kept_spaces[item].repeat_interleave(dims, dim=-1, output_size=vectors.shape[-1])

    def _kept(self, item: Tensor) -> Tensor | None:
        """Which items [...] have an embedding that is not dropped; None for all."""
        if self.training and self.kept is not None:
            return self.kept[item]
        return item < self.embedding.num_embeddings if self.num_untrained else None

    @property
    def bias(self) -> Tensor:
        """Biases [V]: learned for items with an embedding, a popularity prior for the others."""
        return torch.cat([self.trained_bias, self.untrained_bias]) if self.num_untrained else self.trained_bias

    @torch.no_grad()
    def place_by_content(self) -> None:
        """Prepares the vectors of items that no event will train: content alone, rare tokens count more.

        Token embeddings are random. Their sums keep the similarities of token counts (random projection, Achlioptas
        2003), weighted by inverse document frequency (Spärck Jones 1972).
        """
        self.embedding.weight.zero_()
        if not self.content.shape[1]:
            return
        num_items = torch.bincount(self.content.flatten(), minlength=len(self.content_embedding.weight))
        inverse_frequency = torch.log(1 + len(self.content) / num_items.clamp(min=1))
        self.content_embedding.weight.mul_(inverse_frequency[:, None])

    def content_vectors(self, tokens: Tensor) -> Tensor:
        """Unit vectors [..., D] of content tokens [..., A] alone: of a search, or of an item outside the vocabulary."""
        return F.normalize(_sum_embeddings(tokens, self.content_embedding.weight), dim=-1)

    def _normalized_sum(
        self, embedding: Tensor, content: Tensor, text: Tensor, spaces: Tensor, neighbors: Tensor
    ) -> Tensor:
        vectors = embedding
        if self.content.shape[1]:
            vectors = vectors + _sum_embeddings(content, self.content_embedding.weight)
        if self.text.shape[1]:
            vectors = vectors + self.text_projection(text)
        if self.space_dims:
            vectors = vectors + self.space_projection(spaces)
        if self.neighbors.shape[1]:
            if self.training:
                neighbors = neighbors * (torch.rand(neighbors.shape, device=embedding.device) > _NEIGHBOR_DROPOUT)
            count = (neighbors > 0).sum(-1, keepdim=True).clamp(min=1)
            vectors = vectors + self.neighbor_weight * _sum_embeddings(neighbors, self.embedding.weight) / count
        return F.normalize(vectors, dim=-1)


class Recommender(nn.Module):
    """Encoder over a user's history, decoder over the current session, logits over all items."""

    time_frequencies: Tensor
    position_frequencies: Tensor

    def __init__(self, config: NetworkConfig, inputs: ItemInputs) -> None:
        super().__init__()
        self.config = config
        dim = config.embedding_dim
        sizes = (dim, config.num_heads, config.ffn_multiplier, config.dropout)
        self.items = ItemTable(config, inputs)
        self.kind_embedding = _embedding(max(EVENT_TYPE_CODES.values()) + 1, dim)
        self.hour_embedding, self.weekday_embedding = _embedding(24, dim), _embedding(7, dim)
        self.gap_embedding, self.session_gap_embedding = _embedding(GAP_BUCKETS, dim), _embedding(GAP_BUCKETS, dim)
        self.position_embedding = _embedding(config.max_positions, dim)
        self.start_token = nn.Parameter(torch.randn(dim) / math.sqrt(dim))
        self.input_scale = nn.Parameter(torch.ones(()))
        self.logit_scale = nn.Parameter(torch.tensor(_INITIAL_LOGIT_SCALE))  # τ
        self.decoder = nn.ModuleList(
            RecurrentLayer(dim, config.dropout) if config.recurrent else DecoderLayer(*sizes, config.history)
            for _ in range(config.num_decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(config.dropout)
        num_frequencies = dim // config.num_heads // 2
        self.register_buffer("position_frequencies", _frequencies(_POSITION_PERIODS, num_frequencies))
        if config.history:
            self.repeats_embedding = _embedding(COUNT_BUCKETS, dim)
            self.recurrence_embedding = _embedding(GAP_BUCKETS, dim)
            self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(config.num_encoder_layers))
            self.encoder_norm = nn.LayerNorm(dim)
            self.copy_query, self.copy_key = nn.Linear(dim, dim), nn.Linear(dim, dim)
            self.age_weight = nn.Linear(dim, config.age_rank)
            self.repeats_age_weight = nn.Embedding(COUNT_BUCKETS, config.age_rank)
            self.recurrence_age_weight = nn.Embedding(GAP_BUCKETS, config.age_rank)
            self.age_table = nn.Parameter(0.1 * torch.randn(2 * GAP_BUCKETS, config.age_rank))
            self.age_offset = nn.Parameter(torch.full((2 * GAP_BUCKETS,), -3.0))
            for table in (self.repeats_age_weight, self.recurrence_age_weight):
                nn.init.normal_(table.weight, std=_AGE_WEIGHT_STD)
            self.register_buffer("time_frequencies", _frequencies(_TIME_PERIODS, num_frequencies))
        if config.sessions_repeat:
            self.distance_bias = nn.Parameter(torch.full((config.max_positions,), -1.0))
        if config.neighbor_tokens:
            self.neighbor_head = nn.Linear(dim, config.neighbor_tokens)
            self.neighbor_query = nn.Linear(dim, dim, bias=False)
            nn.init.zeros_(self.neighbor_head.weight)
            nn.init.zeros_(self.neighbor_query.weight)
            nn.init.constant_(self.neighbor_head.bias, _INITIAL_NEIGHBOR_LOGIT)
        self.item_neighbors = ItemNeighbors.none(config.num_items)
        self.session_neighbors = SessionNeighbors.none(config.num_items)

    # Shared by training and inference

    def encode(self, events: Events) -> Tensor:
        """Hidden states [B, H, D] of events, oldest first. Causal attention never sees the padding at the end."""
        return self.encode_vectors(self.event_vectors(self.items(events.item), events.words), events)

    def encode_vectors(self, x: Tensor, events: Events) -> Tensor:
        """`encode` from vectors [B, H, D] of the events; ignores the events' item numbers and words."""
        x = self.input_scale * x + self.kind_embedding(events.kind) + self.gap_embedding(events.gap)
        x = x + self.hour_embedding(events.hour) + self.weekday_embedding(events.weekday)
        x = x + self.repeats_embedding(events.repeats) + self.recurrence_embedding(events.recurrence)
        x = self.dropout(x)
        by = self.time_rotation(events.days)
        for layer in self.encoder:
            x = layer(x, by)
        memory: Tensor = self.encoder_norm(x)
        return memory

    def event_vectors(self, item_vectors: Tensor, words: Tensor) -> Tensor:
        """Vectors of events [B, T, D]: the words' vector for a search, the item's vector otherwise."""
        if not self.config.query_words or not words.shape[-1]:
            return item_vectors
        return torch.where((words > 0).any(-1, keepdim=True), self.items.content_vectors(words), item_vectors)

    def age_coefficients(self, memory: Tensor, events: Events) -> Tensor:
        """Coefficients [B, H, R] of the pointer bias: how an event's age matters.

        That depends on the event's state and, learned within few steps, on how often and after how long its item was
        taken again: what is taken each week is due after a week.
        """
        by_recurrence = self.repeats_age_weight(events.repeats) + self.recurrence_age_weight(events.recurrence)
        coefficients: Tensor = self.age_weight(memory) + by_recurrence
        return coefficients

    def age_bias(self, memory: Tensor, events: Events) -> Tensor:
        """Pointer bias [B, H, 2 * GAP_BUCKETS] of each event at each age.

        The second half is for an event that is the latest with its item.
        """
        return F.linear(self.age_coefficients(memory, events), self.age_table, self.age_offset)

    @property
    def mixture_parameters(self) -> list[nn.Parameter]:
        """Scales, and offsets of the mixture's components: few parameters, which every event trains."""
        parameters = [self.logit_scale, self.input_scale]
        if self.config.history:
            modules = (self.age_weight, self.repeats_age_weight, self.recurrence_age_weight)
            parameters += [self.age_table, self.age_offset]
            parameters += [parameter for module in modules for parameter in module.parameters()]
        if self.config.sessions_repeat:
            parameters.append(self.distance_bias)
        if self.config.neighbor_tokens:
            parameters.append(self.neighbor_head.bias)
        return parameters

    def _decode(self, x: Tensor, session: SessionInputs, session_mask: Tensor | None, memory: Memory | None) -> Tensor:
        """Hidden states [B, T, D] of tokens, from the vectors x [B, T, D] of their items or searches."""
        x, by = self.embed_tokens(x, session), self.position_rotation(session.position)
        for layer in self.decoder:
            x = layer(x, by, session_mask, memory)
        state: Tensor = self.decoder_norm(x)
        return state

    def embed_tokens(self, x: Tensor, session: SessionInputs) -> Tensor:
        """Input of the first decoder layer [B, T, D], from the vectors x [B, T, D] of the tokens' items or searches."""
        x = self.input_scale * x + self.kind_embedding(session.kind) + self.gap_embedding(session.gap)
        x = torch.where(session.item[..., None] == 0, self.start_token, x)
        x = x + self.position_embedding(session.position.clamp(max=self.config.max_positions - 1))
        x = x + self.hour_embedding(session.hour) + self.weekday_embedding(session.weekday)
        x = x + self.session_gap_embedding(session.session_gap)
        embedded: Tensor = self.dropout(x)
        return embedded

    def position_rotation(self, position: Tensor) -> Rotation:
        """Rotation by positions [B, T] in a session."""
        return rotation(position[..., None] * self.position_frequencies)

    def time_rotation(self, days: Tensor) -> Rotation:
        """Rotation by times [B, T] in days."""
        return rotation(days[..., None] * self.time_frequencies)

    def _memory(self, states: Tensor, visible: Tensor, days: Tensor, memory_days: Tensor) -> Memory:
        # A last entry of zeros is always visible. It lets a token attend to nothing, with score 0 at any time.
        rotations = (self.time_rotation(days), self.time_rotation(F.pad(memory_days, (0, 1))))
        return Memory(F.pad(states, (0, 0, 0, 1)), F.pad(visible, (0, 1), value=True), rotations)

    # Training: one pass over all positions of a window

    def loss(self, window: WindowBatch, sample: NegativeSample | None = None) -> Loss:
        """Loss of a batch: softmax over all items, or over the target and sampled negatives, and over the pointers."""
        item, inputs, past = window.item, window.inputs, window.past
        table, target_vectors, input_vectors = self._look_up(item, inputs.item, sample)
        state, states = self._window_states(window, target_vectors, input_vectors)
        known = item >= FIRST_ITEM  # [B, W]
        if past is None:
            known = known & (inputs.position > 0)  # without a history a session's first item is not predictable
        counted = known & (window.weight > 0)
        weight, target, direction = window.weight[counted], item[counted], self.direction(state[counted])
        target_logit = (direction * target_vectors[counted]).sum(-1) + self.items.bias[target]
        copied, target_mass = torch.full_like(target_logit, MASKED), target_logit
        pointer_masses = self._pointer_log_masses(window, states, state, input_vectors)
        if pointer_masses is not None:
            target_mass = torch.logaddexp(target_logit, pointer_masses[0][counted])
            copied = pointer_masses[1][counted]
        if window.recent is not None and window.recent_log_weight is not None:
            logits = self._neighbor_logits(state, input_vectors, window.recent)[counted]
            neighbor_target = (logits + window.recent_log_weight[counted]).logsumexp(-1)
            neighbor_total = logits.logsumexp(-1)
            target_mass = torch.logaddexp(target_mass, neighbor_target)
            copied = torch.logaddexp(copied, neighbor_total)
        if sample is None:
            bias = self.items.bias.masked_fill(torch.arange(len(table), device=item.device) < FIRST_ITEM, MASKED)
            total = log_mass(direction, table, bias, copied, weight)
        else:
            # The target counts once, by its exact logit; its occurrences among the negatives are excluded.
            bias = self.items.bias[sample.items] - sample.log_expected
            other = torch.logaddexp(copied, target_logit)
            total = log_mass(direction, table, bias, other, weight, (sample.items, target))
        return Loss(total - (weight * target_mass).sum(), weight.sum())

    def window_directions(self, window: WindowBatch) -> Tensor:
        """Directions [B, W, D] of the session before each event of a window; what `training.purchase_intent` reads."""
        return self.direction(self._window_states(window, self.items(window.item), self.items(window.inputs.item))[0])

    def _window_states(
        self, window: WindowBatch, target_vectors: Tensor, input_vectors: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden states of the tokens and of the encoded events [B, W, D]; the latter are None without a history."""
        inputs, past = window.inputs, window.past
        memory = states = session_mask = None
        if past is not None:
            rows = torch.arange(len(window.item), device=window.item.device)[:, None]
            states = self.encode_vectors(self.event_vectors(target_vectors, past.events.words), past.events)
            session_mask = local_mask(window.session, self.config.local_tokens)
            days = past.session_days[rows, window.session]  # [B, W]
            visible = _precedes_session(past)[rows, window.session][:, None]  # [B, 1, W, W]
            memory = self._memory(states, visible, days, past.events.days)
        return self._decode(self.event_vectors(input_vectors, inputs.words), inputs, session_mask, memory), states

    def _look_up(
        self, target: Tensor, previous: Tensor, sample: NegativeSample | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors of the candidates [K or V, D], of the targets and of the previous items [B, W, D].

        With negatives each distinct item is embedded once, so that the gradient has a row per distinct item only.
        """
        if sample is None:
            table = self.items.matrix()
            return table, F.embedding(target, table), F.embedding(previous, table)
        distinct, row = torch.cat([target.flatten(), previous.flatten(), sample.items]).unique(return_inverse=True)
        table = self.items(distinct)
        target_rows, previous_rows, sample_rows = row.split([target.numel(), previous.numel(), len(sample.items)])
        vectors, previous_vectors = (F.embedding(rows.view_as(target), table) for rows in (target_rows, previous_rows))
        return F.embedding(sample_rows, table), vectors, previous_vectors

    def direction(self, state: Tensor) -> Tensor:
        """States [..., D] scaled to length τ: the product with an item's unit vector is τ times their cosine."""
        return self.logit_scale * F.normalize(state, dim=-1)

    def _pointer_log_masses(
        self, window: WindowBatch, memory: Tensor | None, state: Tensor, input_vectors: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Log mass of copying the target and of copying any event, [B, W] each; None where nothing can be copied."""
        if not self.config.copying:
            return None
        logits, items = [], []
        allowed = None
        if memory is not None and window.past is not None:
            logits.append(self._history_copy_logits(window, window.past, memory, state))
            items.append(window.item)
            if not self.config.sessions_repeat:
                rows = torch.arange(len(memory), device=memory.device)[:, None]
                column = torch.arange(memory.shape[1], device=memory.device)
                allowed = window.past.same_in_session[rows, window.session] >= column[:, None]
        if self.config.sessions_repeat:
            column = torch.arange(state.shape[1], device=state.device)
            same_session = window.session[:, :, None] == window.session[:, None]
            item = window.inputs.item
            distance = column[:, None] - column
            repeat_logits = self._session_copy_logits(
                self.direction(state), input_vectors, self.items.bias[item], item, distance
            )
            logits.append(repeat_logits.masked_fill(~same_session, MASKED))
            items.append(item)
        if not logits:
            return None
        copied, target = pointer_log_mass(torch.cat(logits, -1), torch.cat(items, -1), window.item, allowed)
        return target, copied

    def _neighbor_logits(self, state: Tensor, input_vectors: Tensor, recent: Tensor) -> Tensor:
        """Logits [B, W, L] of the neighbors of the latest session items `recent` [B, W, L], newest first."""
        column = torch.arange(state.shape[1], device=state.device)
        place = (column[:, None] - torch.arange(recent.shape[2], device=state.device)).clamp(min=0)  # [W, L]
        match = self.neighbor_query(state) @ input_vectors.transpose(1, 2)  # [B, W, W]
        logits = self.neighbor_head(state) + match.gather(2, place.expand(len(state), -1, -1))
        return at_least_float32(logits).masked_fill(recent == 0, MASKED)

    def _session_copy_logits(
        self, direction: Tensor, vectors: Tensor, bias: Tensor, item: Tensor, distance: Tensor
    ) -> Tensor:
        """Logits [B, T', T] of repeating the session's items [B, T]: vocabulary logit plus a bias of the distance."""
        logits = direction @ vectors.transpose(1, 2) + bias[:, None]
        logits = logits + self.distance_bias[distance.clamp(0, self.config.max_positions - 1)]
        return logits.masked_fill((distance < 0) | (item < FIRST_ITEM)[:, None], MASKED)

    def _history_copy_logits(self, window: WindowBatch, past: WindowHistory, memory: Tensor, state: Tensor) -> Tensor:
        """Logits [B, W, W] of copying the events before each session."""
        query = self.copy_query(state) / math.sqrt(self.config.embedding_dim)
        ages = _gap_bucket(past.session_days[:, None] - past.events.days[..., None])  # [B, W, S]
        is_latest = (past.next_same[..., None] >= past.session_first[:, None]).long()
        bias = self.age_bias(memory, past.events).gather(2, ages + GAP_BUCKETS * is_latest)
        allowed = _precedes_session(past) & (window.item >= FIRST_ITEM)[:, None]  # [B, S, W]
        bias = bias.masked_fill(~allowed.transpose(1, 2), MASKED)
        # One product gives query · key plus the bias of the query's session: its one-hot code selects the column.
        one_hot = F.one_hot(window.session, past.session_first.shape[1]).to(bias.dtype)  # [B, W, S]
        return torch.cat([query, one_hot], -1) @ torch.cat([self.copy_key(memory), bias], -1).transpose(1, 2)

    @property
    def decoder_layers(self) -> list[DecoderLayer]:
        """Layers of a Transformer decoder."""
        return cast("list[DecoderLayer]", list(self.decoder))


def _sum_embeddings(numbers: Tensor, table: Tensor) -> Tensor:
    """Sums [..., D] of table rows [..., N]; row 0 is padding."""
    sums = F.embedding_bag(numbers.flatten(0, -2), table, mode="sum", padding_idx=0)
    return sums.unflatten(0, numbers.shape[:-1])


def _precedes_session(past: WindowHistory) -> Tensor:
    """Whether each event of the window precedes each session [B, S, W]."""
    column = torch.arange(past.events.item.shape[1], device=past.session_first.device)
    return column < past.session_first[..., None]


def _frequencies(periods: tuple[float, float], count: int) -> Tensor:
    """Angular frequencies [count] whose periods are spaced logarithmically."""
    return 2 * math.pi / torch.logspace(math.log10(periods[0]), math.log10(periods[1]), count)


def _embedding(size: int, embedding_dim: int) -> nn.Embedding:
    table = nn.Embedding(size, embedding_dim)
    nn.init.normal_(table.weight, std=0.5 / math.sqrt(embedding_dim))
    return table


def _gap_bucket(days: Tensor) -> Tensor:
    """`features.sequences.gap_bucket` of a non-negative gap in days."""
    return (1 + torch.log1p(days.clamp(min=0) * 1440.0) * 1.6).clamp(max=GAP_BUCKETS - 1).long()
