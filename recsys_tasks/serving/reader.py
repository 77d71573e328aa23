"""Reads what a user did: a history is encoded once and kept, and a session is decoded from where it was."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from recsys_tasks.errors import BundleCorrupt
from recsys_tasks.features.sequences import QUERY_WORDS, Arrays
from recsys_tasks.names import EVENT_TYPE_CODES
from recsys_tasks.serving.bundle import DECODER, ENCODER, Bundle
from recsys_tasks.serving.graphs import BEFORE, Graph, state_after
from recsys_tasks.serving.inputs import History, Tokens, history_inputs, joined, moment_inputs, session_tokens
from recsys_tasks.serving.pace import rest_after
from recsys_tasks.serving.recent import Recent
from recsys_tasks.serving.scoring import Copies, word_vectors

HISTORY = 512
KEPT_BYTES = 64 << 20
_OF_SESSIONS = 4  # a quarter of that is for them
_RESTING = 4  # of an engine that does not serve, a quarter stays
_ALONG_KEYS, _ALONG_TOKENS = 3, 1
_AXIS = {"keys": _ALONG_KEYS, "values": _ALONG_KEYS, "vectors": _ALONG_TOKENS, "bias": _ALONG_TOKENS}


@dataclass(frozen=True)
class Action:
    """One thing a user did with an item, or a search (which has no item, but a query); seconds since 1970."""

    item_id: str
    event_type: str
    seconds: float
    session_id: str | None = None
    event_id: str | None = None
    query: str = ""


Happened = tuple[tuple[str, str, float, str], ...]


class Past(NamedTuple):
    """What is kept of a user between answers, for the same events until the same place in the history."""

    happened: Happened  # since the bundle's cut-off
    known: History  # with those before it
    end: int  # how many of them came before the session
    events: History  # the last of those
    inputs: Arrays
    encoded: Arrays
    copies: Copies
    now: float

    def bytes(self) -> int:
        """How much memory that takes, roughly."""
        return _bytes(self.inputs) + _bytes(self.encoded) + sum(column.nbytes for column in self.known)


class _Session(NamedTuple):
    """What is kept of a session between answers, over the same history."""

    past: Past
    moment: Arrays
    tokens: Tokens
    state: Arrays

    def bytes(self) -> int:
        return _bytes(self.moment) + _bytes(self.state) + self.tokens.columns.nbytes + self.tokens.words.nbytes


class Reader:
    """Runs encoder and decoder of one bundle. Not for use by several threads at once.

    Args:
        bundle: whose graphs, vectors and histories to read.
        most_bytes: what is kept between answers has no more than this.

    Raises:
        BundleCorrupt: a graph cannot be used.
    """

    def __init__(self, bundle: Bundle, most_bytes: int = KEPT_BYTES) -> None:
        self._bundle = bundle
        self._most_bytes = most_bytes
        self._encoder, self._decoder = (Graph(bundle.folder / name) for name in (ENCODER, DECODER))
        if not self._decoder.beginning():
            raise BundleCorrupt("The model's graphs are of an earlier version of this package; promote it once again")
        self._forget_all()

    def _forget_all(self) -> None:
        of_sessions = self._most_bytes // _OF_SESSIONS
        self._pasts: Recent[str | None, Past] = Recent(self._most_bytes - of_sessions, Past.bytes)
        self._sessions: Recent[tuple[str | None, float], _Session] = Recent(of_sessions, _Session.bytes)

    def of(self, bundle: Bundle, changed: Mapping[str, object]) -> Reader:
        """One for the same model that knows more of some items; what is kept of others stays."""
        found = copy.copy(self)
        found._bundle = bundle
        found._forget_all()
        for user_id, past in reversed(self._pasts.latest_first()):
            if not any(item_id in changed for item_id, *_ in past.happened):
                found._pasts.put(user_id, past)
        return found

    def past(self, user_id: str | None, since: Sequence[Action], now: float) -> tuple[Past, bool]:
        """A user's history up to a time, encoded; and whether it was kept from an answer before.

        Args:
            user_id: whose history in the bundle to read, if any.
            since: what the user did since the bundle's cut-off.
            now: what was later is not part of it.
        """
        happened = tuple((action.item_id, action.event_type, action.seconds, action.query) for action in since)
        kept = self._pasts.get(user_id)  # of nobody, what is kept is that nothing happened
        same = kept is not None and kept.happened == happened
        known = kept.known if kept is not None and same else self._known(user_id, since)
        end = int(np.searchsorted(known.seconds, now, side="right"))
        if kept is not None and same and kept.end == end:
            return kept, True
        events = known.up_to(end, HISTORY)
        inputs = history_inputs(events)
        encoded = self._encoder({**inputs, "vectors": self._vectors(inputs["item"], inputs["words"])})
        found = Past(happened, known, end, events, inputs, encoded, Copies.of(inputs["item"][0]), now)
        if user_id is not None or not happened:
            self._pasts.put(user_id, found)
        return found, False

    def encoded(self, actions: Sequence[Action]) -> History:
        """What was done, as the model reads it; what it does not know is left out."""
        vocabulary = self._bundle.vocabulary
        actions = [action for action in actions if action.event_type in EVENT_TYPE_CODES]
        words = np.zeros((len(actions), QUERY_WORDS), np.int64)
        for row, action in enumerate(actions):
            if action.query:
                words[row] = vocabulary.words_of(action.query)
        return History(
            vocabulary.numbers([action.item_id for action in actions]),
            np.asarray([EVENT_TYPE_CODES[action.event_type] for action in actions], np.int64),
            np.asarray([action.seconds for action in actions], np.float64),
            words,
        )

    def read(self, user_id: str | None, past: Past, session: History, now: float) -> tuple[Arrays, Tokens]:
        """The decoder's outputs for a session over a history, and the session's tokens.

        Args:
            user_id: whose session, if it is known.
            past: the history.
            session: what the session did, oldest first.
            now: when it began.
        """
        tokens = session_tokens(past.events, session)
        kept = self._sessions.get((user_id, now))
        if kept is not None and kept.past is past:
            moment = kept.moment
            known = min(tokens.shared_with(kept.tokens), len(tokens.words) - 1)  # the last one is read in any case
            state = {name: _first(name, value, known) for name, value in kept.state.items()}
        else:
            moment, known, state = moment_inputs(past.events, past.inputs, now), 0, self._decoder.beginning()
        new = tokens.inputs(known)
        items = new["item"]
        new["vectors"] = self._vectors(items, tokens.words[None, known:])
        new["bias"] = self._bundle.items.bias[items]
        read = self._decoder({**past.encoded, **moment, **state, **new})
        if len(session.item):
            self._sessions.put((user_id, now), _Session(past, moment, tokens, state_after(read)))
        return read, tokens

    def forget(self, user_id: str) -> None:
        """Drops what is kept of a user between answers."""
        self._pasts.drop(user_id)
        for key, _ in self._sessions.latest_first():
            if key[0] == user_id:
                self._sessions.drop(key)

    def warm(self, serving: Reader, seconds: float) -> None:
        """Encodes the histories of those who asked another reader last.

        That one may answer and forget users meanwhile; whom it forgets is not kept here either.
        """
        end = time.perf_counter() + seconds
        for user_id, theirs in serving._pasts.latest_first():
            if time.perf_counter() > end or self._pasts.free_bytes < theirs.bytes():
                return
            if user_id is None:
                continue
            began = time.thread_time()
            happened = [Action(item, kind, at, query=query) for item, kind, at, query in theirs.happened]
            self.past(user_id, happened, theirs.now)
            self._pasts.age(user_id)
            if user_id not in serving._pasts:
                self.forget(user_id)
            time.sleep(rest_after(began))

    def rest(self) -> None:
        """Keeps less between answers, for one that does not serve any more."""
        of_sessions = self._most_bytes // _OF_SESSIONS
        self._pasts.shrink((self._most_bytes - of_sessions) // _RESTING)
        self._sessions.shrink(0)

    def _known(self, user_id: str | None, since: Sequence[Action]) -> History:
        """What is known that a user did: until the bundle's cut-off, and since."""
        known = History(*self._bundle.histories.of(user_id))
        if known.words.shape[1] != QUERY_WORDS:
            known = known._replace(words=np.zeros((len(known.item), QUERY_WORDS), np.int64))
        acted = [action for action in since if action.event_type in EVENT_TYPE_CODES]
        if not acted:
            return joined(known)
        stored = {
            (round(at * 1e3), number)
            for at, number in zip(known.seconds[-HISTORY:], known.item[-HISTORY:], strict=True)
        }
        numbers = self._bundle.vocabulary.numbers([action.item_id for action in acted])
        new = [
            action
            for number, action in zip(numbers.tolist(), acted, strict=True)
            if (round(action.seconds * 1e3), number) not in stored
        ]
        known = joined(known, self.encoded(new))
        order = np.argsort(known.seconds, kind="stable")
        return History(*(column[order] for column in known))

    def _vectors(self, items: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Vectors [1, L, D] of events: of a search its words', of the others their items'."""
        vectors = self._bundle.items[items]
        return word_vectors(self._bundle.words, words, vectors) if self._bundle.reads_searches else vectors


def _first(name: str, value: np.ndarray, count: int) -> np.ndarray:
    """A part of a session's state, of the first tokens only."""
    axis = _AXIS[name.removeprefix(BEFORE)]
    return value if value.shape[axis] == count else np.ascontiguousarray(value[(slice(None),) * axis + (slice(count),)])


def _bytes(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())
