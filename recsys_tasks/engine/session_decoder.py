"""Reads what a user did: a history is encoded once and kept, and a session is decoded from where it was."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from recsys_tasks.engine.bundle import DECODER, ENCODER, Bundle
from recsys_tasks.engine.cache import Recent
from recsys_tasks.engine.explanations import Deeds
from recsys_tasks.engine.graphs import BEFORE, Graph, state_after
from recsys_tasks.engine.inputs import Did, History, Moment, Tokens, beginning, history_inputs, joined
from recsys_tasks.engine.scoring import Copies, word_vectors
from recsys_tasks.engine.throttle import Rests
from recsys_tasks.errors import BundleCorrupt
from recsys_tasks.features.sequences import MAX_TOKENS, QUERY_WORDS, Arrays
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, UNKNOWN_ITEM

HISTORY = 512
KEPT_BYTES = 64 << 20
_NO_WORDS = np.zeros(QUERY_WORDS, np.int64)
_OF_SESSIONS = 4  # a quarter of that is for them
_RESTING = 4  # of an engine that does not serve, a quarter stays
_ALONG_KEYS, _ALONG_TOKENS = 3, 1
_AXIS = {"keys": _ALONG_KEYS, "values": _ALONG_KEYS, "vectors": _ALONG_TOKENS, "bias": _ALONG_TOKENS}


class Action(msgspec.Struct, frozen=True):
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
    deeds: Deeds
    tells: bool  # whether the model makes anything of it
    now: float
    token: object  # of this one alone

    def bytes(self) -> int:
        """How much memory that takes, roughly."""
        return _bytes(self.inputs) + _bytes(self.encoded) + sum(column.nbytes for column in self.known)


class Session(NamedTuple):
    """A session over a history, whose first tokens were read before; it does not keep the history."""

    over: object  # the history's token
    now: float  # when it began
    moment: Moment
    happened: Happened  # in it
    tokens: Tokens
    latest: float  # when the last thing was done
    read: int  # how many of the tokens were
    state: Arrays  # after those

    def bytes(self) -> int:
        """How much memory that takes, roughly."""
        return _bytes(self.moment.inputs) + _bytes(self.state) + self.tokens.columns.nbytes + self.tokens.words.nbytes


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
        self._unread = self._decoder.beginning()
        if not self._unread:
            raise BundleCorrupt("The model's graphs are of an earlier version of this package; promote it once again")
        self._forget_all()

    def _forget_all(self) -> None:
        of_sessions = self._most_bytes // _OF_SESSIONS
        self._pasts: Recent[str | None, Past] = Recent(self._most_bytes - of_sessions, Past.bytes)
        self._sessions: Recent[tuple[str | None, float], Session] = Recent(of_sessions, Session.bytes)

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
        found = Past(
            happened,
            known,
            end,
            events,
            inputs,
            encoded,
            Copies.of(inputs["item"][0]),
            Deeds.of(events.item, events.kind),
            self._tells(events.item, events.words),
            now,
            object(),
        )
        if user_id is not None or not happened:
            self._pasts.put(user_id, found)
        return found, False

    def session(self, user_id: str | None, past: Past, actions: Sequence[Action], now: float) -> Session:
        """A session over a history, with what is kept of it from answers before.

        Args:
            user_id: whose session, if it is known.
            past: the history.
            actions: what the session did, oldest first.
            now: when it began.
        """
        happened = tuple(
            (action.item_id, action.event_type, max(action.seconds, now), action.query)
            for action in actions
            if action.event_type in EVENT_TYPE_CODES
        )
        kept = self._sessions.get((user_id, now))
        if kept is None or kept.over is not past.token:
            moment = Moment.of(past.events, past.inputs, now)
            kept = Session(past.token, now, moment, (), beginning(QUERY_WORDS), now, 0, self._unread)
        known = _shared(kept.happened, happened)
        tokens, read = kept.tokens.first(1 + known), min(kept.read, 1 + known)
        skipped = max(len(happened) - MAX_TOKENS + 1, 0)
        if skipped:  # what comes after those that are not read has another place at each request
            known, tokens, read = skipped, tokens.first(1), 0
        before = happened[known - 1][2] if known else float(past.events.seconds[-1]) if past.end else None
        tokens = tokens.and_then([self._did(*entry) for entry in happened[known:]], before)
        latest = happened[-1][2] if happened else now
        return kept._replace(happened=() if skipped else happened, tokens=tokens, latest=latest, read=read)

    def read(self, user_id: str | None, past: Past, session: Session) -> Arrays:
        """The decoder's outputs for a session over a history."""
        tokens, known = session.tokens, min(session.read, len(session.tokens.words) - 1)
        state = {name: _first(name, value, known) for name, value in session.state.items()}
        items, new = tokens.columns[None, 0, known:], tokens.inputs(known, session.moment.codes)
        new["vectors"] = self._vectors(items, tokens.words[None, known:])
        new["bias"] = self._bundle.items.bias[items]
        read = self._decoder({**past.encoded, **session.moment.inputs, **state, **new})
        kept_again = user_id is not None or not past.happened
        if session.happened and kept_again:
            kept = session._replace(read=len(tokens.words), state=state_after(read))
            self._sessions.put((user_id, session.now), kept)
        return read

    def tells(self, past: Past, session: Session) -> bool:
        """Whether the model makes anything of a session and the history before it."""
        return past.tells or self._tells(session.tokens.columns[0], session.tokens.words)

    def _tells(self, item: np.ndarray, words: np.ndarray) -> bool:
        return bool(item.max(initial=0) >= FIRST_ITEM or (self._bundle.reads_searches and words.any()))

    def forget(self, user_id: str | None) -> None:
        """Drops what is kept of a user between answers, and of sessions of which it is not known whose they are."""
        self._pasts.drop(user_id)
        for key, _ in self._sessions.latest_first():
            if key[0] in (None, user_id):
                self._sessions.drop(key)

    def warm(self, serving: Reader, seconds: float) -> None:
        """Encodes the histories of those who asked another reader last.

        That one may answer and forget users meanwhile; whom it forgets is not kept here either.
        """
        end, rest = time.perf_counter() + seconds, Rests()
        for user_id, theirs in serving._pasts.latest_first():
            if time.perf_counter() > end or self._pasts.free_bytes < theirs.bytes():
                return
            if user_id is None:
                continue
            happened = [Action(item, kind, at, query=query) for item, kind, at, query in theirs.happened]
            self.past(user_id, happened, theirs.now)
            self._pasts.age(user_id)
            if user_id not in serving._pasts:
                self.forget(user_id)
            rest()

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
        known = joined(known, self._history(new))
        order = np.argsort(known.seconds, kind="stable")
        return History(*(column[order] for column in known))

    def _history(self, actions: Sequence[Action]) -> History:
        done = [self._did(action.item_id, action.event_type, action.seconds, action.query) for action in actions]
        item, kind, seconds, words = zip(*done, strict=True) if done else ((), (), (), np.zeros((0, QUERY_WORDS)))
        return History(
            np.asarray(item, np.int64),
            np.asarray(kind, np.int64),
            np.asarray(seconds, np.float64),
            np.asarray(words, np.int64),
        )

    def _did(self, item_id: str, event_type: str, seconds: float, query: str) -> Did:
        vocabulary = self._bundle.vocabulary
        number = vocabulary.number_of.get(item_id, UNKNOWN_ITEM)
        return Did(number, EVENT_TYPE_CODES[event_type], seconds, vocabulary.words_of(query) if query else _NO_WORDS)

    def _vectors(self, items: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Vectors [1, L, D] of events: of a search its words', of the others their items'."""
        vectors = self._bundle.items[items]
        return word_vectors(self._bundle.words, words, vectors) if self._bundle.reads_searches else vectors


def _shared(one: Happened, other: Happened) -> int:
    """How many things at the beginning are the same."""
    most = min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    return next(place for place in range(most) if one[place] != other[place])


def _first(name: str, value: np.ndarray, count: int) -> np.ndarray:
    """A part of a session's state, of the first tokens only."""
    axis = _AXIS[name.removeprefix(BEFORE)]
    return value if value.shape[axis] == count else np.ascontiguousarray(value[(slice(None),) * axis + (slice(count),)])


def _bytes(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())
