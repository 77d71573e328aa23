"""Recommendation service: builds the list options, picks the model and the arm, and records the list it returns."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final, NamedTuple

import msgspec

from recsys_tasks.engine.engine import MODEL, Answer, Engine, LiveSignals, Method, SearchAnswer, unix_now
from recsys_tasks.engine.ranking import Exploration, ListOptions
from recsys_tasks.engine.search_options import SearchOptions
from recsys_tasks.engine.session_decoder import Action
from recsys_tasks.experiments.definition import PREVIOUS, Arm, Experiment, interleave
from recsys_tasks.names import ADD_TO_CART, ANONYMOUS, NEW, PURCHASE, RECOMMENDATIONS, RETURNING, SEARCH
from recsys_tasks.serving.erasure import ErasedUsers
from recsys_tasks.serving.follower import EventLogFollower
from recsys_tasks.serving.impressions import ImpressionLog, ServedList
from recsys_tasks.serving.live_state import LiveState
from recsys_tasks.serving.messages import RequestError
from recsys_tasks.serving.metrics import Metrics
from recsys_tasks.serving.model_store import ModelStore
from recsys_tasks.serving.pagination import decode_cursor, encode_cursor
from recsys_tasks.serving.request_ids import new_request_id
from recsys_tasks.wire.items import SearchResult
from recsys_tasks.wire.messages import (
    Event,
    InterestedUser,
    InterestedUsersResponse,
    RecommendationRequest,
    RecommendationResponse,
    SearchRequest,
    SearchResponse,
    SimilarItemsRequest,
    SimilarItemsResponse,
    SuggestedItem,
    SuggestionsResponse,
)
from recsys_tasks.wire.rules import MerchandisingRules

SEARCH_RESULTS: Final = "search"
_MAX_RECORDED_IDS = 10_000


class _RankedList(NamedTuple):
    """A list before it is recorded.

    Attributes:
        kind: `recommendations` or `search`.
        request_id: id of the request.
        engine: the engine that made the list.
        answer: the items.
        arm: arm of the visitor, if an experiment runs.
        teams: the team of each item in an interleaved list, else None.
        began: start of the request, of `time.perf_counter`.
    """

    kind: str
    request_id: str
    engine: Engine
    answer: Answer
    arm: Arm | None
    teams: list[str] | None
    began: float


class RecommendationService:
    """Makes recommendation and search lists for the callers of one endpoint.

    Args:
        models: active, previous and challenger model.
        erased_users: erased users; their histories in older bundles are not read.
        state: user actions since the bundle's cut-off.
        other_event_logs: event logs of the other workers on this machine.
        impression_log: records lists and searches.
        metrics: Prometheus metrics of the endpoint.
        exploration_share: share of the positions of recorded lists that are drawn at random.
        experiment: assigns visitors to arms, if an experiment runs.
    """

    def __init__(
        self,
        models: ModelStore,
        erased_users: ErasedUsers,
        state: LiveState,
        other_event_logs: EventLogFollower,
        impression_log: ImpressionLog,
        metrics: Metrics,
        exploration_share: float = 0.0,
        experiment: Experiment | None = None,
    ) -> None:
        self._models, self._erased_users, self._state, self._other_event_logs = (
            models,
            erased_users,
            state,
            other_event_logs,
        )
        self._impression_log, self._metrics = impression_log, metrics
        self._exploration_share, self._experiment = exploration_share, experiment
        self._recorded_ids: OrderedDict[str, None] = OrderedDict()

    def check(self, request: RecommendationRequest) -> None:
        """Checks that the active model can make a list.

        Raises:
            RequestError: the list depends on a query, but the model was not trained on any (422); or none is active
                (503).
        """
        is_search = isinstance(request, SearchRequest)
        if request.query is not None and not is_search and not self.active_engine().bundle.has_query_input:
            problem = "the active model was not trained on searches, so `query` has no effect; use `POST /v1/search`"
            raise RequestError(422, "No query input", problem)

    def recommend(
        self, request: RecommendationRequest, is_complete: bool = True, idempotency_key: str | None = None
    ) -> RecommendationResponse:
        """Returns the recommended items for a user in a session, made by the visitor's arm.

        Args:
            request: what the caller asks for.
            is_complete: whether the shared state of other endpoints could be read.
            idempotency_key: lists with the same key have the same request id.
        """
        began = time.perf_counter()
        past, session, session_start = self._user_context(request)
        signals = self._live_signals(request, session_start)
        request_id = new_request_id(request.record, idempotency_key)
        visitor, arm = _visitor_id(request), self._assign_arm(request)
        exploration = (
            Exploration(self._exploration_share, request_id) if request.record and self._exploration_share else None
        )
        if arm is not None and arm.against is not None:
            exploration = None  # in an interleaved list, each position belongs to one team

        def rank(engine: Engine, method: Method = MODEL) -> Answer:
            user_id, options = self._list_options(request, engine, [*past, *session], exploration)
            return engine.recommend(user_id, past, session, session_start, options, method, signals)

        teams = None
        if arm is None or arm.answers == MODEL:
            engine, answer = self._models.answer(self.active_engine(), visitor, rank)
        elif arm.answers == PREVIOUS:
            engine = self._models.previous_engine or self.active_engine()  # the impressions name the version
            answer = rank(engine)
        else:
            engine = self.active_engine()
            answer = rank(engine, arm.answers)
        if arm is not None and arm.against is not None:
            answer, teams = interleave(
                (arm.answers, answer), (arm.against, rank(engine, arm.against)), request.k, request_id
            )
        ranked = _RankedList(RECOMMENDATIONS, request_id, engine, answer, arm, teams, began)
        return self._record_and_respond(request, ranked, is_complete)

    def preview_rules(self, request: RecommendationRequest, rules: MerchandisingRules) -> RecommendationResponse:
        """Returns the list of a request under other rules than those in use; nothing is recorded."""
        began, request.record = time.perf_counter(), False
        past, session, session_start = self._user_context(request)
        engine = self.active_engine().with_rules(rules)
        user_id, options = self._list_options(request, engine, [*past, *session])
        signals = self._live_signals(request, session_start)
        answer = engine.recommend(user_id, past, session, session_start, options, MODEL, signals)
        request_id = new_request_id(False, None)
        ranked = _RankedList(RECOMMENDATIONS, request_id, engine, answer, None, None, began)
        return self._record_and_respond(request, ranked, True)

    def search(
        self, request: SearchRequest, is_complete: bool = True, idempotency_key: str | None = None
    ) -> tuple[SearchResponse, list[Event]]:
        """Returns the items that match a query, or recommendations marked as fallback where no item matches.

        Also returns the search as a user action, if the request is recorded. For the arguments see `recommend`.
        """
        began = time.perf_counter()
        past, session, session_start = self._user_context(request)
        signals = self._live_signals(request, session_start)
        request_id = new_request_id(request.record, idempotency_key)

        search = SearchOptions(
            request.sort,
            decode_cursor(request.cursor, request) if request.cursor else 0,
            tuple(request.facets),
            request.explain,
            request.highlight,
        )
        computed: list[tuple[Answer, SearchAnswer]] = []  # a challenger in shadow mode computes one, too, in its thread

        def rank(engine: Engine) -> Answer:
            user_id, options = self._list_options(request, engine, [*past, *session])
            found = engine.search(user_id, past, session, session_start, request.query, options, search, signals)
            answer = found.answer
            if not found.total:
                fallback = engine.recommend(user_id, past, session, session_start, options, MODEL, signals)
                answer = fallback._replace(
                    items=[SearchResult(*msgspec.structs.astuple(item)) for item in fallback.items]
                )
            computed.append((answer, found))
            return answer

        engine, answer = self._models.answer(self.active_engine(), _visitor_id(request), rank)
        found = next(search_answer for own_answer, search_answer in computed if own_answer is answer)
        ranked = _RankedList(SEARCH_RESULTS, request_id, engine, answer, self._assign_arm(request), None, began)
        response = self._record_and_respond(request, ranked, is_complete)
        end = search.offset + len(response.items)
        events = []
        if request.record and not search.offset:
            events.append(self._impression_log.record_search(request, request_id, found))
            self._state.add(events[0])
        return (
            SearchResponse(
                **msgspec.structs.asdict(response),
                fallback=not found.total,
                total=found.total,
                facets=found.facets,
                relaxations=list(found.relaxations),
                next_cursor=encode_cursor(end, request) if response.items and end < found.reachable else None,
            ),
            events,
        )

    def find_similar(self, item_id: str, request: SimilarItemsRequest) -> SimilarItemsResponse:
        """Returns the items nearest to an item.

        Raises:
            InputError: the model does not know the item.
        """
        engine = self.active_engine()
        self.read_other_workers()
        as_list = RecommendationRequest(**msgspec.structs.asdict(request))
        _, options = self._list_options(as_list, engine, self._state.get_user_actions(request.user_id))
        items = engine.find_similar(item_id, options, unix_now())
        return SimilarItemsResponse(
            engine.bundle.model_version,
            [engine.with_data(item, request.fields) for item in items] if request.fields else items,
        )

    def find_users(self, item_id: str, k: int) -> InterestedUsersResponse:
        """Returns users who may like an item, without erased ones.

        Raises:
            InputError: the model does not know the item.
        """
        engine = self.active_engine()
        users = [
            InterestedUser(user_id, score)
            for user_id, score in engine.find_users(item_id, k)
            if self._bundle_user_id(user_id, engine) is not None
        ]
        return InterestedUsersResponse(engine.bundle.model_version, users)

    def most_active_users(self, count: int) -> list[str]:
        """Returns the users with the longest histories in the active model; none without a model."""
        engine = self._models.engine
        if engine is None:
            return []
        users = engine.bundle.most_active_users
        return [user_id for user_id in users if self._bundle_user_id(user_id, engine) is not None][:count]

    def suggest(self, prefix: str, k: int) -> SuggestionsResponse:
        """Returns completions of an unfinished query: at most k queries and k items."""
        engine = self.active_engine()
        items = [
            SuggestedItem(item.item_id, item.title, str(item.highlight))
            for item in engine.suggest_items(prefix, k, unix_now())
        ]
        return SuggestionsResponse(engine.suggest_queries(prefix, k), items)

    def _assign_arm(self, request: RecommendationRequest) -> Arm | None:
        """Returns the arm of the visitor; None for anonymous and unrecorded requests, which get the model's list."""
        visitor = _visitor_id(request)
        if self._experiment is None or visitor is None or not request.record:
            return None
        return self._experiment.assign_arm(visitor)

    def _record_and_respond(
        self, request: RecommendationRequest, ranked: _RankedList, is_complete: bool
    ) -> RecommendationResponse:
        engine, answer = ranked.engine, ranked.answer
        self._metrics.observe_list(answer)
        version = engine.bundle.model_version
        if request.record and not self._is_repeated(ranked.request_id):
            labels = {"list": ranked.kind, "segment": self._user_segment(request, engine)}
            if self._experiment is not None and ranked.arm is not None:
                labels |= {"experiment": self._experiment.name, "arm": ranked.arm.name}
            latency_ms = 1e3 * (time.perf_counter() - ranked.began)
            served = ServedList(answer, ranked.request_id, version, ranked.teams, labels, latency_ms)
            self._impression_log.record_list(request, served)
            visitor, item_ids = _visitor_id(request), [item.item_id for item in answer.items]
            if visitor is not None:
                self._state.unclicked_impressions.add_list(
                    visitor, item_ids, engine.bundle.examination_propensities, _request_time(request)
                )
        items = answer.items
        if request.fields:
            items = [engine.with_data(item, request.fields) for item in items]
        arm = None if ranked.arm is None else ranked.arm.name
        return RecommendationResponse(
            ranked.request_id, version, answer.purchase_intent, is_complete, request.record, items, arm
        )

    def _is_repeated(self, request_id: str) -> bool:
        """Whether a list was recorded before, because a caller sent its request again."""
        if request_id in self._recorded_ids:
            return True
        self._recorded_ids[request_id] = None
        if len(self._recorded_ids) > _MAX_RECORDED_IDS:
            self._recorded_ids.popitem(last=False)
        return False

    def _user_segment(self, request: RecommendationRequest, engine: Engine) -> str:
        """Returns the segment of the user: anonymous, new, or returning (has a history in the bundle)."""
        if request.user_id is None:
            return ANONYMOUS
        user_id = self._bundle_user_id(request.user_id, engine)
        return RETURNING if user_id in engine.bundle.histories.row_of else NEW

    def _live_signals(self, request: RecommendationRequest, now: float) -> LiveSignals:
        return LiveSignals(
            self._state.recent_popularity(now), self._state.unclicked_impressions.counts(_visitor_id(request), now)
        )

    def _list_options(
        self,
        request: RecommendationRequest,
        engine: Engine,
        actions: list[Action],
        exploration: Exploration | None = None,
    ) -> tuple[str | None, ListOptions]:
        """Returns the user's id in the bundle, and the options of the list."""
        user_id = self._bundle_user_id(request.user_id, engine)
        exclude = self._excluded_items(request, engine, user_id, actions)
        return user_id, ListOptions(
            request.k,
            exclude,
            request.filter,
            request.diversity,
            request.at_most_per_category,
            request.interests,
            exploration,
            request.rules,
        )

    def _excluded_items(
        self, request: RecommendationRequest, engine: Engine, user_id: str | None, actions: list[Action]
    ) -> frozenset[str]:
        """Returns the ids of the items that the request excludes from the list."""
        item_ids = {*request.exclude, *request.context_items}
        if request.exclude_seen:
            item_ids |= engine.seen_item_ids(user_id) | {action.item_id for action in actions}
        if request.exclude_bought:
            item_ids |= engine.seen_item_ids(user_id, PURCHASE)
            item_ids |= {action.item_id for action in actions if action.event_type == PURCHASE}
        return frozenset(item_ids)

    def read_other_workers(self) -> None:
        """Reads the new events in the event logs of the other workers."""
        self._state.replay(self._other_event_logs.read_lines())

    def active_engine(self) -> Engine:
        """Returns the engine of the active model.

        Raises:
            RequestError: no model is active (503).
        """
        if self._models.engine is None:
            raise RequestError(503, "No model", "no model is active on this endpoint; promote one to it")
        return self._models.engine

    def _bundle_user_id(self, user_id: str | None, engine: Engine) -> str | None:
        """Returns the id to look a user up in the bundle; None if the user was erased after the bundle's cut-off."""
        is_erased = user_id is not None and self._erased_users.is_erased(user_id, engine.bundle.cutoff)
        return None if is_erased else user_id

    def _user_context(self, request: RecommendationRequest) -> tuple[list[Action], list[Action], float]:
        """Returns the user's actions outside the session, the actions of the session, and the session's start time.

        Recorded actions and those sent with the request are merged; an action in both counts once.
        """
        self.read_other_workers()
        now = _request_time(request)
        session_id = request.session_id
        if session_id is None and not request.session:
            session_id = self._state.find_running_session(request.user_id, now)
        recorded = self._state.get_session_actions(session_id, request.user_id)
        sent = [
            Action(
                event.item_id or "",
                event.event_type,
                event.event_time.timestamp() if event.event_time else now,
                query=(event.query or "") if event.event_type == SEARCH else "",
            )
            for event in request.session
        ]
        if recorded:
            recorded_keys = {(action.item_id, action.event_type, action.query) for action in recorded}
            sent = [action for action in sent if (action.item_id, action.event_type, action.query) not in recorded_keys]
        session = recorded + sent
        session.sort(key=lambda action: action.seconds)
        latest = max([now, *(action.seconds for action in session)])
        if request.query is not None:
            session.append(Action("", SEARCH, latest, query=request.query))
        session += [Action(item_id, ADD_TO_CART, latest) for item_id in request.context_items]
        past = self._state.get_user_actions(request.user_id)
        if past:
            session_event_ids = {action.event_id for action in recorded}
            session_keys = {(action.item_id, action.event_type, action.seconds) for action in session}
            past = [
                action
                for action in past
                if action.event_id not in session_event_ids
                and (action.item_id, action.event_type, action.seconds) not in session_keys
            ]
        return past, session, min([now, *(action.seconds for action in session)])


def _visitor_id(request: RecommendationRequest) -> str | None:
    """Returns the user id, else the session id, else None."""
    return request.user_id or request.session_id


def _request_time(request: RecommendationRequest) -> float:
    """Returns the time of the request, in seconds since 1970."""
    return request.time.timestamp() if request.time else unix_now()
