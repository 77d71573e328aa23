"""Inference with incremental decoding: encodes a history once, and decodes a session from its KV cache.

Every function takes the trained `Recommender` first. `model.export` exports these computations as ONNX graphs.
Letters in shapes as in `model.tensors`, and N decoder layers, h heads, R the rank of the age bias.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recsys_tasks.features.item_neighbors import latest_items
from recsys_tasks.model.attention import KeyValue, Rotation
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import MASKED, Events, Query
from recsys_tasks.names import FIRST_ITEM

_MIN_MASS = 1e-30


class EncodedHistory(NamedTuple):
    """Cache of a history: cross-attention keys and values of each decoder layer, and input of its pointer logits.

    Position H is an extra entry for attention to nothing, always visible. The field names are those of the ONNX graphs.
    """

    keys: Tensor  # [B, N, h, H + 1, D/h]
    values: Tensor  # [B, N, h, H + 1, D/h]
    hidden: Tensor  # [B, 1, 1, H + 1] attention bias that hides padding
    copy_key: Tensor  # [B, H, D]
    age_weight: Tensor  # [B, H, R] coefficients of the age bias


class SessionState(NamedTuple):
    """Cache of a session's tokens for the tokens that follow. The field names are those of the ONNX graphs."""

    keys: Tensor  # [B, N, h, T, D/h]
    values: Tensor  # [B, N, h, T, D/h]
    vectors: Tensor | None  # [B, T, D]; None where sessions do not repeat items
    bias: Tensor | None  # [B, T] item biases, `MASKED` for tokens without an item


class DecoderOutput(NamedTuple):
    """Output of the decoder for the next item, before items are scored.

    The score of item i is log(exp(direction · e_i + b_i) + Σ exp(pointer logits of events with item i)).
    """

    direction: Tensor  # [B, D], of length τ
    history_copy_logits: Tensor | None  # [B, H] pointer logits of the history's events
    session_copy_logits: Tensor | None  # [B, T] the same of its tokens; None where sessions do not repeat items
    neighbor_logits: Tensor | None  # [B, L] logits of the neighbors of the session's latest items, newest first
    neighbor_query: Tensor | None  # [B, D] its product with an item's vector is added to the logit of its neighbors


def encode_history(network: Recommender, events: Events) -> EncodedHistory:
    """The cache of a history."""
    return cache_history(network, network.encode(events), events)


def cache_history(network: Recommender, memory: Tensor, events: Events) -> EncodedHistory:
    """The cache of encoded events `memory` [B, H, D]; of the events' items only padding (0) is read."""
    padded = F.pad(memory, (0, 0, 0, 1))
    by = network.time_rotation(F.pad(events.days, (0, 1)))
    keys, values = _stack_layers(
        [layer.cross_attention.project_key_value(padded, by) for layer in network.decoder_layers]
    )
    padding_bias = F.pad((events.item == 0).to(memory.dtype) * MASKED, (0, 1))[:, None, None]
    age_weight = network.age_coefficients(memory, events)
    return EncodedHistory(keys, values, padding_bias, network.copy_key(memory), age_weight)


def score_items(network: Recommender, events: Events, query: Query, matrix: Tensor | None = None) -> Tensor:
    """Unnormalized log scores [B, V] of the next item; excluded items are at `MASKED`.

    `matrix` is the network's item matrix, if it was computed before.
    """
    output = decode_from_start(network, events, query)
    return output_scores(network, output, query, network.items.matrix() if matrix is None else matrix)


def output_scores(network: Recommender, output: DecoderOutput, query: Query, matrix: Tensor) -> Tensor:
    """`score_items` from the decoder's output and the item matrix [V, D]."""
    scores = trained_scores(network, output, query, matrix)
    weight = network.config.session_neighbor_weight
    return add_session_neighbors(scores, session_candidates(network, query), weight) if weight else scores


def trained_scores(network: Recommender, output: DecoderOutput, query: Query, matrix: Tensor) -> Tensor:
    """Log scores [B, V] of the trained components."""
    scores = output.direction @ matrix.T + network.items.bias  # [B, V]
    pointers = [(output.history_copy_logits, query.history), (output.session_copy_logits, query.tokens)]
    if output.neighbor_logits is not None and output.neighbor_query is not None:
        pointers.append(neighbor_pointers(network, output.neighbor_logits, output.neighbor_query, query))
    copies = [
        (logits.masked_fill(items < FIRST_ITEM, MASKED), items) for logits, items in pointers if logits is not None
    ]
    if copies:
        copy_logits, items = (torch.cat(columns, -1) for columns in zip(*copies, strict=True))
        max_logit = torch.maximum(scores.amax(-1, keepdim=True), copy_logits.amax(-1, keepdim=True))
        mass = torch.scatter_add((scores - max_logit).exp(), 1, items, (copy_logits - max_logit).exp())
        scores = mass.clamp(min=_MIN_MASS).log() + max_logit
    scores = scores.masked_fill(torch.arange(scores.shape[1], device=scores.device) < FIRST_ITEM, MASKED)
    if not network.config.sessions_repeat:
        scores = scores.scatter(1, query.tokens, torch.full_like(query.tokens, MASKED, dtype=scores.dtype))
    return scores


def session_candidates(network: Recommender, query: Query) -> tuple[Tensor, Tensor]:
    """Items [B, C], padded with 0, and log shares [B, C] of each session's neighbors."""
    tokens, length = query.tokens.cpu().numpy(), query.length.cpu().numpy()
    found = []
    for row, count in zip(tokens, length.tolist(), strict=True):
        excluded = row[:0] if network.config.sessions_repeat else row[:count]
        found.append(network.session_neighbors.candidates(row[:count], excluded))
    width = max((len(row.items) for row in found), default=0)
    items, log_share = np.zeros((len(found), width), np.int64), np.full((len(found), width), MASKED, np.float32)
    for number, row in enumerate(found):
        items[number, : len(row.items)], log_share[number, : len(row.items)] = row.items, row.log_shares
    device = query.tokens.device
    return torch.from_numpy(items).to(device), torch.from_numpy(log_share).to(device)


def add_session_neighbors(scores: Tensor, candidates: tuple[Tensor, Tensor], weight: float) -> Tensor:
    """Log scores [B, V] with the session neighbors as a further component.

    The component's mass is the weight times the mass that the candidates have so far, distributed in proportion to
    their shares. So no sum over all items is needed, and it counts only where the others give the candidates mass.
    """
    items, log_share = candidates
    if not items.shape[1]:
        return scores
    own = scores.gather(1, items)
    mass = own.masked_fill(items == 0, MASKED).logsumexp(-1, keepdim=True)
    return scores.scatter(1, items, torch.logaddexp(own, mass + math.log(weight) + log_share))


def neighbor_pointers(
    network: Recommender, neighbor_logits: Tensor, neighbor_query: Tensor, query: Query
) -> tuple[Tensor, Tensor]:
    """Logits and items [B, C] of the neighbors of the latest session items, padded with item 0."""
    tokens, length = query.tokens.cpu().numpy(), query.length.cpu().numpy()
    count = neighbor_logits.shape[1]
    latest = np.stack([latest_items(tokens[row, : length[row]], count) for row in range(len(tokens))])
    vectors = network.items(torch.from_numpy(latest).to(neighbor_query.device))  # [B, L, D]
    token_logits = (neighbor_logits + (vectors @ neighbor_query[..., None]).squeeze(-1)).cpu()
    rows = [network.item_neighbors.candidates(row) for row in latest]
    sizes = [len(row.item) for row in rows]
    items = torch.zeros((len(rows), max(sizes)), dtype=torch.long)
    logits = torch.full(items.shape, MASKED)
    for number, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        items[number, :size] = torch.from_numpy(row.item.astype(np.int64))
        logits[number, :size] = token_logits[number, torch.from_numpy(row.token)] + torch.from_numpy(row.log_weight)
    return logits.to(neighbor_logits.device), items.to(neighbor_logits.device)


def session_direction(network: Recommender, events: Events, query: Query) -> Tensor:
    """Direction [B, D] of the session; purchase intent reads it."""
    return decode_from_start(network, events, query).direction


def decode_from_start(network: Recommender, events: Events, query: Query) -> DecoderOutput:
    """The decoder's output for whole histories and sessions."""
    history = None
    if network.config.history:
        history = encode_history(network, events), query.ages(), torch.zeros_like(events.days[:, 0])
    session = query.session()
    vectors = network.event_vectors(network.items(session.item), session.words)
    bias = network.items.bias[session.item].masked_fill(session.item < FIRST_ITEM, MASKED)
    x = network.embed_tokens(vectors, session)
    return decode_session(network, history, x, session.position, vectors, bias, length=query.length)[0]


def decode_session(
    network: Recommender,
    history: tuple[EncodedHistory, Tensor, Tensor] | None,
    x: Tensor,
    position: Tensor,
    vectors: Tensor,
    bias: Tensor,
    state: SessionState | None = None,
    length: Tensor | None = None,
) -> tuple[DecoderOutput, SessionState | None]:
    """The decoder's output after tokens of a session, and the session's cache including them.

    Args:
        history: its cache; the row of the age bias of each event [B, H]; the session's start time [B], in the days of
            the events.
        x: embedded tokens [B, T, D].
        position: of the tokens in the session [B, T].
        vectors: of the tokens' items and searches [B, T, D].
        bias: of the tokens' items [B, T], `MASKED` for tokens without an item.
        state: cache of the earlier tokens; None at the start of a session.
        length: number of tokens before padding [B], where x holds whole sessions of different lengths.
    """
    x, cache = _run_decoder(network, x, history, position, state, length)
    last_state = network.decoder_norm(x).squeeze(1)
    direction = network.direction(last_state)
    history_copy_logits = None
    if history is not None and network.config.copying:
        history_copy_logits = _history_copy_logits(network, last_state, *history[:2])
    session_copy_logits = all_vectors = all_bias = None
    if network.config.sessions_repeat and network.config.copying:
        all_vectors, all_bias = vectors, bias
        if state is not None and state.vectors is not None and state.bias is not None:
            all_vectors, all_bias = torch.cat([state.vectors, vectors], 1), torch.cat([state.bias, bias], 1)
        session_copy_logits = _session_copy_logits(network, direction, all_vectors, all_bias, length)
    neighbors: tuple[Tensor | None, Tensor | None] = (None, None)
    if network.config.neighbor_tokens:
        neighbors = network.neighbor_head(last_state), network.neighbor_query(last_state)
    output = DecoderOutput(direction, history_copy_logits, session_copy_logits, *neighbors)
    return output, None if cache is None else SessionState(*cache, all_vectors, all_bias)


def _run_decoder(
    network: Recommender,
    x: Tensor,
    history: tuple[EncodedHistory, Tensor, Tensor] | None,
    position: Tensor,
    state: SessionState | None,
    length: Tensor | None,
) -> tuple[Tensor, KeyValue | None]:
    """Hidden state of the last token [B, 1, D], and keys and values [B, N, ...] of all tokens; a GRU has no cache."""
    by = network.position_rotation(position)
    if network.config.recurrent:
        for layer in network.decoder:
            x = layer(x, by, None, None)
        return _last(x, length), None
    num_cached = 0 if state is None else state.keys.shape[3]
    column = torch.arange(num_cached + position.shape[1], device=position.device)
    past: tuple[KeyValue, Tensor, Rotation] | None = None
    caches = []
    for number, layer in enumerate(network.decoder_layers):
        cache = layer.project_key_value(x, by)
        if state is not None:
            cache = KeyValue(state.keys[:, number], state.values[:, number]).append(cache)
        caches.append(cache)
        if number < len(network.decoder) - 1:
            causal_bias: Tensor | None = (column > position[..., None])[:, None] * MASKED
        else:  # only the last token's state leaves the last layer
            x, by = _last(x, length), Rotation(*(_last(part, length, 2) for part in by))
            causal_bias = None if length is None else (column >= length[:, None])[:, None, None] * MASKED
        if history is not None:
            encoded, _, session_days = history
            history_cache = KeyValue(encoded.keys[:, number], encoded.values[:, number])
            past = history_cache, encoded.hidden, network.time_rotation(session_days[:, None])
        x = layer.forward_cached(x, by, cache, causal_bias, past)
    return x, _stack_layers(caches)


def _history_copy_logits(network: Recommender, state: Tensor, encoded: EncodedHistory, ages: Tensor) -> Tensor:
    """Pointer logits [B, H] of the history's events, with the bias of their ages [B, H]."""
    query = network.copy_query(state) / math.sqrt(network.config.embedding_dim)
    age_bias = (encoded.age_weight * F.embedding(ages, network.age_table)).sum(-1) + network.age_offset[ages]
    return (encoded.copy_key @ query[..., None]).squeeze(-1) + age_bias


def _session_copy_logits(
    network: Recommender, direction: Tensor, vectors: Tensor, bias: Tensor, length: Tensor | None
) -> Tensor:
    """Pointer logits [B, T] of the session's tokens: their items' vocabulary logits plus a bias of the distance."""
    count = vectors.shape[1] if length is None else length[:, None]
    distance = count - 1 - torch.arange(vectors.shape[1], device=vectors.device)
    distance_bias = network.distance_bias[distance.clamp(min=0, max=network.config.max_positions - 1)]
    return (vectors @ direction[..., None]).squeeze(-1) + bias + distance_bias


def _last(x: Tensor, length: Tensor | None, dim: int = 1) -> Tensor:
    """The last position of each row before its padding; keeps the dimension, with size 1."""
    if length is None:
        return x.select(dim, -1).unsqueeze(dim)
    index = (length - 1).view(-1, *[1] * (x.dim() - 1)).expand_as(x.select(dim, 0).unsqueeze(dim))
    return x.gather(dim, index)


def _stack_layers(layers: list[KeyValue]) -> KeyValue:
    """Keys and values [B, N, ...] of N layers."""
    keys, values = zip(*layers, strict=True)
    return KeyValue(torch.stack(keys, 1), torch.stack(values, 1))
