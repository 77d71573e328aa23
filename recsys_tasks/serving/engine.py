"""Answers of one model: from what a user did and what the session did to a list of items."""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnxruntime

from recsys_tasks.errors import BundleCorrupt, GoldenMismatch, InputError
from recsys_tasks.features.sequences import QUERY_WORDS, Arrays
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM
from recsys_tasks.serving.additions import Addition, with_additions
from recsys_tasks.serving.bundle import DECODER, ENCODER, SCAN, Bundle
from recsys_tasks.serving.inputs import History, history_inputs, joined, session_inputs
from recsys_tasks.serving.messages import Recommendation
from recsys_tasks.serving.pace import rest_after
from recsys_tasks.serving.ranking import Exactly, Ranking, Wishes
from recsys_tasks.serving.reasons import LIKED, MATCHES, PINNED, POPULAR, Reason, Reasons
from recsys_tasks.serving.rules import Rules
from recsys_tasks.serving.scoring import Masses, word_vectors

if TYPE_CHECKING:
    from recsys_tasks.serving.search import TextIndex

HISTORY = 512
_MOST_FOUND = 1_000
_PERSONAL = 0.5
_CACHED_USERS = 2_000
_TOLERANCE = 1e-4


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


class _Kept(NamedTuple):
    """What is kept of a user between answers, for the same events until the same place in the history."""

    happened: Happened  # since the bundle's cut-off
    known: History  # with those before it
    end: int  # how many of them came before the session
    past: History  # the last of those
    inputs: Arrays
    encoded: Arrays
    now: float


class Spent(NamedTuple):
    """Seconds that parts of an answer took, and whether the history was kept from an answer before."""

    kept: bool
    history: float
    decoder: float
    ranking: float = 0.0


class Answer(NamedTuple):
    """What a model answers.

    Attributes:
        items: best first.
        purchase_intent: probability that the session goes on to buy something; None where the model was not asked.
        propensities: with what chance each item came to its place, where chance took part.
        spent: on what the time went, where the model was asked.
    """

    items: list[Recommendation]
    purchase_intent: float | None
    propensities: list[float] | None = None
    spent: Spent | None = None


class _Likely(NamedTuple):
    """Probabilities of the items [V], where they are from (`model` or `popular`), and what the user did, until when.
    Where they are rounded, `exactly` makes up for it."""

    source: str
    scores: np.ndarray
    intent: float | None
    did: History
    latest: float
    spent: Spent | None = None
    exactly: Exactly | None = None


class Engine:
    """Runs the graphs of one bundle and ranks by the rules of a shop. Not for use by several threads at once."""

    def __init__(self, bundle: Bundle, rules: Rules | None = None) -> None:
        self._rules = rules
        self._trained_items = len(bundle.vocabulary.item_ids)
        self._look_at(bundle)
        try:
            self._encoder, self._decoder, self._scan = (
                _graph(str(bundle.folder / name)) for name in (ENCODER, DECODER, SCAN)
            )
        except Exception as error:  # onnxruntime raises many kinds, all of them saying that the graph is unusable
            raise BundleCorrupt(f"A graph cannot be loaded: {error}") from error
        self._encoder_inputs = {given.name for given in self._encoder.get_inputs()}
        self._decoder_inputs = {given.name for given in self._decoder.get_inputs()}
        self._encoded_as = [output.name for output in self._encoder.get_outputs()]
        self._read_as = [output.name for output in self._decoder.get_outputs()]
        self._kept: OrderedDict[str | None, _Kept] = OrderedDict()

    def with_items(self, additions: Mapping[str, Addition]) -> Engine:
        """An engine that knows more of items, new ones among them; it shares with this one whatever stays the same."""
        found = copy.copy(self)
        found._look_at(with_additions(self.bundle, additions))
        found._kept = OrderedDict(
            (user_id, kept)
            for user_id, kept in list(self._kept.items())
            if not any(item_id in additions for item_id, *_ in kept.happened)
        )
        if "_text" in self.__dict__:
            vocabulary = found.bundle.vocabulary
            self._text.put(vocabulary, [vocabulary.number_of[item_id] for item_id in additions])
        return found

    def _look_at(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._unruled = Ranking(bundle.catalogue, bundle.items, Rules())
        self._ranking = Ranking(bundle.catalogue, bundle.items, self._rules) if self._rules else self._unruled
        self._reasons = Reasons(bundle.vocabulary, bundle.items)

    def recommend(
        self, user_id: str | None, past: Sequence[Action], session: Sequence[Action], now: float, wishes: Wishes
    ) -> Answer:
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
    ) -> Answer:
        """The items that a query is about, those first that fit the query and the user; none if no item has its words.

        An item's score is that of its words as a share of the best one's, and half as much again for what the model
        thinks of it, whose session ends with the query: as a share of the best one's among those found.

        Args:
            user_id, past, session, now, wishes: as for `recommend`; the session ends with the search.
            query: what was searched for.
        """
        numbers, matching = self._find(query)
        if not len(numbers):
            return Answer([], None)
        likely = self._probabilities(user_id, past, session, now)
        personal = likely.scores
        scores = np.zeros(len(self.bundle.vocabulary))
        scores[numbers] = matching / matching.max() + _PERSONAL * personal[numbers] / max(
            personal[numbers].max(), 1e-30
        )
        shown, pinned = self._ranking.rank(scores, wishes, session[-1].seconds)
        listed = self._listed(shown, pinned, scores, "search", [(MATCHES, None)] * len(shown))
        return Answer(listed, likely.intent)

    def is_trained(self, item_id: str) -> bool:
        """Whether the model has seen what users did with an item."""
        number = int(self.bundle.vocabulary.numbers([item_id])[0])
        return FIRST_ITEM <= number < FIRST_ITEM + self._trained_items

    def _find(self, query: str) -> tuple[np.ndarray, np.ndarray]:
        numbers, matching = self._text.find(query, _MOST_FOUND)
        known = numbers < len(self.bundle.vocabulary)  # the index may have an item already that this engine has not
        return numbers[known], matching[known]

    def similar(self, item_id: str, wishes: Wishes, now: float) -> list[Recommendation]:
        """The items most like one, as the model sees them; the score is the cosine of their vectors.

        Raises:
            InputError: the model does not know the item.
        """
        number = int(self.bundle.vocabulary.numbers([item_id])[0])
        if number < FIRST_ITEM:
            raise InputError(f"the model does not know the item {item_id!r}")
        likeness = self.bundle.items.products(self.bundle.items[np.asarray([number])][0])
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
    ) -> Answer:
        likely = self._probabilities(user_id, past, session, now)
        if likely.source == "popular" and wishes.interests:
            return self._of_interests(ranking, likely, wishes)
        began = time.perf_counter()
        chances = None
        if wishes.explore is not None:
            shown, pinned, chances = ranking.draw(likely.scores, wishes, wishes.explore, likely.latest, likely.exactly)
        else:
            shown, pinned = ranking.rank(likely.scores, wishes, likely.latest, likely.exactly)
        if likely.exactly is not None:
            likely.scores[shown] = likely.exactly(np.asarray(shown, np.int64))
        reasons = self._reasons.of(shown, likely.did.item, likely.did.kind)
        listed = self._listed(shown, pinned, likely.scores, likely.source, reasons)
        spent = likely.spent and likely.spent._replace(ranking=time.perf_counter() - began)
        return Answer(listed, likely.intent, chances, spent)

    def _of_interests(self, ranking: Ranking, likely: _Likely, wishes: Wishes) -> Answer:
        """Items that are about what the user is said to like, popular ones first, then what is popular anyway."""
        numbers, matching = self._find(" ".join(wishes.interests))
        scores = likely.scores.copy()
        if len(numbers):
            scores[numbers] += matching / matching.max() * (1.0 + scores[numbers] / scores.max())
        shown, pinned = ranking.rank(scores, wishes, likely.latest)
        liked = set(numbers.tolist())
        reasons: list[Reason] = [(LIKED if number in liked else POPULAR, None) for number in shown]
        return Answer(self._listed(shown, pinned, scores, "interests", reasons), None)

    def _probabilities(
        self, user_id: str | None, past: Sequence[Action], session: Sequence[Action], now: float
    ) -> _Likely:
        began = time.perf_counter()
        before = self._kept.get(user_id)
        kept = self._read(user_id, past, now)
        read_at = time.perf_counter()
        told = self._encoded_actions([action for action in session if action.event_type in EVENT_TYPE_CODES])
        did = joined(kept.past, told) if len(told.item) else kept.past
        latest = max([now, *told.seconds.tolist()])
        if did.item.max(initial=0) < FIRST_ITEM and not (self.bundle.reads_searches and did.words.any()):
            popularity = self.bundle.histories.popularity
            return _Likely("popular", popularity / max(popularity.sum(), 1), None, did, latest)
        inputs = session_inputs(kept.past, kept.inputs, told._replace(seconds=np.maximum(told.seconds, now)), now)
        items, tokens = self.bundle.items, inputs["tokens"]
        inputs["vectors"] = self._vectors(tokens, inputs["token_words"])
        inputs["bias"] = items.bias[tokens]
        read = _run(self._decoder, self._decoder_inputs, self._read_as, {**kept.encoded, **inputs})
        logits = self._scan.run(None, {"direction": read["direction"]})[0][0]
        if len(items) > len(logits):
            logits = np.concatenate([logits, items.later_logits(read["direction"][0])])
        masses = Masses(items, logits, read, inputs["history"][0], tokens[0])
        spent = Spent(kept is before, read_at - began, time.perf_counter() - read_at)
        return _Likely("model", masses.shares(), float(read["intent"][0]), did, latest, spent, masses.exactly)

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
        self._kept.pop(user_id, None)

    def warm(self, serving: Engine, seconds: float = 2.0) -> None:
        """Encodes the histories of those who asked another engine last, so that taking over from it costs them no time.

        That one may answer and forget users meanwhile; whom it forgets is not kept here either.
        """
        end = time.perf_counter() + seconds
        for user_id, kept in reversed(list(serving._kept.items())):
            if time.perf_counter() > end:
                return
            if user_id is None:
                continue
            began = time.thread_time()
            happened = [Action(item, kind, at, query=query) for item, kind, at, query in kept.happened]
            self._read(user_id, happened, kept.now)
            self._kept.move_to_end(user_id, last=False)
            if user_id not in serving._kept:
                self.forget(user_id)
            time.sleep(rest_after(began))

    def rest(self, most: int = 500) -> None:
        """Keeps no more than this of users between answers, for an engine that does not serve any more."""
        while len(self._kept) > most:
            self._kept.popitem(last=False)

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
        return [{"item_id": item.item_id, "score": item.score} for item in found.items]

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

    def _read(self, user_id: str | None, past: Sequence[Action], now: float) -> _Kept:
        """A user's history up to a time, encoded; made anew only where it is another than at the last request."""
        happened = tuple((action.item_id, action.event_type, action.seconds, action.query) for action in past)
        kept = self._kept.get(user_id)  # of nobody, what is kept is that nothing happened
        same = kept is not None and kept.happened == happened
        known = kept.known if kept is not None and same else self._known(user_id, past)
        end = int(np.searchsorted(known.seconds, now, side="right"))
        if kept is not None and same and kept.end == end:
            self._kept.move_to_end(user_id)
            return kept
        before = known.up_to(end, HISTORY)
        inputs = history_inputs(before)
        vectors = self._vectors(inputs["item"], inputs["words"])
        encoded = _run(self._encoder, self._encoder_inputs, self._encoded_as, {**inputs, "vectors": vectors})
        kept = _Kept(happened, known, end, before, inputs, encoded, now)
        if user_id is not None or not happened:
            self._kept[user_id] = kept
            if len(self._kept) > _CACHED_USERS:
                self._kept.popitem(last=False)
        return kept

    def _known(self, user_id: str | None, past: Sequence[Action]) -> History:
        """What is known that a user did: until the bundle's cut-off, and since."""
        known = History(*self.bundle.histories.of(user_id))
        if known.words.shape[1] != QUERY_WORDS:
            known = known._replace(words=np.zeros((len(known.item), QUERY_WORDS), np.int64))
        acted = [action for action in past if action.event_type in EVENT_TYPE_CODES]
        if not acted:
            return joined(known)
        stored = {
            (round(at * 1e3), number)
            for at, number in zip(known.seconds[-HISTORY:], known.item[-HISTORY:], strict=True)
        }
        numbers = self.bundle.vocabulary.numbers([action.item_id for action in acted])
        new = [
            action
            for number, action in zip(numbers.tolist(), acted, strict=True)
            if (round(action.seconds * 1e3), number) not in stored
        ]
        known = joined(known, self._encoded_actions(new))
        order = np.argsort(known.seconds, kind="stable")
        return History(*(column[order] for column in known))

    def _encoded_actions(self, actions: Sequence[Action]) -> History:
        vocabulary = self.bundle.vocabulary
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

    def _vectors(self, items: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Vectors [1, L, D] of events: of a search its words', of the others their items'."""
        vectors = self.bundle.items[items]
        return word_vectors(self.bundle.words, words, vectors) if self.bundle.reads_searches else vectors


def _run(
    graph: onnxruntime.InferenceSession, wanted: Set[str], names: Sequence[str], given: Mapping[str, np.ndarray]
) -> Arrays:
    found = graph.run(None, {name: value for name, value in given.items() if name in wanted})
    return dict(zip(names, found, strict=True))


def _graph(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # two threads on two busy cores wait for each other
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def unix_now() -> float:
    """The present time in seconds since 1970."""
    return time.time()
