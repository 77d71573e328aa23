"""Answers of one model: from what a user did and what the session did to a list of items."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnxruntime

from recsys_tasks.errors import BundleCorrupt, GoldenMismatch, InputError
from recsys_tasks.features.sequences import Arrays, build_timeline, query_inputs
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM
from recsys_tasks.serving.bundle import DECODER, ENCODER, Bundle
from recsys_tasks.serving.messages import Recommendation
from recsys_tasks.serving.pace import rest_after
from recsys_tasks.serving.ranking import Ranking, Wishes
from recsys_tasks.serving.reasons import MATCHES, PINNED, Reason, Reasons
from recsys_tasks.serving.rules import Rules

if TYPE_CHECKING:
    from recsys_tasks.serving.search import TextIndex

HISTORY = 512
_MOST_FOUND = 1_000
_PERSONAL = 0.5
_TINY = 1e-30
_CACHED_USERS = 2_000
_TOLERANCE = 1e-4
_MEMORY = ("memory", "copy_key", "age_curve")


@dataclass(frozen=True)
class Action:
    """One thing a user did with an item, or a search (which has no item, but a query); seconds since 1970."""

    item_id: str
    event_type: str
    seconds: float
    session_id: str | None = None
    event_id: str | None = None
    query: str = ""


class History(NamedTuple):
    """Events, oldest first: item numbers [N], kinds [N], seconds since 1970 [N], words of searches [N, A]."""

    item: np.ndarray
    kind: np.ndarray
    seconds: np.ndarray
    words: np.ndarray


class _Kept(NamedTuple):
    """A user's encoded history, by what it was made of, and from what and when that was asked for."""

    fingerprint: bytes
    encoded: Arrays
    past: Sequence[Action]
    now: float


class Engine:
    """Runs the graphs of one bundle and ranks by the rules of a shop. Not for use by several threads at once."""

    def __init__(self, bundle: Bundle, rules: Rules | None = None) -> None:
        self.bundle = bundle
        self._unruled = Ranking(bundle.catalogue, bundle.vectors, Rules())
        self._ranking = Ranking(bundle.catalogue, bundle.vectors, rules) if rules else self._unruled
        self._reasons = Reasons(bundle.vocabulary, bundle.vectors)
        try:
            self._encoder, self._decoder = (_graph(str(bundle.folder / name)) for name in (ENCODER, DECODER))
        except Exception as error:  # onnxruntime raises many kinds, all of them saying that the graph is unusable
            raise BundleCorrupt(f"A graph cannot be loaded: {error}") from error
        self._encoder_inputs = {given.name: given.shape for given in self._encoder.get_inputs()}
        self._decoder_inputs = {given.name for given in self._decoder.get_inputs()}
        # A model whose data had no searches reads none.
        self._query_words = int(self._encoder_inputs.get("words", [0])[-1])
        self._encoded: OrderedDict[str, _Kept] = OrderedDict()

    def recommend(
        self, user_id: str | None, past: Sequence[Action], session: Sequence[Action], now: float, wishes: Wishes
    ) -> list[Recommendation]:
        """The best items for a user in a session at a time.

        Args:
            user_id: whose history in the bundle to read, if any.
            past: what the user did since the bundle's cut-off, outside the session.
            session: what the session did, oldest first.
            now: when the session began.
            wishes: what the caller wants of the list.
        """
        return self._recommend(self._ranking, user_id, past, session, now, wishes)

    def search(
        self,
        user_id: str | None,
        past: Sequence[Action],
        session: Sequence[Action],
        now: float,
        query: str,
        wishes: Wishes,
    ) -> list[Recommendation]:
        """The items that a query is about, those first that fit the query and the user; none if no item has its words.

        An item's score is that of its words as a share of the best one's, and half as much again for what the model
        thinks of it, whose session ends with the query: as a share of the best one's among those found.

        Args:
            user_id, past, session, now, wishes: as for `recommend`; the session ends with the search.
            query: what was searched for.
        """
        numbers, matching = self._text.find(query, _MOST_FOUND)
        if not len(numbers):
            return []
        _, personal = self._probabilities(user_id, past, session, now)[:2]
        scores = np.zeros(len(self.bundle.vocabulary))
        scores[numbers] = matching / matching.max() + _PERSONAL * personal[numbers] / max(
            personal[numbers].max(), 1e-30
        )
        shown, pinned = self._ranking.rank(scores, wishes, session[-1].seconds)
        return self._listed(shown, pinned, scores, "search", [(MATCHES, None)] * len(shown))

    def similar(self, item_id: str, wishes: Wishes, now: float) -> list[Recommendation]:
        """The items most like one, as the model sees them; the score is the cosine of their vectors.

        Raises:
            InputError: the model does not know the item.
        """
        number = int(self.bundle.vocabulary.numbers([item_id])[0])
        if number < FIRST_ITEM:
            raise InputError(f"the model does not know the item {item_id!r}")
        likeness = self.bundle.vectors @ self.bundle.vectors[number]
        likeness[number] = 0.0
        shown, pinned = self._unruled.rank(likeness, wishes, now)
        reason = f"like {self.bundle.vocabulary.title(number)}", item_id
        return self._listed(shown, pinned, likeness, "model", [reason] * len(shown))

    def _recommend(
        self,
        ranking: Ranking,
        user_id: str | None,
        past: Sequence[Action],
        session: Sequence[Action],
        now: float,
        wishes: Wishes,
    ) -> list[Recommendation]:
        source, scores, did, latest = self._probabilities(user_id, past, session, now)
        shown, pinned = ranking.rank(scores, wishes, latest)
        return self._listed(shown, pinned, scores, source, self._reasons.of(shown, did.item, did.kind))

    def _probabilities(
        self, user_id: str | None, past: Sequence[Action], session: Sequence[Action], now: float
    ) -> tuple[str, np.ndarray, History, float]:
        """Where they are from (`model` or `popular`), the items' probabilities [V], what the user did, until when."""
        history = self._history(user_id, past, now)
        known = [action for action in session if action.event_type in EVENT_TYPE_CODES]
        item, kind, seconds, words = self._encoded_actions(known)
        known_items = max(history.item.max(initial=0), item.max(initial=0)) >= FIRST_ITEM
        if not known_items and not words.any() and not history.words.any():
            source, scores = (
                "popular",
                self.bundle.histories.popularity / max(self.bundle.histories.popularity.sum(), 1),
            )
        else:
            session_events = History(item, kind, np.maximum(seconds, now), words)
            source, scores = "model", self._scores(user_id, past, history, session_events, now)
            scores = np.exp(scores - scores.max())
            scores /= scores[FIRST_ITEM:].sum()
        did = _joined(history, History(item, kind, seconds, words))
        return source, scores, did, max([now, *seconds.tolist()])

    def _listed(
        self, shown: Sequence[int], pinned: Set[int], scores: np.ndarray, source: str, reasons: Sequence[Reason]
    ) -> list[Recommendation]:
        vocabulary = self.bundle.vocabulary
        return [
            Recommendation(
                vocabulary.item_id(number),
                vocabulary.title(number),
                float(scores[number]),
                "pinned" if number in pinned else source,
                *((PINNED, None) if number in pinned else reason),
            )
            for number, reason in zip(shown, reasons, strict=True)
        ]

    def forget(self, user_id: str) -> None:
        """Drops what is kept of a user between answers; the bundle stays as it is."""
        self._encoded.pop(user_id, None)

    def warm(self, serving: Engine, seconds: float = 2.0) -> None:
        """Encodes the histories of those who asked another engine last, so that taking over from it costs them no time.

        That one may answer and forget users meanwhile; whom it forgets is not kept here either.
        """
        end = time.perf_counter() + seconds
        for user_id, kept in reversed(list(serving._encoded.items())):
            if time.perf_counter() > end:
                return
            began = time.thread_time()
            history = self._history(user_id, kept.past, kept.now)
            events, _ = self._inputs(history, self._encoded_actions(()), kept.now)
            self._encode(user_id, events, kept.past, kept.now)
            self._encoded.move_to_end(user_id, last=False)
            if user_id not in serving._encoded:
                self.forget(user_id)
            time.sleep(rest_after(began))

    def rest(self, most: int = 500) -> None:
        """Keeps no more than this of users between answers, for an engine that does not serve any more."""
        while len(self._encoded) > most:
            self._encoded.popitem(last=False)

    def seen(self, user_id: str | None, event_type: str | None = None) -> set[str]:
        """Ids of the items that a user did something with until the bundle's cut-off, or a certain thing."""
        item, kind, _, _ = self.bundle.histories.of(user_id)
        if event_type is not None:
            item = item[kind == EVENT_TYPE_CODES[event_type]]
        return {self.bundle.vocabulary.item_id(number) for number in set(item.tolist()) if number >= FIRST_ITEM}

    def answer_golden(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """The answer to one golden request: from the bundle alone, whatever happened since."""
        session = [Action(item, kind, seconds, query=query) for item, kind, seconds, query in request["session"]]
        wishes = Wishes(request["k"])
        found = self._recommend(self._unruled, request["user_id"], (), session, request["now"], wishes)
        return [{"item_id": item.item_id, "score": item.score} for item in found]

    def first_answer(self) -> None:
        """Answers one golden request and prepares for searches, so that nobody waits for what the first one needs."""
        self._text.find(" ", 1)
        self.bundle.vocabulary.words_of(" ")
        for case in self.bundle.golden[-1:]:
            self.answer_golden(case["request"])

    def check_golden(self) -> int:
        """Answers the bundle's golden requests as the model did that was exported; returns their number.

        Raises:
            GoldenMismatch: an answer differs; names the first.
        """
        for number, case in enumerate(self.bundle.golden):
            try:
                found = self.answer_golden(case["request"])
            except Exception as error:
                raise GoldenMismatch(f"Golden request {number} failed: {error}") from error
            wanted = case["answer"]
            ranked = [entry["score"] for entry in found]
            scores_agree = len(ranked) == len(wanted) and np.allclose(
                ranked, [entry["score"] for entry in wanted], atol=_TOLERANCE
            )
            if not scores_agree:
                raise GoldenMismatch(f"Golden request {number}: scores {ranked[:3]}… differ from {wanted[:3]}…")
            by_id = {entry["item_id"]: entry["score"] for entry in found}
            for entry in wanted:
                # Near ties may change places; an item that is missing or scored otherwise may not.
                last = ranked[-1] if ranked else 0.0
                if abs(by_id.get(entry["item_id"], last) - entry["score"]) > _TOLERANCE:
                    raise GoldenMismatch(f"Golden request {number}: {entry} is not in the answer with that score")
        return len(self.bundle.golden)

    @cached_property
    def _text(self) -> TextIndex:
        from recsys_tasks.serving.search import TextIndex  # a library that only an endpoint needs

        return TextIndex(self.bundle.vocabulary)

    def _history(self, user_id: str | None, past: Sequence[Action], now: float) -> History:
        """A user's last events up to a time, those since the cut-off among them."""
        known = self._stored(user_id)
        if past:
            stored = {
                (round(at * 1e3), number)
                for at, number in zip(known.seconds[-HISTORY:], known.item[-HISTORY:], strict=True)
            }
            acted = [action for action in past if action.event_type in EVENT_TYPE_CODES]
            numbers = self.bundle.vocabulary.numbers([action.item_id for action in acted])
            new = [
                action
                for number, action in zip(numbers.tolist(), acted, strict=True)
                if (round(action.seconds * 1e3), number) not in stored
            ]
            if new:
                known = _joined(known, self._encoded_actions(new))
                order = np.argsort(known.seconds, kind="stable")
                known = History(*(column[order] for column in known))
        stop = int(np.searchsorted(known.seconds, now, side="right"))
        return History(*(column[max(0, stop - HISTORY) : stop] for column in known))

    def _stored(self, user_id: str | None) -> History:
        item, kind, seconds, words = self.bundle.histories.of(user_id)
        if words.shape[1] != self._query_words:
            words = np.zeros((len(item), self._query_words), np.int64)
        return History(item, kind, seconds, words)

    def _encoded_actions(self, actions: Sequence[Action]) -> History:
        vocabulary = self.bundle.vocabulary
        words = np.zeros((len(actions), self._query_words), np.int64)
        for row, action in enumerate(actions):
            if action.query and self._query_words:
                words[row] = vocabulary.words_of(action.query)
        return History(
            vocabulary.numbers([action.item_id for action in actions]),
            np.asarray([EVENT_TYPE_CODES[action.event_type] for action in actions], np.int64),
            np.asarray([action.seconds for action in actions], np.float64),
            words,
        )

    def _scores(
        self, user_id: str | None, past: Sequence[Action], history: History, session: History, now: float
    ) -> np.ndarray:
        events, query = self._inputs(history, session, now)
        memory = self._encode(user_id, events, past, now)
        inputs = {**memory, "days": events["days"], **{f"query_{name}": value for name, value in query.items()}}
        wanted = {name: value for name, value in inputs.items() if name in self._decoder_inputs}
        scores: np.ndarray = self._decoder.run(None, wanted)[0][0]
        return scores

    def _inputs(self, history: History, session: History, now: float) -> tuple[Arrays, Arrays]:
        """What the encoder reads of a history, and the decoder of a session and the event that is asked for."""
        past, count = len(history.item), len(session.item)
        # The event that is asked for stands at the end; nothing but its session's beginning is read of it.
        nothing = np.zeros(1, np.int64)
        last = np.asarray([max([now, *session.seconds.tolist()])])
        asked = History(nothing, nothing, last, np.zeros((1, self._query_words), np.int64))
        item, kind, seconds, words = _joined(history, session, asked)
        in_session = np.arange(past + count + 1) >= past
        began = np.where(in_session, now, seconds)
        session_number = np.where(in_session, past, np.arange(past + count + 1))
        text = np.where(words.any(1), np.arange(1, len(words) + 1), 0)
        queries = np.concatenate([np.zeros((1, self._query_words), np.int64), words])
        timeline = build_timeline(
            np.zeros_like(item), session_number, item, kind, seconds.astype(np.float64), began, text, queries
        )
        return query_inputs(timeline, np.asarray([past]), np.asarray([past + count]), HISTORY)

    def _encode(self, user_id: str | None, events: Arrays, past: Sequence[Action], now: float) -> Arrays:
        """The encoder's output for a history, kept for users whose history has not changed."""
        # Time counts in the encoder by differences only, so days since the last event serve any request.
        given = {**events, "days": events["days"] - events["days"][:, -1:]}
        fingerprint = b"".join(given[name].tobytes() for name in sorted(given))
        kept = self._encoded.get(user_id) if user_id else None
        if user_id and kept is not None and kept.fingerprint == fingerprint:
            self._encoded.move_to_end(user_id)
            return kept.encoded
        wanted = {name: value for name, value in given.items() if name in self._encoder_inputs}
        encoded = dict(zip(_MEMORY, self._encoder.run(None, wanted), strict=True))
        if user_id:
            self._encoded[user_id] = _Kept(fingerprint, encoded, past, now)
            if len(self._encoded) > _CACHED_USERS:
                self._encoded.popitem(last=False)
        return encoded


def _joined(*parts: History) -> History:
    item, kind, seconds, words = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return History(item.astype(np.int64), kind.astype(np.int64), seconds, words.astype(np.int64))


def _graph(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # two threads on two busy cores wait for each other
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def unix_now() -> float:
    """The present time in seconds since 1970."""
    return time.time()
