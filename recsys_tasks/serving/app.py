"""HTTP application of the endpoint: its components and its routes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette_compress import CompressMiddleware

from recsys_tasks.engine.item_updates import ItemUpdates
from recsys_tasks.engine.merchandising import read_rules
from recsys_tasks.engine.search_options import SearchSetup
from recsys_tasks.errors import InputError, UnavailableError
from recsys_tasks.experiments.definition import read_experiment
from recsys_tasks.names import IMPRESSION
from recsys_tasks.search.settings import read_search_settings
from recsys_tasks.serving.access import ADMIN, ITEMS, OPEN, READ, WRITE, AccessControl, Scope
from recsys_tasks.serving.admin import AdminRoutes
from recsys_tasks.serving.callers import Callers
from recsys_tasks.serving.deprecation import deprecation_headers
from recsys_tasks.serving.erasure import ErasedUsers, erase_lines, find_user_lines
from recsys_tasks.serving.event_log import EventLog, LogRetention
from recsys_tasks.serving.follower import EventLogFollower
from recsys_tasks.serving.http import (
    check_content_type,
    handle_http_exception,
    json_response,
    problem_response,
    read_body,
    read_idempotency_key,
    revalidate,
)
from recsys_tasks.serving.impressions import ImpressionLog
from recsys_tasks.serving.items import ItemRoutes
from recsys_tasks.serving.live_state import LiveState
from recsys_tasks.serving.logs import REQUEST_ID, access_logger, set_request_id
from recsys_tasks.serving.messages import (
    RequestError,
    decode_batch,
    decode_event,
    decode_request,
    decode_rules_preview,
    decode_search,
    decode_similar,
    parse_id,
    parse_list_length,
    parse_prefix,
    serialize_events,
    split_events,
)
from recsys_tasks.serving.metrics import Metrics
from recsys_tasks.serving.model_store import ModelStore
from recsys_tasks.serving.openapi import build_openapi_document
from recsys_tasks.serving.overload import LoadSheddingMiddleware, QueueEstimator
from recsys_tasks.serving.pages import PageMiddleware
from recsys_tasks.serving.query_encoder import CachedQueryEncoder
from recsys_tasks.serving.recommendations import RecommendationService
from recsys_tasks.serving.request_ids import is_recorded
from recsys_tasks.serving.rules import RuleRoutes, RuleVersions
from recsys_tasks.serving.shared_state import SharedState
from recsys_tasks.serving.tracing import create_tracer
from recsys_tasks.serving.workers import WorkerFolders
from recsys_tasks.settings import Settings
from recsys_tasks.wire.messages import EventsResponse, RecommendationRequest, SimilarItemsRequest

log = logging.getLogger(__name__)

_MAX_EVENTS_PER_REQUEST = 1_000
_EVENTS_PER_YIELD = 100
_MAX_SESSION = timedelta(days=1)
_MIN_COMPRESSED_BYTES = 4_096  # a usual list is smaller, and faster sent than compressed

Handler = Callable[[Request], Awaitable[Response]]


class Endpoint:
    """One endpoint: its models, its event log, its state of users and sessions, and the handlers of its routes."""

    def __init__(self, settings: Settings, folders: WorkerFolders) -> None:
        home = folders.home
        self.access = AccessControl(settings)
        self.tracer = create_tracer(settings)
        self.queue = QueueEstimator(settings.max_queue_wait_ms / 1e3)
        self.item_log = EventLog(home / "items")
        self.other_item_logs = EventLogFollower([other / "items" for other in folders.other_homes])
        self.item_updates = ItemUpdates(chain(self.item_log.read_lines(), self.other_item_logs.read_lines()))
        experiment = read_experiment(settings.experiment_file)
        rule_versions = RuleVersions(settings.home / "rules", read_rules(settings.merchandising_rules))
        rules = rule_versions.latest()
        self.models = ModelStore(
            home / "bundles",
            settings.endpoint_memory_mb,
            rules.rules,
            SearchSetup(
                read_search_settings(settings.search_settings),
                CachedQueryEncoder(settings.text_encoder, settings.text_encoders),
                saves_index=True,
            ),
            [other / "bundles" for other in folders.other_homes],
            self.item_updates,
            settings.cache_mb,
            keep_previous=experiment is not None and experiment.needs_previous_version,
        )
        self.event_log = EventLog(
            home / "journal",
            LogRetention(settings.event_log_retention_hours, settings.event_log_max_mb << 20),
            self.models.oldest_cutoff,
        )
        erased_users = ErasedUsers(home / "forgotten.jsonl")
        erase_lines(
            self.event_log, find_user_lines(self.event_log, erased_users.records())
        )  # finish erasures that a crash interrupted
        other_event_logs = EventLogFollower([other / "journal" for other in folders.other_homes])
        self.state = LiveState(settings.trending_half_life_hours, self._is_known)
        lines = chain(self.event_log.read_lines(), other_event_logs.read_lines())
        num_events = self.state.replay(lines, self._replayed_since())
        log.info("Replayed %d events from the event log", num_events)
        url = settings.shared_state_url.get_secret_value() if settings.shared_state_url else None
        self.shared = SharedState(url, self.state, timedelta(hours=settings.shared_state_retention_hours))
        self.metrics = Metrics(self.event_log, self.queue)
        self.metrics.set_model_version(self.models.engine)
        self.callers = Callers(self.access, settings.rate_limit, self.metrics, settings.home)
        self.recommender = RecommendationService(
            self.models,
            erased_users,
            self.state,
            other_event_logs,
            ImpressionLog(self.event_log, settings.impression_sample_share),
            self.metrics,
            settings.exploration_share,
            experiment,
        )
        self.admin = AdminRoutes(
            self.models, self.event_log, erased_users, self.state, self.shared, self.recommender, self.metrics
        )
        self.items = ItemRoutes(
            self.models, self.item_log, self.other_item_logs, self.item_updates, self.admin.model_lock
        )
        self.rules = RuleRoutes(rule_versions, rules.version, self.models, self.admin.model_lock)
        self.is_draining = False

    def _is_known(self, user_id: str | None) -> bool:
        """Whether a user has a history in the active model."""
        engine = self.models.engine
        return engine is not None and user_id in engine.bundle.histories.row_of

    def _replayed_since(self) -> datetime | None:
        """Returns the time from which on events are replayed: the models know the earlier ones, but a session may have
        begun then."""
        cutoff = self.models.oldest_cutoff()
        return None if cutoff is None else min(cutoff, datetime.now(UTC) - _MAX_SESSION)

    async def post_recommendations(self, request: Request) -> Response:
        """`POST /v1/recommendations`"""
        content = await read_body(request)
        body, key = decode_request(content), read_idempotency_key(request, content)
        self._admit_lists(request, [body])
        is_complete = await self.shared.read(body.user_id, body.session_id)
        with self.queue.measure_list():
            return json_response(self.recommender.recommend(body, is_complete, key))

    async def post_recommendation_batch(self, request: Request) -> Response:
        """`POST /v1/recommendations/batch`: one list per request, in request order."""
        content = await read_body(request)
        lists, bodies, key = [], decode_batch(content), read_idempotency_key(request, content)
        self._admit_lists(request, bodies)
        for index, body in enumerate(bodies):
            is_complete = await self.shared.read(body.user_id, body.session_id)
            with self.queue.measure_list():
                lists.append(self.recommender.recommend(body, is_complete, key and f"{key}/{index}"))
            await asyncio.sleep(0)  # yield: a request for one list does not wait for the whole batch
        return json_response({"answers": lists})

    async def post_search(self, request: Request) -> Response:
        """`POST /v1/search`"""
        content = await read_body(request)
        body, key = decode_search(content), read_idempotency_key(request, content)
        self._admit_lists(request, [body])
        is_complete = await self.shared.read(body.user_id, body.session_id)
        with self.queue.measure_list():
            response, events = self.recommender.search(body, is_complete, key)
        await self.shared.publish(events)
        return json_response(response)

    async def post_rules_preview(self, request: Request) -> Response:
        """`POST /v1/admin/rules/preview`"""
        body = decode_rules_preview(await read_body(request))
        return json_response(self.recommender.preview_rules(body.request, body.rules))

    async def get_suggestions(self, request: Request) -> Response:
        """`GET /v1/suggest?q=PREFIX&k=N`"""
        prefix = parse_prefix(request.query_params.get("q"))
        k = parse_list_length(request.query_params.get("k", "8"))
        return json_response(self.recommender.suggest(prefix, k))

    async def get_similar_items(self, request: Request) -> Response:
        """`GET /v1/items/{item_id}/similar?k=N`"""
        return self._similar(request, SimilarItemsRequest(k=parse_list_length(request.query_params.get("k", "20"))))

    async def post_similar_items(self, request: Request) -> Response:
        """`POST /v1/items/{item_id}/similar`"""
        return self._similar(request, decode_similar(await read_body(request)))

    def _similar(self, request: Request, body: SimilarItemsRequest) -> Response:
        request.state.charge(body.k)
        try:
            return json_response(self.recommender.find_similar(parse_id(request.path_params["item_id"], "item"), body))
        except InputError as error:
            raise RequestError(404, "No such item", str(error)) from error

    async def get_interested_users(self, request: Request) -> Response:
        """`GET /v1/items/{item_id}/users?k=N`"""
        item_id, k = request.path_params["item_id"], parse_list_length(request.query_params.get("k", "20"))
        try:
            return json_response(await run_in_threadpool(self.recommender.find_users, item_id, k))
        except InputError as error:
            raise RequestError(404, "No such item", str(error)) from error

    async def post_events(self, request: Request) -> Response:
        """`POST /v1/events`"""
        content = await read_body(request)
        raw_events, key = split_events(content, _MAX_EVENTS_PER_REQUEST), read_idempotency_key(request, content)
        request.state.charge(len(raw_events))
        received = []
        for number, (path, raw) in enumerate(raw_events.items()):
            received.append(decode_event(raw, path, key and f"{key}/{number}"))
            await _yield_periodically(number)
        events = [event for event in received if event.event_type != IMPRESSION or not is_recorded(event.request_id)]
        sender = self.callers.sender(request)
        if events:
            await self.event_log.append(serialize_events(events, sender))
            await self.shared.publish(events)
        for event in events:  # without a pause: an erasure waits for events only until they are in the log
            self.state.add(event, sender)
            self.metrics.count_event(event.event_type)
        event_ids = [str(event.event_id) for event in received]
        return json_response(EventsResponse(len(events), len(received) - len(events), event_ids))

    async def get_model(self, request: Request) -> Response:
        """`GET /v1/model`"""
        bundle = self.recommender.active_engine().bundle
        lineage = {name: value for name, value in bundle.manifest.items() if name != "files"}
        return json_response({**lineage, "bundle": bundle.digest})

    async def get_healthz(self, request: Request) -> Response:
        """`GET /healthz`: liveness probe."""
        return json_response({"status": "alive"})

    async def get_readyz(self, request: Request) -> Response:
        """`GET /readyz`: readiness probe; 503 without a model and while draining."""
        if self.is_draining:
            raise RequestError(
                503, "Shutting down", "this endpoint is draining; it still answers, but send new requests elsewhere"
            )
        version = self.recommender.active_engine().bundle.model_version
        is_reachable = self.shared.is_reachable
        shared = {} if is_reachable is None else {"shared_state": "reached" if is_reachable else "away"}
        return json_response({"status": "ready", "model_version": version, **shared})

    async def get_metrics(self, request: Request) -> Response:
        """`GET /metrics`"""
        return Response(self.metrics.render(), media_type="text/plain; version=0.0.4")

    async def get_openapi(self, request: Request) -> Response:
        """`GET /openapi.json`"""
        return Response(build_openapi_document(), media_type="application/json")

    def wrap(self, path: str, handler: Handler, scope: Scope) -> Handler:
        """Returns the handler with access control, rate limit, tracing, metrics, access log and problem documents."""

        async def handle(request: Request) -> Response:
            request_id, began = set_request_id(request.headers.get(REQUEST_ID)), time.perf_counter()
            with self.tracer.span(request.method, path, request.headers) as set_status:
                response = await self._respond(request, handler, path, scope)
                set_status(response.status_code)
            seconds, status = time.perf_counter() - began, response.status_code
            self.metrics.observe_request(path, status, seconds)
            fields = {"method": request.method, "route": path, "status": status}
            fields["milliseconds"] = round(1e3 * seconds, 3)
            access_logger.info("%(method)s %(route)s %(status)s %(milliseconds)s ms", fields, extra={"fields": fields})
            if request.method == "GET" and scope == READ:
                response = revalidate(request, response)
            elif path.startswith("/v1/"):
                response.headers["Cache-Control"] = "no-store"
            response.headers[REQUEST_ID] = request_id
            response.headers.update(
                self.callers.rate_limit_headers(request) | deprecation_headers(request.method, path)
            )
            return response

        return handle

    async def _respond(self, request: Request, handler: Handler, path: str, scope: Scope) -> Response:
        """Returns the handler's response, or the problem document of the error it raises."""
        try:
            check_content_type(request)
            self.callers.admit(request, scope)
            return await handler(request)
        except RequestError as error:
            return problem_response(error.status, error.title, error.detail)
        except UnavailableError as error:
            return problem_response(503, "Unavailable", str(error))
        except Exception:
            log.exception("%s %s failed", request.method, path)
            return problem_response(500, "Internal error", "the endpoint failed; its log has the traceback")

    def _admit_lists(self, request: Request, bodies: Sequence[RecommendationRequest]) -> None:
        """Charges the lists to the caller's rate limit, and records them only for a caller that may write: impressions
        and searches are events.

        Raises:
            RequestError: the active model cannot make one of the lists (422).
        """
        for body in bodies:
            self.recommender.check(body)
        request.state.charge(*(body.k for body in bodies))
        if WRITE not in request.state.caller.scopes:
            for body in bodies:
                body.record = False


async def _yield_periodically(number: int) -> None:
    """Lets other requests run after every hundred events of a long array."""
    if number % _EVENTS_PER_YIELD == _EVENTS_PER_YIELD - 1:
        await asyncio.sleep(0)


def _storefront_routes(settings: Settings, endpoint: Endpoint) -> list[BaseRoute]:
    """Returns the routes of the storefront; none if it is off. The import is local, so that other endpoints do not load
    it."""
    if not settings.shop:
        return []
    from recsys_tasks.serving.shop import shop_routes

    return shop_routes(settings, endpoint.recommender)


def create_app(settings: Settings, folders: WorkerFolders | None = None) -> Starlette:
    """Returns the endpoint as an ASGI application, alone or as one of several workers."""
    folders = folders or WorkerFolders.for_worker(settings.home, 0, 1)
    endpoint = Endpoint(settings, folders)
    admin, items = endpoint.admin, endpoint.items

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        followers = [endpoint.items.follow_other_workers, endpoint.rules.follow_other_workers]
        background_tasks = [asyncio.create_task(follow()) for follow in followers if folders.other_homes]
        await endpoint.shared.open()
        if endpoint.shared.is_reachable is not None:
            background_tasks.append(asyncio.create_task(endpoint.shared.publish_pending_periodically()))
        yield
        for task in background_tasks:
            task.cancel()
        await endpoint.shared.close()
        endpoint.event_log.close()
        endpoint.item_log.close()
        await run_in_threadpool(endpoint.tracer.close)

    def route(path: str, handler: Handler, method: str, scope: Scope) -> Route:
        return Route(path, endpoint.wrap(path, handler, scope), methods=[method])

    app = Starlette(
        routes=[
            route("/v1/recommendations", endpoint.post_recommendations, "POST", READ),
            route("/v1/recommendations/batch", endpoint.post_recommendation_batch, "POST", READ),
            route("/v1/search", endpoint.post_search, "POST", READ),
            route("/v1/suggest", endpoint.get_suggestions, "GET", READ),
            route("/v1/items", items.post_items, "POST", ITEMS),
            route("/v1/items/{item_id:path}/similar", endpoint.get_similar_items, "GET", READ),
            route("/v1/items/{item_id:path}/similar", endpoint.post_similar_items, "POST", READ),
            route("/v1/items/{item_id:path}/users", endpoint.get_interested_users, "GET", ADMIN),
            route("/v1/items/{item_id:path}", items.get_item, "GET", READ),
            route("/v1/items/{item_id:path}", items.put_item, "PUT", ITEMS),
            route("/v1/items/{item_id:path}", items.patch_item, "PATCH", ITEMS),
            route("/v1/items/{item_id:path}", items.delete_item, "DELETE", ITEMS),
            route("/v1/events", endpoint.post_events, "POST", WRITE),
            route("/v1/model", endpoint.get_model, "GET", READ),
            route("/v1/admin/model", admin.get_model, "GET", ADMIN),
            route("/v1/admin/model", admin.put_model, "PUT", ADMIN),
            route("/v1/admin/model", admin.delete_model, "DELETE", ADMIN),
            route("/v1/admin/staged", admin.put_staged, "PUT", ADMIN),
            route("/v1/admin/staged", admin.post_staged, "POST", ADMIN),
            route("/v1/admin/staged", admin.delete_staged, "DELETE", ADMIN),
            route("/v1/admin/rules", endpoint.rules.get_rules, "GET", ADMIN),
            route("/v1/admin/rules", endpoint.rules.put_rules, "PUT", ADMIN),
            route("/v1/admin/rules/preview", endpoint.post_rules_preview, "POST", ADMIN),
            route("/v1/admin/users/{user_id:path}", admin.delete_user, "DELETE", ADMIN),
            route("/v1/admin/journal", admin.get_journal, "GET", ADMIN),
            route("/v1/admin/journal/consumers/{consumer}", admin.put_consumer, "PUT", ADMIN),
            route("/v1/admin/journal/consumers/{consumer}", admin.delete_consumer, "DELETE", ADMIN),
            route("/v1/admin/journal/{segment}", admin.get_journal_segment, "GET", ADMIN),
            route("/openapi.json", endpoint.get_openapi, "GET", OPEN),
            route("/healthz", endpoint.get_healthz, "GET", OPEN),
            route("/readyz", endpoint.get_readyz, "GET", OPEN),
            route("/metrics", endpoint.get_metrics, "GET", OPEN),
            *_storefront_routes(settings, endpoint),
        ],
        exception_handlers={HTTPException: handle_http_exception},
        lifespan=lifespan,
    )
    app.state.endpoint = endpoint
    app.add_middleware(
        LoadSheddingMiddleware,
        queue=endpoint.queue,
        is_exempt=endpoint.access.is_admin,
        on_rejected=lambda: endpoint.metrics.count_rejected_request("overload"),
    )
    app.add_middleware(PageMiddleware, access=endpoint.access)
    app.add_middleware(CompressMiddleware, minimum_size=_MIN_COMPRESSED_BYTES, brotli=False)
    if settings.allowed_hosts != ("*",):
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.allowed_hosts, www_redirect=False)
    app.router.redirect_slashes = False  # a redirect would repeat the `Host` that the caller sent
    return app
