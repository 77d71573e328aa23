"""The endpoint: its parts, and which route is answered by which of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import chain

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from recsys_tasks.engine.engine import unix_now
from recsys_tasks.engine.item_updates import Addition, Additions
from recsys_tasks.engine.merchandising import read_rules
from recsys_tasks.engine.ranking import Wishes
from recsys_tasks.errors import InputError, UnavailableError
from recsys_tasks.experiments.definition import read_experiment
from recsys_tasks.serving.access import ADMIN, OPEN, READ, WRITE, Access, Scope
from recsys_tasks.serving.admin import Admin
from recsys_tasks.serving.erasure import Forgotten, erase, find_traces
from recsys_tasks.serving.event_log import Journal
from recsys_tasks.serving.follower import Tail
from recsys_tasks.serving.http import answer, problem, read_body, unrouted
from recsys_tasks.serving.impressions import Impressions
from recsys_tasks.serving.live_state import LiveState
from recsys_tasks.serving.logs import REQUEST_ID, access, begin_request
from recsys_tasks.serving.messages import (
    ItemAnswer,
    RequestError,
    as_lines,
    decode_batch,
    decode_count,
    decode_events,
    decode_id,
    decode_item,
    decode_request,
    decode_search,
)
from recsys_tasks.serving.metrics import Metrics
from recsys_tasks.serving.model_store import Models
from recsys_tasks.serving.openapi import document
from recsys_tasks.serving.overload import Overload, RateLimit, Shedding
from recsys_tasks.serving.recommendations import Lists
from recsys_tasks.serving.shared_state import SharedState
from recsys_tasks.serving.tracing import tracing
from recsys_tasks.serving.workers import Place
from recsys_tasks.settings import Settings

log = logging.getLogger(__name__)

_BATCH_EVENTS = 1_000
_HEAR_SECONDS = 0.5

Handler = Callable[[Request], Awaitable[Response]]


class Endpoint:
    """One endpoint: its models, its journal, and what it remembers of users and sessions."""

    def __init__(self, settings: Settings, place: Place) -> None:
        home = place.home
        self.access = Access(settings)
        self.tracing = tracing(settings)
        self.overload = Overload(settings.max_queue_wait_ms / 1e3)
        self.rate_limit = RateLimit(settings.rate_limit) if settings.rate_limit else None
        self.items = Journal(home / "items")
        self.others_items = Tail([other / "items" for other in place.others])
        self.additions = Additions(chain(self.items.lines(), self.others_items.lines()))
        experiment = read_experiment(settings.experiment_file)
        self.models = Models(
            home / "bundles",
            settings.endpoint_memory_mb,
            read_rules(settings.merchandising_rules),
            [other / "bundles" for other in place.others],
            self.additions,
            settings.cache_mb,
            keep_before=experiment is not None and experiment.wants_previous,
        )
        self.journal = Journal(home / "journal")
        forgotten = Forgotten(home / "forgotten.jsonl")
        erase(self.journal, find_traces(self.journal, forgotten.entries()))  # what a kill left undone
        others = Tail([other / "journal" for other in place.others])
        self.state = LiveState(settings.trending_half_life_hours)
        replayed = self.state.replay(chain(self.journal.lines(), others.lines()))
        log.info("Read %d events from the journal", replayed)
        url = settings.shared_state_url.get_secret_value() if settings.shared_state_url else None
        self.shared = SharedState(url, self.state)
        self.metrics = Metrics(self.journal, self.overload)
        self.metrics.serving(self.models.engine)
        self.lists = Lists(
            self.models,
            forgotten,
            self.state,
            others,
            Impressions(self.journal, settings.impression_sample_share),
            self.metrics,
            settings.exploration_share,
            experiment,
        )
        self.admin = Admin(self.models, self.journal, forgotten, self.state, self.shared, self.lists, self.metrics)
        self.leaving = False

    async def recommendations(self, request: Request) -> Response:
        """`POST /v1/recommendations`"""
        asked = decode_request(await read_body(request))
        complete = await self.shared.hear(asked.user_id, asked.session_id)
        began = time.perf_counter()
        found = answer(self.lists.recommend(asked, complete))
        self.overload.took(time.perf_counter() - began)
        return found

    async def recommendation_batch(self, request: Request) -> Response:
        """`POST /v1/recommendations/batch`: answers in the order of the requests."""
        answers = []
        for asked in decode_batch(await read_body(request)):
            complete = await self.shared.hear(asked.user_id, asked.session_id)
            answers.append(self.lists.recommend(asked, complete))
            await asyncio.sleep(0)  # nobody who asks for one list waits for a hundred
        return answer({"answers": answers})

    async def search(self, request: Request) -> Response:
        """`POST /v1/search`"""
        asked = decode_search(await read_body(request))
        complete = await self.shared.hear(asked.user_id, asked.session_id)
        found, events = self.lists.search(asked, complete)
        await self.shared.tell(events)
        return answer(found)

    async def similar(self, request: Request) -> Response:
        """`GET /v1/items/{item_id}/similar?k=N`"""
        wishes = Wishes(decode_count(request.query_params.get("k", "20")))
        engine = self.lists.engine()
        try:
            found = engine.similar(request.path_params["item_id"], wishes, unix_now())
        except InputError as error:
            raise RequestError(404, "No such item", str(error)) from error
        return answer({"model_version": engine.bundle.model_version, "items": found})

    async def put_item(self, request: Request) -> Response:
        """`PUT /v1/items/{item_id}`"""
        item_id = decode_id(request.path_params["item_id"], "item")
        addition = Addition(item_id, datetime.now(UTC), decode_item(await read_body(request)))
        line = msgspec.json.encode(addition) + b"\n"
        await self.items.append(line)
        await self._take_in([line])
        trained = self.models.engine is not None and self.models.engine.is_trained(item_id)
        return answer(ItemAnswer(item_id, trained))

    async def hear_of_items(self) -> None:
        """Takes in what other workers are told of items, as long as this one serves."""
        while True:
            await asyncio.sleep(_HEAR_SECONDS)
            await self._take_in(list(self.others_items.lines()))

    async def _take_in(self, lines: list[bytes]) -> None:
        if lines:
            # A model that is being loaded reads what was told so far: nothing is added meanwhile.
            async with self.admin.swapping:
                news = self.additions.replay(lines)
                if news:
                    await run_in_threadpool(self.models.put_items, news)

    async def post_events(self, request: Request) -> Response:
        """`POST /v1/events`"""
        events = decode_events(await read_body(request), _BATCH_EVENTS)
        await self.journal.append(as_lines(events))
        await self.shared.tell(events)
        for event in events:
            self.state.add(event)
            self.metrics.event(event.event_type)
        return answer({"accepted": len(events), "event_ids": [event.event_id for event in events]})

    async def model(self, request: Request) -> Response:
        """`GET /v1/model`"""
        bundle = self.lists.engine().bundle
        lineage = {name: value for name, value in bundle.manifest.items() if name != "files"}
        return answer({**lineage, "bundle": bundle.digest})

    async def healthz(self, request: Request) -> Response:
        """`GET /healthz`: the process answers."""
        return answer({"status": "alive"})

    async def readyz(self, request: Request) -> Response:
        """`GET /readyz`: a model serves, and will for a while."""
        if self.leaving:
            raise RequestError(503, "Leaving", "this endpoint was told to stop; it answers what still comes")
        version = self.lists.engine().bundle.model_version
        shared = {} if self.shared.reached is None else {"shared_state": "reached" if self.shared.reached else "away"}
        return answer({"status": "ready", "model_version": version, **shared})

    async def show_metrics(self, request: Request) -> Response:
        """`GET /metrics`"""
        return Response(self.metrics.page(), media_type="text/plain; version=0.0.4")

    async def openapi(self, request: Request) -> Response:
        """`GET /openapi.json`: all of this for machines that write clients."""
        return Response(document(), media_type="application/json")

    def guarded(self, path: str, handler: Handler, scope: Scope) -> Handler:
        """The handler for whom it is meant, measured, with what it raises turned into a problem document."""

        async def measured(request: Request) -> Response:
            request_id, began = begin_request(request.headers.get(REQUEST_ID)), time.perf_counter()
            with self.tracing.request(request.method, path, request.headers) as answered:
                response = await self._answered(request, handler, path, scope)
                answered(response.status_code)
            spent, status = time.perf_counter() - began, response.status_code
            self.metrics.request(path, status, spent)
            fields = {"method": request.method, "route": path, "status": status, "milliseconds": round(1e3 * spent, 3)}
            access.info("%(method)s %(route)s %(status)s %(milliseconds)s ms", fields, extra={"fields": fields})
            response.headers[REQUEST_ID] = request_id
            return response

        return measured

    async def _answered(self, request: Request, handler: Handler, path: str, scope: Scope) -> Response:
        try:
            authorization = request.headers.get("authorization")
            self.access.check(authorization, scope)
            self._check_rate(request, authorization, scope)
            return await handler(request)
        except RequestError as error:
            return problem(error.status, error.title, error.detail)
        except UnavailableError as error:
            return problem(503, "Not available", str(error))
        except Exception:
            log.exception("%s %s failed", request.method, path)
            return problem(500, "Internal error", "this is our mistake; the log of the endpoint says more")

    def _check_rate(self, request: Request, authorization: str | None, scope: Scope) -> None:
        """Refuses what one caller asks too much, but nothing that the administrator asks."""
        if self.rate_limit is None or scope not in (READ, WRITE) or self.access.is_admin(authorization):
            return
        caller = authorization or (request.client.host if request.client else "")
        if self.rate_limit.refuses(caller, time.monotonic()):
            self.metrics.refused("rate")
            raise RequestError(429, "Too many requests", "this caller asks more than it may; ask again later")


def create_app(settings: Settings, place: Place | None = None) -> Starlette:
    """The endpoint as an ASGI application, alone or as one of several workers."""
    place = place or Place.of_worker(settings.home, 0, 1)
    endpoint = Endpoint(settings, place)
    admin = endpoint.admin

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        beside = [asyncio.create_task(endpoint.hear_of_items())] if place.others else []
        await endpoint.shared.open()
        if endpoint.shared.reached is not None:
            beside.append(asyncio.create_task(endpoint.shared.keep_telling()))
        yield
        for task in beside:
            task.cancel()
        await endpoint.shared.close()
        endpoint.journal.close()
        endpoint.items.close()
        await run_in_threadpool(endpoint.tracing.close)

    def route(path: str, handler: Handler, method: str, scope: Scope) -> Route:
        return Route(path, endpoint.guarded(path, handler, scope), methods=[method])

    found = Starlette(
        routes=[
            route("/v1/recommendations", endpoint.recommendations, "POST", READ),
            route("/v1/recommendations/batch", endpoint.recommendation_batch, "POST", READ),
            route("/v1/search", endpoint.search, "POST", READ),
            route("/v1/items/{item_id:path}/similar", endpoint.similar, "GET", READ),
            route("/v1/items/{item_id:path}", endpoint.put_item, "PUT", ADMIN),
            route("/v1/events", endpoint.post_events, "POST", WRITE),
            route("/v1/model", endpoint.model, "GET", READ),
            route("/v1/admin/model", admin.admin_model, "GET", ADMIN),
            route("/v1/admin/model", admin.put_model, "PUT", ADMIN),
            route("/v1/admin/model", admin.delete_model, "DELETE", ADMIN),
            route("/v1/admin/staged", admin.put_staged, "PUT", ADMIN),
            route("/v1/admin/staged", admin.post_staged, "POST", ADMIN),
            route("/v1/admin/staged", admin.delete_staged, "DELETE", ADMIN),
            route("/v1/admin/users/{user_id:path}", admin.delete_user, "DELETE", ADMIN),
            route("/v1/admin/journal", admin.journal_segments, "GET", ADMIN),
            route("/v1/admin/journal/{segment}", admin.journal_segment, "GET", ADMIN),
            route("/openapi.json", endpoint.openapi, "GET", OPEN),
            route("/healthz", endpoint.healthz, "GET", OPEN),
            route("/readyz", endpoint.readyz, "GET", OPEN),
            route("/metrics", endpoint.show_metrics, "GET", OPEN),
        ],
        exception_handlers={HTTPException: unrouted},
        lifespan=lifespan,
    )
    found.state.endpoint = endpoint
    found.add_middleware(
        Shedding,
        overload=endpoint.overload,
        spared=endpoint.access.is_admin,
        refused=lambda: endpoint.metrics.refused("busy"),
    )
    return found
