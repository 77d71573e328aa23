"""Lists for callers: who asks in which session, what the model that serves says, and a record of what was shown."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from recsys_tasks.names import ADD_TO_CART, IMPRESSION, PURCHASE, SEARCH
from recsys_tasks.serving.engine import Answer, Engine, unix_now
from recsys_tasks.serving.forgetting import Forgotten
from recsys_tasks.serving.journal import Journal
from recsys_tasks.serving.messages import (
    Event,
    RecommendationAnswer,
    RecommendationRequest,
    RequestError,
    SearchAnswer,
    SearchRequest,
    as_lines,
)
from recsys_tasks.serving.metrics import Metrics
from recsys_tasks.serving.models import Models
from recsys_tasks.serving.ranking import Exploration, Wishes
from recsys_tasks.serving.reader import Action
from recsys_tasks.serving.state import LiveState
from recsys_tasks.serving.tail import Tail

log = logging.getLogger(__name__)


class Lists:
    """Answers requests for lists of one endpoint.

    Args:
        models: what serves; forgotten: who is not to be looked up in it.
        state: what users did since; others: where other workers write down more of that.
        journal: for what is shown and searched.
        metrics: of the endpoint; explore_share: of the places in recorded lists, to draw an item for.
    """

    def __init__(
        self,
        models: Models,
        forgotten: Forgotten,
        state: LiveState,
        others: Tail,
        journal: Journal,
        metrics: Metrics,
        explore_share: float = 0.0,
    ) -> None:
        self._models, self._forgotten, self._state, self._others = models, forgotten, state, others
        self._journal, self._metrics, self._explore_share = journal, metrics, explore_share

    def recommend(self, asked: RecommendationRequest, complete: bool = True) -> RecommendationAnswer:
        """What a user in a session may want next."""
        past, session, now = self._context(asked)
        request_id = uuid.uuid4().hex
        explore = Exploration(self._explore_share, request_id) if asked.record and self._explore_share else None

        def ask(engine: Engine) -> Answer:
            known_as, wishes = self._wishes(asked, engine, [*past, *session], explore)
            return engine.recommend(known_as, past, session, now, wishes)

        return self._answer(asked, ask, request_id, complete)

    def search(self, asked: SearchRequest, complete: bool = True) -> tuple[SearchAnswer, list[Event]]:
        """Items that match; where no item has a word of the query, what else may please, marked as such. And the search
        as something that the user did, if it is to be recorded."""
        past, session, now = self._context(asked)
        request_id = uuid.uuid4().hex

        def ask(engine: Engine) -> Answer:
            known_as, wishes = self._wishes(asked, engine, [*past, *session])
            found = engine.search(known_as, past, session, now, asked.query, wishes)
            return found if found.items else engine.recommend(known_as, past, session, now, wishes)

        answer = self._answer(asked, ask, request_id, complete)
        fallback = not any(item.source == "search" for item in answer.items)
        events = self._record_search(asked, request_id) if asked.record else []
        return SearchAnswer(**msgspec.structs.asdict(answer), fallback=fallback), events

    def _answer(
        self, asked: RecommendationRequest, ask: Callable[[Engine], Answer], request_id: str, complete: bool
    ) -> RecommendationAnswer:
        engine, found = self._models.answer(self.engine(), asked.user_id or asked.session_id, ask)
        self._metrics.list_made(found)
        version = engine.bundle.model_version
        if asked.record:
            self._record_impressions(asked, found, request_id, version)
        return RecommendationAnswer(request_id, version, found.purchase_intent, complete, found.items)

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
        now = asked.time.timestamp() if asked.time else unix_now()
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

    def _record_impressions(self, asked: RecommendationRequest, found: Answer, request_id: str, version: str) -> None:
        shared = _who_and_when(asked, request_id)
        propensities = [{"propensity": drawn} for drawn in found.propensities or ()] or [{}] * len(found.items)
        impressions = [
            Event(
                event_type=IMPRESSION,
                event_id=f"{request_id}-{position}",
                item_id=item.item_id,
                position=position,
                properties={"model_version": version, "score": item.score, "source": item.source, **drawn},
                **shared,
            )
            for position, (item, drawn) in enumerate(zip(found.items, propensities, strict=True), start=1)
        ]
        self._note(impressions, f"Impressions of request {request_id}")

    def _record_search(self, asked: SearchRequest, request_id: str) -> list[Event]:
        """Notes the search as something that the user did, which counts in the next answer."""
        event = Event(event_type=SEARCH, event_id=request_id, query=asked.query, **_who_and_when(asked, request_id))
        self._note([event], f"The words of search {request_id}")
        self._state.add(event)
        return [event]

    def _note(self, events: list[Event], what: str) -> None:
        try:
            self._journal.note(as_lines(events))
        except OSError as error:
            log.error("%s were lost: %s", what, error)


def _who_and_when(asked: RecommendationRequest, request_id: str) -> dict[str, Any]:
    """What every event of a request has: one of nobody is in a session of its own."""
    return {
        "user_id": asked.user_id,
        "session_id": asked.session_id or (None if asked.user_id else f"anonymous-{request_id}"),
        "event_time": (asked.time or datetime.now(UTC)).astimezone(UTC),
        "request_id": request_id,
    }
