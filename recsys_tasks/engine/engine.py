"""Answers of one model: from what a user did and what the session did to a list of items."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np

from recsys_tasks.engine.bundle import SCAN, Bundle
from recsys_tasks.engine.explanations import LIKED, MATCHES, PINNED, POPULAR, RISING, Deeds, Reason, Reasons
from recsys_tasks.engine.graphs import Graph
from recsys_tasks.engine.impression_discounting import Tired
from recsys_tasks.engine.item_updates import Addition, with_additions
from recsys_tasks.engine.items import Recommendation
from recsys_tasks.engine.merchandising import Rules
from recsys_tasks.engine.ranking import Ranked, Ranking, Wishes
from recsys_tasks.engine.scoring import Known, Mixed, NextItem, Rising, Scores
from recsys_tasks.engine.session_decoder import KEPT_BYTES, Action, Reader
from recsys_tasks.engine.throttle import Pause, no_pause
from recsys_tasks.engine.trending import Lately
from recsys_tasks.errors import GoldenMismatch, InputError
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM

if TYPE_CHECKING:
    from recsys_tasks.engine.text_index import TextIndex

MODEL: Final = "model"
POPULARITY: Final = "popularity"
NEIGHBOURS: Final = "neighbours"
Method = Literal["model", "popularity", "neighbours"]

_MOST_FOUND = 1_000
_LAST_ITEMS, _FADING = 10, 0.7  # of what somebody did last, for neighbours
_PERSONAL = 0.5
_WARM_SECONDS = 2.0
_TOLERANCE = 1e-4


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
    """How likely items are, by what (`model` or `popular`), and what the user did, until when."""

    source: str
    scores: Scores
    intent: float | None
    deeds: Deeds
    latest: float
    spent: Spent | None = None
    rising: Rising | None = None
    tired: Tired | None = None


class Situation(NamedTuple):
    """What an endpoint sees and a model does not know: what people take of their own accord lately, and how often the
    user has looked at items without acting on them."""

    lately: Lately | None = None
    looks: Mapping[str, float] = MappingProxyType({})


UNKNOWN: Final = Situation()


class Engine:
    """Runs the graphs of one bundle and ranks by the rules of a shop. Not for use by several threads at once.

    Args:
        bundle: the model and what it knows.
        rules: of the shop.
        kept_bytes: how much is kept of users and sessions between answers.
        pause: called after each piece of the work.
    """

    def __init__(
        self,
        bundle: Bundle,
        rules: Rules | None = None,
        kept_bytes: int = KEPT_BYTES,
        pause: Pause = no_pause,
    ) -> None:
        self._rules = rules
        self._trained_items = len(bundle.vocabulary.item_ids)
        self._look_at(bundle)
        pause()
        self._reader = Reader(bundle, kept_bytes)
        pause()
        self._scan = Graph(bundle.folder / SCAN)

    def with_items(self, additions: Mapping[str, Addition]) -> Engine:
        """An engine that knows more of items, new ones among them; it shares with this one whatever stays the same."""
        found = copy.copy(self)
        found._look_at(with_additions(self.bundle, additions))
        found._reader = self._reader.of(found.bundle, additions)
        if "_text" in self.__dict__:
            vocabulary = found.bundle.vocabulary
            self._text.put(vocabulary, [vocabulary.number_of[item_id] for item_id in additions])
        return found

    def _look_at(self, bundle: Bundle) -> None:
        self.bundle = bundle
        popularity = bundle.histories.popularity
        self._shares = popularity / max(popularity.sum(), 1)
        self._popular = Known(self._shares)
        self._seen_lately: tuple[Lately, Rising | None] | None = None
        self._unruled = Ranking(bundle.catalogue, bundle.items, Rules())
        self._ranking = Ranking(bundle.catalogue, bundle.items, self._rules) if self._rules else self._unruled
        self._reasons = Reasons(bundle.vocabulary, bundle.items)

    def recommend(
        self,
        user_id: str | None,
        past: Sequence[Action],
        session: Sequence[Action],
        now: float,
        wishes: Wishes,
        method: Method = MODEL,
        situation: Situation = UNKNOWN,
    ) -> Answer:
        """The best items for a user in a session at a time.

        Args:
            user_id: whose history in the bundle to read, if any.
            past: what the user did since the bundle's cut-off, outside the session.
            session: what the session did, oldest first.
            now: when the session began.
            wishes: what the caller wants of the list.
            method: what to order the items by: the model, how popular they are, or how near they are to those that
                the user did something with last; without any, the popular ones.
            situation: what goes on, which the model is told of; the other methods are not.
        """
        likely = self._likely(user_id, past, session, now, method)
        if method == MODEL:
            likely = self._in(situation, likely)
        return self._recommend(self._ranking, likely, wishes)

    def search(
        self,
        user_id: str | None,
        past: Sequence[Action],
        session: Sequence[Action],
        now: float,
        query: str,
        wishes: Wishes,
        situation: Situation = UNKNOWN,
    ) -> Answer:
        """The items that a query is about, those first that fit the query and the user; none if no item has its words.

        An item's score is that of its words as a share of the best one's, and half as much again for what the model
        thinks of it, whose session ends with the query: as a share of the best one's among those found.

        Args:
            user_id, past, session, now, wishes, situation: as for `recommend`; the session ends with the search.
            query: what was searched for.
        """
        numbers, matching = self._find(query)
        if not len(numbers):
            return Answer([], None)
        likely = self._in(situation, self._likely(user_id, past, session, now))
        scores = np.zeros(len(self.bundle.vocabulary))
        personal = scores.copy()
        found = likely.scores.best(1, also=numbers)
        np.maximum.at(personal, found.numbers, found.scores)
        personal = personal[numbers]
        scores[numbers] = matching / matching.max() + _PERSONAL * personal / max(personal.max(), 1e-30)
        ranked = self._ranking.rank(Known(scores), wishes, session[-1].seconds)
        return Answer(self._listed(ranked, "search", [(MATCHES, None)] * len(ranked.numbers)), likely.intent)

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
        ranked = self._unruled.rank(Known(likeness), wishes, now)
        reason = f"like {self.bundle.vocabulary.title(number)}", item_id
        return self._listed(ranked, "model", [reason] * len(ranked.numbers))

    def _recommend(self, ranking: Ranking, likely: _Likely, wishes: Wishes) -> Answer:
        if likely.source == "popular" and wishes.interests:
            return self._of_interests(ranking, likely, wishes)
        began = time.perf_counter()
        ranked = ranking.rank(likely.scores, wishes, likely.latest, likely.tired)
        reasons = self._reasons.of(ranked.numbers, likely.deeds)
        if likely.rising is not None:
            reasons = [
                (RISING, None) if likely.rising.outweighs(number, score) else reason
                for number, score, reason in zip(ranked.numbers, ranked.scores, reasons, strict=True)
            ]
        listed = self._listed(ranked, likely.source, reasons)
        spent = likely.spent and likely.spent._replace(ranking=time.perf_counter() - began)
        return Answer(listed, likely.intent, ranked.chances, spent)

    def _of_interests(self, ranking: Ranking, likely: _Likely, wishes: Wishes) -> Answer:
        """Items that are about what the user is said to like, popular ones first, then what is popular anyway."""
        numbers, matching = self._find(" ".join(wishes.interests))
        scores = self._shares.copy()
        if len(numbers):
            scores[numbers] += matching / matching.max() * (1.0 + scores[numbers] / scores.max())
        ranked = ranking.rank(Known(scores), msgspec.structs.replace(wishes, explore=None), likely.latest)
        liked = set(numbers.tolist())
        reasons: list[Reason] = [(LIKED if number in liked else POPULAR, None) for number in ranked.numbers]
        return Answer(self._listed(ranked, "interests", reasons), None)

    def _likely(
        self,
        user_id: str | None,
        since: Sequence[Action],
        session: Sequence[Action],
        now: float,
        method: Method = MODEL,
    ) -> _Likely:
        began = time.perf_counter()
        past, kept = self._reader.past(user_id, since, now)
        read_at = time.perf_counter()
        running = self._reader.session(user_id, past, session, now)
        deeds = past.deeds.and_then(running.tokens.columns)
        if method == NEIGHBOURS and deeds.lately:
            return _Likely(NEIGHBOURS, self._near(deeds), None, deeds, running.latest)
        if method != MODEL or not self._reader.tells(past, running):
            return _Likely("popular", self._popular, None, deeds, running.latest)
        read = self._reader.read(user_id, past, running)
        scores = NextItem(self.bundle.items, self._scan, read, past.copies, running.tokens.columns[0])
        spent = Spent(kept, read_at - began, time.perf_counter() - read_at)
        return _Likely("model", scores, float(read["intent"][0]), deeds, running.latest, spent)

    def _in(self, situation: Situation, likely: _Likely) -> _Likely:
        """How likely items are where some are taken more than expected, and the user may be tired of others."""
        rising = None if situation.lately is None else self._rising(situation.lately)
        if rising is not None:
            likely = likely._replace(scores=Mixed(likely.scores, rising), rising=rising)
        return likely._replace(tired=self._tired(situation.looks))

    def _tired(self, looks: Mapping[str, float]) -> Tired | None:
        remains = self.bundle.fatigue
        if not len(remains) or not looks:
            return None
        numbers, counts = self.bundle.vocabulary.numbers(list(looks)), np.fromiter(looks.values(), float, len(looks))
        known = numbers >= FIRST_ITEM
        if not known.any():
            return None
        return Tired(numbers[known], np.interp(counts[known], np.arange(len(remains)), remains))

    def _rising(self, lately: Lately) -> Rising | None:
        if self._seen_lately is None or self._seen_lately[0] is not lately:
            self._seen_lately = lately, lately.above(self._shares, self.bundle.vocabulary)
        return self._seen_lately[1]

    def _near(self, deeds: Deeds) -> Known:
        """Likeness [V] to what somebody did last, later things more; the items themselves are left out."""
        numbers = np.asarray([number for number, _ in deeds.lately[-_LAST_ITEMS:]])
        weights = _FADING ** np.arange(len(numbers))[::-1]
        likeness = self.bundle.items.products((weights @ self.bundle.items[numbers]).astype(np.float32))
        likeness[numbers] = 0.0
        return Known(likeness)

    def _listed(self, ranked: Ranked, source: str, reasons: Sequence[Reason]) -> list[Recommendation]:
        vocabulary = self.bundle.vocabulary
        return [
            Recommendation(
                vocabulary.item_id(number),
                vocabulary.title(number),
                score,
                "pinned" if number in ranked.pinned else source,
                *((PINNED, None) if number in ranked.pinned else reason),
            )
            for number, score, reason in zip(ranked.numbers, ranked.scores, reasons, strict=True)
        ]

    def forget(self, user_id: str | None) -> None:
        """Drops what is kept of a user between answers; the bundle stays as it is."""
        self._reader.forget(user_id)

    def warm(self, serving: Engine, seconds: float = _WARM_SECONDS) -> None:
        """Encodes the histories of those who asked another engine last, so that taking over from it costs them no time.

        That one may answer and forget users meanwhile; whom it forgets is not kept here either.
        """
        self._reader.warm(serving._reader, seconds)

    def rest(self) -> None:
        """Keeps less between answers, for an engine that does not serve any more."""
        self._reader.rest()

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
        found = self._recommend(self._unruled, self._likely(request["user_id"], (), session, request["now"]), wishes)
        return [{"item_id": item.item_id, "score": item.score} for item in found.items]

    def first_answer(self, pause: Pause = no_pause) -> None:
        """Answers one golden request and prepares for searches, so that nobody waits for what the first one needs."""
        if "_text" not in self.__dict__:
            self._text = _text_index(self.bundle, pause)
        self.bundle.vocabulary.find_content_names(pause)
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
        return _text_index(self.bundle, no_pause)


def _text_index(bundle: Bundle, pause: Pause) -> TextIndex:
    from recsys_tasks.engine.text_index import TextIndex  # a library that only an endpoint needs

    return TextIndex(bundle.vocabulary, pause)


def unix_now() -> float:
    """The present time in seconds since 1970."""
    return time.time()
