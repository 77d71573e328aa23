"""Lists for callers: who asks in which session, what the model that serves says, and a record of what was shown."""

from __future__ import annotations

import time
import uuid
from typing import Final, NamedTuple

import msgspec

from recsys_tasks.engine.engine import MODEL, Answer, Engine, Method, Situation, unix_now
from recsys_tasks.engine.ranking import Exploration, Wishes
from recsys_tasks.engine.session_decoder import Action
from recsys_tasks.experiments.definition import PREVIOUS, Arm, Experiment, interleave
from recsys_tasks.names import ADD_TO_CART, ANONYMOUS, NEW, PURCHASE, RECOMMENDATIONS, RETURNING, SEARCH
from recsys_tasks.serving.erasure import Forgotten
from recsys_tasks.serving.follower import Tail
from recsys_tasks.serving.impressions import Impressions, Shown
from recsys_tasks.serving.live_state import LiveState
from recsys_tasks.serving.messages import (
    Event,
    RecommendationAnswer,
    RecommendationRequest,
    RequestError,
    SearchAnswer,
    SearchRequest,
)
from recsys_tasks.serving.metrics import Metrics
from recsys_tasks.serving.model_store import Models

SEARCHED: Final = "search"


class _Made(NamedTuple):
    """A list and how it came about: of which kind, by which engine, in which arm, whose its places are, since when."""

    kind: str
    request_id: str
    engine: Engine
    found: Answer
    arm: Arm | None
    teams: list[str] | None
    began: float


class Lists:
    """Answers requests for lists of one endpoint.

    Args:
        models: what serves; forgotten: who is not to be looked up in it.
        state: what users did since; others: where other workers write down more of that.
        impressions: where what is shown and searched is noted.
        metrics: of the endpoint; explore_share: of the places in recorded lists, to draw an item for.
        experiment: that divides the visitors into arms, if there is one.
    """

    def __init__(
        self,
        models: Models,
        forgotten: Forgotten,
        state: LiveState,
        others: Tail,
        impressions: Impressions,
        metrics: Metrics,
        explore_share: float = 0.0,
        experiment: Experiment | None = None,
    ) -> None:
        self._models, self._forgotten, self._state, self._others = models, forgotten, state, others
        self._impressions, self._metrics = impressions, metrics
        self._explore_share, self._experiment = explore_share, experiment

    def recommend(self, asked: RecommendationRequest, complete: bool = True) -> RecommendationAnswer:
        """What a user in a session may want next, by the arm that the visitor is in."""
        began = time.perf_counter()
        past, session, now = self._context(asked)
        situation = self._situation(asked, now)
        request_id = uuid.uuid4().hex
        visitor, arm = _visitor(asked), self._arm(asked)
        explore = Exploration(self._explore_share, request_id) if asked.record and self._explore_share else None
        if arm is not None and arm.against is not None:
            explore = None  # an item's place is to tell whose it is

        def ask(engine: Engine, method: Method = MODEL) -> Answer:
            known_as, wishes = self._wishes(asked, engine, [*past, *session], explore)
            return engine.recommend(known_as, past, session, now, wishes, method, situation)

        teams = None
        if arm is None or arm.answers == MODEL:
            engine, found = self._models.answer(self.engine(), visitor, ask)
        elif arm.answers == PREVIOUS:
            engine = self._models.before or self.engine()  # which version it was is noted with the arm
            found = ask(engine)
        else:
            engine = self.engine()
            found = ask(engine, arm.answers)
        if arm is not None and arm.against is not None:
            found, teams = interleave(
                (arm.answers, found), (arm.against, ask(engine, arm.against)), asked.k, request_id
            )
        return self._answer(asked, _Made(RECOMMENDATIONS, request_id, engine, found, arm, teams, began), complete)

    def search(self, asked: SearchRequest, complete: bool = True) -> tuple[SearchAnswer, list[Event]]:
        """Items that match; where no item has a word of the query, what else may please, marked as such. And the search
        as something that the user did, if it is to be recorded."""
        began = time.perf_counter()
        past, session, now = self._context(asked)
        situation = self._situation(asked, now)
        request_id = uuid.uuid4().hex

        def ask(engine: Engine) -> Answer:
            known_as, wishes = self._wishes(asked, engine, [*past, *session])
            found = engine.search(known_as, past, session, now, asked.query, wishes, situation)
            return found if found.items else engine.recommend(known_as, past, session, now, wishes, MODEL, situation)

        engine, found = self._models.answer(self.engine(), _visitor(asked), ask)
        made = _Made(SEARCHED, request_id, engine, found, self._arm(asked), None, began)
        answer = self._answer(asked, made, complete)
        fallback = not any(item.source == "search" for item in answer.items)
        events = []
        if asked.record:
            events.append(self._impressions.note_search(asked, request_id))
            self._state.add(events[0])
        return SearchAnswer(**msgspec.structs.asdict(answer), fallback=fallback), events

    def _arm(self, asked: RecommendationRequest) -> Arm | None:
        """The arm of whoever asks; none of nobody, nor of what is not recorded, which gets the model's list."""
        visitor = _visitor(asked)
        if self._experiment is None or visitor is None or not asked.record:
            return None
        return self._experiment.arm_of(visitor)

    def _answer(self, asked: RecommendationRequest, made: _Made, complete: bool) -> RecommendationAnswer:
        self._metrics.list_made(made.found)
        version = made.engine.bundle.model_version
        if asked.record:
            about = {"list": made.kind, "segment": self._segment(asked, made.engine)}
            if self._experiment is not None and made.arm is not None:
                about |= {"experiment": self._experiment.name, "arm": made.arm.name}
            milliseconds = 1e3 * (time.perf_counter() - made.began)
            shown = Shown(made.found, made.request_id, version, made.teams, about, milliseconds)
            self._impressions.note(asked, shown)
            visitor, items = _visitor(asked), [item.item_id for item in made.found.items]
            if visitor is not None:
                self._state.looks.shown(visitor, items, made.engine.bundle.examination, _time(asked))
        return RecommendationAnswer(made.request_id, version, made.found.purchase_intent, complete, made.found.items)

    def _segment(self, asked: RecommendationRequest, engine: Engine) -> str:
        """What the model knows of whoever asks, from before it was made."""
        if asked.user_id is None:
            return ANONYMOUS
        known_as = self._known_as(asked.user_id, engine)
        return RETURNING if known_as in engine.bundle.histories.row_of else NEW

    def _situation(self, asked: RecommendationRequest, now: float) -> Situation:
        return Situation(self._state.lately(now), self._state.looks.of(_visitor(asked), now))

    def _wishes(
        self,
        asked: RecommendationRequest,
        engine: Engine,
        actions: list[Action],
        explore: Exploration | None = None,
    ) -> tuple[str | None, Wishes]:
        """By what id the bundle knows the user, and what is wanted of the list."""
        known_as = self._known_as(asked.user_id, engine)
        exclude = self._excluded(asked, engine, known_as, actions)
        return known_as, Wishes(
            asked.k, exclude, asked.filter, asked.diversity, asked.at_most_per_category, asked.interests, explore
        )

    def _excluded(
        self, asked: RecommendationRequest, engine: Engine, known_as: str | None, actions: list[Action]
    ) -> frozenset[str]:
        """Ids of the items that the caller does not want in the list."""
        found = {*asked.exclude, *asked.context_items}
        if asked.exclude_seen:
            found |= engine.seen(known_as) | {action.item_id for action in actions}
        if asked.exclude_bought:
            found |= engine.seen(known_as, PURCHASE)
            found |= {action.item_id for action in actions if action.event_type == PURCHASE}
        return frozenset(found)

    def listen(self) -> None:
        """Takes in what other workers were told meanwhile."""
        self._state.replay(self._others.lines())

    def engine(self) -> Engine:
        """The engine that serves.

        Raises:
            RequestError: none does.
        """
        if self._models.engine is None:
            raise RequestError(503, "No model yet", "no model was promoted to this endpoint so far")
        return self._models.engine

    def _known_as(self, user_id: str | None, engine: Engine) -> str | None:
        """The id by which to look a user up in the bundle: none for one forgotten since it was made."""
        forgotten = user_id is not None and self._forgotten.hides(user_id, engine.bundle.cutoff)
        return None if forgotten else user_id

    def _context(self, asked: RecommendationRequest) -> tuple[list[Action], list[Action], float]:
        """What the user did outside the session, what the session did, and when it began."""
        self.listen()
        now = _time(asked)
        session_id = asked.session_id
        if session_id is None and not asked.session:
            session_id = self._state.running_session(asked.user_id, now)
        live = self._state.of_session(session_id)
        told = [
            Action(
                event.item_id or "",
                event.event_type,
                event.event_time.timestamp() if event.event_time else now,
                query=(event.query or "") if event.event_type == SEARCH else "",
            )
            for event in asked.session
        ]
        if live:
            known = {(action.item_id, action.event_type, action.query) for action in live}
            told = [action for action in told if (action.item_id, action.event_type, action.query) not in known]
        session = live + told
        session.sort(key=lambda action: action.seconds)
        latest = max([now, *(action.seconds for action in session)])
        if asked.query is not None:
            session.append(Action("", SEARCH, latest, query=asked.query))
        session += [Action(item_id, ADD_TO_CART, latest) for item_id in asked.context_items]
        past = self._state.of_user(asked.user_id)
        if past:
            of_session = {action.event_id for action in live}
            in_session = {(action.item_id, action.event_type, action.seconds) for action in session}
            past = [
                action
                for action in past
                if action.event_id not in of_session
                and (action.item_id, action.event_type, action.seconds) not in in_session
            ]
        return past, session, min([now, *(action.seconds for action in session)])


def _visitor(asked: RecommendationRequest) -> str | None:
    """Who asks: a user, or a session of nobody; None where neither is told."""
    return asked.user_id or asked.session_id


def _time(asked: RecommendationRequest) -> float:
    """As of when, in seconds since 1970."""
    return asked.time.timestamp() if asked.time else unix_now()
