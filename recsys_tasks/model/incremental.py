"""Inference with the network: the history is encoded once, a session is decoded from where it was (a KV cache).

Every function takes the trained `Recommender` first. What they compute is exported as ONNX graphs by `model.export`.
Letters in shapes as in `model.tensors`; N decoder layers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recsys_tasks.model.attention import KeyValue, Turn
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import MASKED, Events, Query
from recsys_tasks.names import FIRST_ITEM

_NEGLIGIBLE = 1e-30


class Encoded(NamedTuple):
    """What can be kept of a history between sessions: what each decoder layer attends to, and what copying reads.

    The last position [H] that is attended to is of nothing, and always visible.
    """

    keys: Tensor  # [B, N, h, H + 1, D/h] of N layers
    values: Tensor  # [B, N, h, H + 1, D/h]
    hidden: Tensor  # [B, 1, 1, H + 1] what is added to hide padding
    copy_key: Tensor  # [B, H, D]
    age_weight: Tensor  # [B, H, R] of the biases of copying at each age


class SessionState(NamedTuple):
    """What can be kept of a session's first tokens for those that follow them."""

    keys: Tensor  # [B, N, h, T, D/h] of N layers
    values: Tensor  # [B, N, h, T, D/h]
    vectors: Tensor | None  # [B, T, D]; None where no session repeats an item
    bias: Tensor | None  # [B, T] of their items, `MASKED` where there is none


class Reading(NamedTuple):
    """What a session says of the item that comes next, before any item is looked at.

    The score of item i is log(exp(direction · e_i + b_i) + the exponentials of its copies).
    """

    direction: Tensor  # [B, D], of length τ
    intent: Tensor  # [B] probability that the session goes on to buy something
    of_history: Tensor | None  # [B, H] scores of copying each event of the history
    of_session: Tensor | None  # [B, T] the same of the session; None where no session repeats an item


def encode_history(network: Recommender, events: Events) -> Encoded:
    """What of a history can be kept."""
    return cache_history(network, network.encode(events), events)


def cache_history(network: Recommender, memory: Tensor, events: Events) -> Encoded:
    """What is kept of a memory [B, H, D] of events, of whose items only 0, padding, is read."""
    padded = F.pad(memory, (0, 0, 0, 1))
    by = network.turn(F.pad(events.days, (0, 1)))
    keys, values = _stacked([layer.cross_attention.keep(padded, by) for layer in network.layers])
    hidden = F.pad((events.item == 0).to(memory.dtype) * MASKED, (0, 1))[:, None, None]
    return Encoded(keys, values, hidden, network.copy_key(memory), network.age_weight(memory))


def score_items(network: Recommender, events: Events, query: Query) -> Tensor:
    """Scores [B, V] of the next item: log masses, not normalised. Items that cannot come are at `MASKED`."""
    reading = _decode_from_start(network, events, query)
    scores = reading.direction @ network.items.matrix().T + network.items.bias  # [B, V]
    parts = ((reading.of_history, query.history), (reading.of_session, query.tokens))
    copies = [(part.masked_fill(items < FIRST_ITEM, MASKED), items) for part, items in parts if part is not None]
    if copies:
        copied, items = (torch.cat(columns, -1) for columns in zip(*copies, strict=True))
        top = torch.maximum(scores.amax(-1, keepdim=True), copied.amax(-1, keepdim=True))
        mass = torch.scatter_add((scores - top).exp(), 1, items, (copied - top).exp())
        scores = mass.clamp(min=_NEGLIGIBLE).log() + top
    scores = scores.masked_fill(torch.arange(scores.shape[1], device=scores.device) < FIRST_ITEM, MASKED)
    if not network.config.sessions_repeat:
        scores = scores.scatter(1, query.tokens, torch.full_like(query.tokens, MASKED, dtype=scores.dtype))
    return scores


def purchase_intent(network: Recommender, events: Events, query: Query) -> Tensor:
    """Probability [B] that the session goes on to buy something."""
    return _decode_from_start(network, events, query).intent


def _decode_from_start(network: Recommender, events: Events, query: Query) -> Reading:
    history = None
    if network.config.history:
        history = encode_history(network, events), query.ages(), torch.zeros_like(events.days[:, 0])
    session = query.session()
    vectors = network.with_words(network.items(session.item), session.words)
    bias = network.items.bias[session.item].masked_fill(session.item < FIRST_ITEM, MASKED)
    read = network.tokens(vectors, session)
    return decode_session(network, history, read, session.place, vectors, bias, length=query.length)[0]


def decode_session(
    network: Recommender,
    history: tuple[Encoded, Tensor, Tensor] | None,
    x: Tensor,
    place: Tensor,
    vectors: Tensor,
    bias: Tensor,
    state: SessionState | None = None,
    length: Tensor | None = None,
) -> tuple[Reading, SessionState | None]:
    """What a session says of the item that comes next, whatever items there are; and its state after that.

    Args:
        history: what was kept of it, for each event the bucket of its age, and `GAP_BUCKETS` more where it is the
            last with its item [B, H], and the time of the session's begin in the days of the events [B].
        x: the session's tokens [B, T, D]; place: theirs in the session [B, T].
        vectors: of the tokens' items and searches [B, T, D]; bias: of their items [B, T], `MASKED` where there is
            none.
        state: of the tokens before these; None where there are none.
        length: where these are the whole session and some rows end in padding, how many are not [B].
    """
    x, keys = _run_decoder(network, x, history, place, state, length)
    read = network.decoder_norm(x).squeeze(1)
    direction = network.direction(read)
    of_history = (
        None if history is None or not network.config.copying else _history_copy_logits(network, read, *history[:2])
    )
    of_session = all_vectors = all_bias = None
    if network.config.sessions_repeat and network.config.copying:
        all_vectors, all_bias = vectors, bias
        if state is not None and state.vectors is not None and state.bias is not None:
            all_vectors, all_bias = torch.cat([state.vectors, vectors], 1), torch.cat([state.bias, bias], 1)
        of_session = _session_copy_logits(network, direction, all_vectors, all_bias, length)
    reading = Reading(direction, network.intent(read).squeeze(-1).sigmoid(), of_history, of_session)
    return reading, None if keys is None else SessionState(*keys, all_vectors, all_bias)


def _run_decoder(
    network: Recommender,
    x: Tensor,
    history: tuple[Encoded, Tensor, Tensor] | None,
    place: Tensor,
    state: SessionState | None,
    length: Tensor | None,
) -> tuple[Tensor, KeyValue | None]:
    """The last token's state [B, 1, D], and what later ones read of all tokens, [B, N, ...] of N layers; a
    recurrent decoder keeps nothing."""
    by = network.turn_of(place)
    if network.config.recurrent:
        for unit in network.decoder:
            x = unit(x, by, None, None)
        return _last(x, length), None
    before = 0 if state is None else state.keys.shape[3]
    column = torch.arange(before + place.shape[1], device=place.device)
    past: tuple[KeyValue, Tensor, Turn] | None = None
    kept = []
    for number, layer in enumerate(network.layers):
        own = layer.keep(x, by)
        if state is not None:
            own = KeyValue(state.keys[:, number], state.values[:, number]).followed_by(own)
        kept.append(own)
        if number < len(network.decoder) - 1:
            later: Tensor | None = (column > place[..., None])[:, None] * MASKED
        else:  # of the last layer only the last token's state is of use
            x, by = _last(x, length), Turn(*(_last(part, length, 2) for part in by))
            later = None if length is None else (column >= length[:, None])[:, None, None] * MASKED
        if history is not None:
            encoded, _, since = history
            of_layer = KeyValue(encoded.keys[:, number], encoded.values[:, number])
            past = of_layer, encoded.hidden, network.turn(since[:, None])
        x = layer.read(x, by, own, later, past)
    return x, _stacked(kept)


def _history_copy_logits(network: Recommender, state: Tensor, encoded: Encoded, ages: Tensor) -> Tensor:
    """Scores [B, H] of copying events of the history, each at the bucket of its age."""
    query = network.copy_query(state) / math.sqrt(network.config.width)
    of_age = (encoded.age_weight * F.embedding(ages, network.age_table)).sum(-1) + network.age_offset[ages]
    return (encoded.copy_key @ query[..., None]).squeeze(-1) + of_age


def _session_copy_logits(
    network: Recommender, direction: Tensor, vectors: Tensor, bias: Tensor, length: Tensor | None
) -> Tensor:
    """Scores [B, T] of taking an item of the session again: its own, and how long ago it was."""
    count = vectors.shape[1] if length is None else length[:, None]
    distance = count - 1 - torch.arange(vectors.shape[1], device=vectors.device)
    of_distance = network.distance[distance.clamp(min=0, max=network.config.places - 1)]
    return (vectors @ direction[..., None]).squeeze(-1) + bias + of_distance


def _last(x: Tensor, length: Tensor | None, dim: int = 1) -> Tensor:
    """The last position of each row [B, ...], or the last before its padding; the dimension stays."""
    if length is None:
        return x.select(dim, -1).unsqueeze(dim)
    index = (length - 1).view(-1, *[1] * (x.dim() - 1)).expand_as(x.select(dim, 0).unsqueeze(dim))
    return x.gather(dim, index)


def _stacked(layers: list[KeyValue]) -> KeyValue:
    """Keys and values [B, N, ...] of N layers."""
    keys, values = zip(*layers, strict=True)
    return KeyValue(torch.stack(keys, 1), torch.stack(values, 1))
