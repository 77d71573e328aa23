"""Encoder and decoder of one bundle: encodes user histories and decodes sessions incrementally, with LRU caches."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from recsys_tasks.engine.bundle import DECODER, ENCODER, Bundle
from recsys_tasks.engine.cache import LRUCache
from recsys_tasks.engine.explanations import ActionHistory
from recsys_tasks.engine.graphs import STATE_INPUT, Graph, next_state
from recsys_tasks.engine.inputs import (
    History,
    SessionContext,
    SessionEvent,
    Tokens,
    concatenate,
    history_inputs,
    start_tokens,
)
from recsys_tasks.engine.purchase_intent import PurchaseIntent
from recsys_tasks.engine.scoring import CopyCandidates, word_vectors
from recsys_tasks.engine.throttle import Throttle
from recsys_tasks.errors import BundleCorrupt
from recsys_tasks.features.sequences import MAX_TOKENS, QUERY_WORDS, Arrays
from recsys_tasks.features.session_summary import summarize_session
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, SEARCH, UNKNOWN_ITEM

MAX_HISTORY_EVENTS = 512  # that the encoder reads
MAX_STORED_EVENTS = 8_192  # over which repetitions are counted
DEFAULT_CACHE_BYTES = 64 << 20
_NO_WORDS = np.zeros(QUERY_WORDS, np.int64)
_SESSIONS_FRACTION = 4  # a quarter of the cache is for sessions
_IDLE_FRACTION = 4  # an engine that no longer serves keeps a quarter of its history cache
_KEYS_AXIS, _TOKENS_AXIS = 3, 1
_TIME_AXIS = {"keys": _KEYS_AXIS, "values": _KEYS_AXIS, "vectors": _TOKENS_AXIS, "bias": _TOKENS_AXIS}


class Action(msgspec.Struct, frozen=True):
    """One user action: an event with an item, or a search (no item, but a query). Seconds since 1970."""

    item_id: str
    event_type: str
    seconds: float
    session_id: str | None = None
    event_id: str | None = None
    query: str = ""
    user_id: str | None = None


ActionKeys = tuple[tuple[str, str, float, str], ...]
"""Item id, event type, seconds and query of each action: the cache key of a sequence of actions."""


def events_before(history: History, end: int) -> History:
    """Returns the latest events of a history before an index, as many as a bundle stores of a user."""
    return history.first(end).last(MAX_STORED_EVENTS)


class CachedHistory(NamedTuple):
    """Cache entry of a user: the encoded history before a session."""

    action_keys: ActionKeys  # actions since the bundle's cut-off
    full_history: History  # events of the bundle and of `action_keys`
    end: int  # number of events before the session
    events: History  # the last MAX_HISTORY_EVENTS of them
    inputs: Arrays
    encoded: Arrays
    copies: CopyCandidates
    actions: ActionHistory
    has_signal: bool  # whether the model can use it: a known item or a search
    now: float
    token: object  # identity of this entry

    def size_bytes(self) -> int:
        """Approximate memory in bytes."""
        return _size_bytes(self.inputs) + _size_bytes(self.encoded) + sum(column.nbytes for column in self.full_history)


class DecodedSession(NamedTuple):
    """Cache entry of a session: its tokens and the decoder's state after the first of them. Does not hold the
    history."""

    history_token: object  # token of the `CachedHistory` it was decoded with
    now: float  # start of the session
    context: SessionContext
    action_keys: ActionKeys
    tokens: Tokens
    latest_seconds: float  # time of the latest action
    num_decoded: int  # number of tokens in `state`
    state: Arrays  # KV cache

    def size_bytes(self) -> int:
        """Approximate memory in bytes."""
        tokens = self.tokens.columns.nbytes + self.tokens.words.nbytes
        return _size_bytes(self.context.inputs) + _size_bytes(self.state) + tokens


class SessionDecoder:
    """Runs encoder and decoder of one bundle; caches encoded histories and session states. Not thread-safe.

    Args:
        bundle: graphs, vectors and user histories.
        max_bytes: limit of both caches together.

    Raises:
        BundleCorrupt: a graph cannot be loaded, or has no session state.
    """

    def __init__(self, bundle: Bundle, max_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._bundle = bundle
        self._max_bytes = max_bytes
        self._encoder, self._decoder = (Graph(bundle.folder / name) for name in (ENCODER, DECODER))
        self._initial_state = self._decoder.initial_state()
        if not self._initial_state:
            raise BundleCorrupt(
                "The model's graphs were exported by an older version of this package; promote it again"
            )
        self._reset_caches()

    def _reset_caches(self) -> None:
        session_bytes = self._max_bytes // _SESSIONS_FRACTION
        self._histories: LRUCache[str | None, CachedHistory] = LRUCache(
            self._max_bytes - session_bytes, CachedHistory.size_bytes
        )
        self._sessions: LRUCache[tuple[str | None, float], DecodedSession] = LRUCache(
            session_bytes, DecodedSession.size_bytes
        )

    def with_bundle(self, bundle: Bundle, updates: Mapping[str, object]) -> SessionDecoder:
        """Returns a decoder for the same model with updated items; keeps cached histories without these items."""
        decoder = copy.copy(self)
        decoder._bundle = bundle
        decoder._reset_caches()
        for user_id, history in reversed(self._histories.items_by_recency()):
            if not any(item_id in updates for item_id, *_ in history.action_keys):
                decoder._histories.put(user_id, history)
        return decoder

    def encode_history(self, user_id: str | None, past: Sequence[Action], now: float) -> tuple[CachedHistory, bool]:
        """Returns a user's encoded history before a time, and whether it was cached.

        Args:
            user_id: key of the user's history in the bundle; None for an anonymous visitor.
            past: the user's actions since the bundle's cut-off.
            now: start of the session; later actions are excluded, as are those of the same instant.
        """
        action_keys = tuple((action.item_id, action.event_type, action.seconds, action.query) for action in past)
        cached = self._histories.get(user_id)  # for None, only the empty history is cached
        is_same = cached is not None and cached.action_keys == action_keys
        full_history = cached.full_history if cached is not None and is_same else self._load_history(user_id, past)
        end = int(np.searchsorted(full_history.seconds, now))
        if cached is not None and is_same and cached.end == end:
            return cached, True
        known = events_before(full_history, end)
        events, inputs = known.last(MAX_HISTORY_EVENTS), history_inputs(known, MAX_HISTORY_EVENTS)
        encoded = self._encoder({**inputs, "vectors": self._event_vectors(inputs["item"], inputs["words"])})
        history = CachedHistory(
            action_keys,
            full_history,
            end,
            events,
            inputs,
            encoded,
            CopyCandidates.from_events(inputs["item"][0]),
            ActionHistory.from_events(events.item, events.kind),
            self._is_usable(events.item, events.words),
            now,
            object(),
        )
        if user_id is not None or not action_keys:
            self._histories.put(user_id, history)
        return history, False

    def resume_session(
        self, user_id: str | None, history: CachedHistory, actions: Sequence[Action], now: float
    ) -> DecodedSession:
        """Returns a session with the longest cached prefix of its tokens.

        Args:
            user_id: the session's user; None for an anonymous visitor.
            history: the encoded history before the session.
            actions: actions of the session, oldest first.
            now: start of the session.
        """
        action_keys = tuple(
            (action.item_id, action.event_type, max(action.seconds, now), action.query)
            for action in actions
            if self._is_readable(action)
        )
        cached = self._sessions.get((user_id, now))
        if cached is None or cached.history_token is not history.token:
            context = SessionContext.from_history(history.events, history.inputs, now)
            cached = DecodedSession(
                history.token, now, context, (), start_tokens(QUERY_WORDS), now, 0, self._initial_state
            )
        prefix = _common_prefix_length(cached.action_keys, action_keys)
        tokens, num_decoded = cached.tokens.first(1 + prefix), min(cached.num_decoded, 1 + prefix)
        num_skipped = max(len(action_keys) - MAX_TOKENS + 1, 0)
        if num_skipped:  # the window slides: every token changes its position at each request
            prefix, tokens, num_decoded = num_skipped, tokens.first(1), 0
        if prefix:
            previous_seconds: float | None = action_keys[prefix - 1][2]
        else:
            previous_seconds = float(history.events.seconds[-1]) if history.end else None
        tokens = tokens.append([self._to_event(*key) for key in action_keys[prefix:]], previous_seconds)
        return cached._replace(
            action_keys=() if num_skipped else action_keys,
            tokens=tokens,
            latest_seconds=action_keys[-1][2] if action_keys else now,
            num_decoded=num_decoded,
        )

    def decode(self, user_id: str | None, history: CachedHistory, session: DecodedSession) -> Arrays:
        """Returns the decoder's outputs for a session; decodes only the tokens that the KV cache lacks."""
        tokens, start = session.tokens, min(session.num_decoded, len(session.tokens.words) - 1)
        state = {name: _truncate(name, value, start) for name, value in session.state.items()}
        items, inputs = tokens.columns[None, 0, start:], tokens.inputs(start, session.context.features)
        inputs["vectors"] = self._event_vectors(items, tokens.words[None, start:])
        inputs["bias"] = self._bundle.items.bias[items]
        reading = self._decoder({**history.encoded, **session.context.inputs, **state, **inputs})
        is_cacheable = user_id is not None or not history.action_keys
        if session.action_keys and is_cacheable:
            decoded = session._replace(num_decoded=len(tokens.words), state=next_state(reading))
            self._sessions.put((user_id, session.now), decoded)
        return reading

    def has_signal(self, history: CachedHistory, session: DecodedSession) -> bool:
        """Whether history or session has an event that the model can use."""
        return history.has_signal or self._is_usable(session.tokens.columns[0], session.tokens.words)

    def _is_usable(self, item: np.ndarray, words: np.ndarray) -> bool:
        return bool(item.max(initial=0) >= FIRST_ITEM or (self._bundle.has_query_input and words.any()))

    def forget(self, user_id: str | None) -> None:
        """Drops a user's cache entries, and all anonymous sessions, which may be the user's."""
        self._histories.discard(user_id)
        for key, _ in self._sessions.items_by_recency():
            if key[0] in (None, user_id):
                self._sessions.discard(key)

    def warm_cache(self, serving: SessionDecoder, seconds: float) -> None:
        """Encodes the histories of another decoder's most recent users, within a number of seconds.

        The other decoder may answer and forget users meanwhile; a user it forgets is dropped here too.
        """
        deadline, throttle = time.perf_counter() + seconds, Throttle()
        for user_id, history in serving._histories.items_by_recency():
            if time.perf_counter() > deadline or self._histories.free_bytes < history.size_bytes():
                return
            if user_id is None:
                continue
            past = [Action(item, kind, at, query=query) for item, kind, at, query in history.action_keys]
            self.encode_history(user_id, past, history.now)
            self._histories.demote(user_id)
            if user_id not in serving._histories:
                self.forget(user_id)
            throttle()

    def shrink_cache(self) -> None:
        """Shrinks the caches of a decoder that no longer serves."""
        session_bytes = self._max_bytes // _SESSIONS_FRACTION
        self._histories.shrink((self._max_bytes - session_bytes) // _IDLE_FRACTION)
        self._sessions.shrink(0)

    def _load_history(self, user_id: str | None, past: Sequence[Action]) -> History:
        """A user's events in time order: those of the bundle and those since its cut-off, without duplicates."""
        history = History(*self._bundle.histories.of(user_id))
        if not self._bundle.has_query_input:
            history = History(*(column[history.kind != EVENT_TYPE_CODES[SEARCH]] for column in history))
        if history.words.shape[1] != QUERY_WORDS:
            history = history._replace(words=np.zeros((len(history.item), QUERY_WORDS), np.int64))
        actions = [action for action in past if self._is_readable(action)]
        if not actions:
            return concatenate(history)
        new = self._to_history(actions)
        stored = set(_event_keys(history))
        if stored:
            new = History(*(column[[key not in stored for key in _event_keys(new)]] for column in new))
        history = concatenate(history, new)
        order = np.argsort(history.seconds, kind="stable")
        return History(*(column[order] for column in history))

    def _is_readable(self, action: Action) -> bool:
        """Whether the model has an input for an action: for a search, only if it was trained on searches."""
        return action.event_type in EVENT_TYPE_CODES and (self._bundle.has_query_input or action.event_type != SEARCH)

    def _to_history(self, actions: Sequence[Action]) -> History:
        """Converts actions column by column: ten times as fast as `_to_event` for each, and histories are long."""
        vocabulary = self._bundle.vocabulary
        words = np.zeros((len(actions), QUERY_WORDS), np.int64)
        for index, action in enumerate(actions):
            if action.query:
                words[index] = vocabulary.encode_query(action.query)
        return History(
            vocabulary.numbers([action.item_id for action in actions]),
            np.asarray([EVENT_TYPE_CODES[action.event_type] for action in actions], np.int64),
            np.asarray([action.seconds for action in actions], np.float64),
            words,
        )

    def _to_event(self, item_id: str, event_type: str, seconds: float, query: str) -> SessionEvent:
        vocabulary = self._bundle.vocabulary
        number = vocabulary.number_of.get(item_id, UNKNOWN_ITEM)
        words = vocabulary.encode_query(query) if query else _NO_WORDS
        return SessionEvent(number, EVENT_TYPE_CODES[event_type], seconds, words)

    def _event_vectors(self, items: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Vectors [1, L, D] of events: the query's for a search, else the item's."""
        vectors = self._bundle.items[items]
        return word_vectors(self._bundle.words, words, vectors) if self._bundle.has_query_input else vectors


def predict_session_intent(
    intent: PurchaseIntent, direction: np.ndarray, history: CachedHistory, session: DecodedSession
) -> float | None:
    """Returns the probability that a session has a purchase from here on; None where the model has no purchase intent.

    Args:
        intent: of the bundle.
        direction: the decoder's output for the session [1, D].
        history: the encoded history before the session.
        session: the session.
    """
    if not intent.is_available:
        return None
    item, kind, gap, _ = session.tokens.columns[:, 1:]  # without the start token
    past = history.events
    summary = summarize_session(
        (item, kind, gap),
        session.latest_seconds - session.now,
        session.context.features,
        (past.item, past.kind, past.seconds),
    )
    items = intent.items.features(item, np.zeros(1, np.int64), np.asarray([len(item)]))
    return float(intent.predict(direction, np.concatenate([summary, items], 1))[0])


def _event_keys(history: History) -> zip[tuple[float, int]]:
    """Time in milliseconds and item number of each event: what identifies an event that is known from two sources."""
    return zip(np.rint(history.seconds * 1e3).tolist(), history.item.tolist(), strict=True)


def _common_prefix_length(one: ActionKeys, other: ActionKeys) -> int:
    limit = min(len(one), len(other))
    if one[:limit] == other[:limit]:
        return limit
    return next(index for index in range(limit) if one[index] != other[index])


def _truncate(name: str, value: np.ndarray, count: int) -> np.ndarray:
    """One array of the KV cache, cut to its first tokens."""
    axis = _TIME_AXIS[name.removeprefix(STATE_INPUT)]
    return value if value.shape[axis] == count else np.ascontiguousarray(value[(slice(None),) * axis + (slice(count),)])


def _size_bytes(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())
