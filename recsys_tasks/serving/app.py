"""The HTTP routes. What they answer is decided in `engine`, `state`, `journal` and `models`."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from recsys_tasks.errors import InputError, InvariantError, UnavailableError
from recsys_tasks.names import ADD_TO_CART, IMPRESSION, PURCHASE, SEARCH
from recsys_tasks.serving.access import ADMIN, OPEN, READ, WRITE, Access, Scope
from recsys_tasks.serving.additions import Addition, Additions
from recsys_tasks.serving.engine import Action, Answer, Engine, unix_now
from recsys_tasks.serving.forgetting import Forgotten, erase, find_traces
from recsys_tasks.serving.journal import Journal
from recsys_tasks.serving.logs import REQUEST_ID, access, begin_request
from recsys_tasks.serving.messages import (
    Event,
    ItemAnswer,
    Problem,
    Recommendation,
    RecommendationAnswer,
    RecommendationRequest,
    RequestError,
    SearchAnswer,
    SearchRequest,
    decode_batch,
    decode_count,
    decode_events,
    decode_id,
    decode_item,
    decode_request,
    decode_search,
    decode_staged_change,
)
from recsys_tasks.serving.models import Models
from recsys_tasks.serving.openapi import document
from recsys_tasks.serving.pace import rest_after
from recsys_tasks.serving.ranking import Wishes
from recsys_tasks.serving.rules import read_rules
from recsys_tasks.serving.state import LiveState
from recsys_tasks.serving.tail import Tail
from recsys_tasks.serving.trial import Challenger, Terms
from recsys_tasks.serving.workers import Place
from recsys_tasks.settings import Settings

log = logging.getLogger(__name__)

_BODY_BYTES = 1 << 20
_BUNDLE_BYTES = 2 << 30
_BATCH_EVENTS = 1_000
_JOURNAL_CHUNK = 8 << 20
_HEAR_SECONDS = 0.5
_LATENCIES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

Handler = Callable[[Request], Awaitable[Response]]


class Endpoint:
    """One endpoint: its models, its journal, and what it remembers of users and sessions."""

    def __init__(self, settings: Settings, place: Place) -> None:
        self.access = Access(settings)
        home = place.home
        self.items = Journal(home / "items")
        self.others_items = Tail([other / "items" for other in place.others])
        self.additions = Additions(chain(self.items.lines(), self.others_items.lines()))
        self.models = Models(
            home / "bundles",
            settings.endpoint_memory_megabytes,
            read_rules(settings.rules),
            [other / "bundles" for other in place.others],
            self.additions,
        )
        self.journal = Journal(home / "journal")
        self.forgotten = Forgotten(home / "forgotten.jsonl")
        self.state = LiveState()
        self._swapping = asyncio.Lock()  # one bundle comes or goes at a time
        self._forgetting = asyncio.Lock()  # one user goes at a time
        erase(self.journal, find_traces(self.journal, self.forgotten.entries()))  # what a kill left undone
        self.others = Tail([other / "journal" for other in place.others])
        replayed = self.state.replay(chain(self.journal.lines(), self.others.lines()))
        log.info("Read %d events from the journal", replayed)
        registry = CollectorRegistry()
        self.registry = registry
        self.latency = Histogram(
            "recsys_request_seconds", "Time to answer", ["route", "status"], buckets=_LATENCIES, registry=registry
        )
        self.events = Counter("recsys_events_total", "Events that became durable", ["event_type"], registry=registry)
        self.version = Gauge("recsys_model_version", "Version of the model that serves", registry=registry)
        self._show_version()

    # Routes

    async def recommendations(self, request: Request) -> Response:
        """`POST /v1/recommendations`"""
        return _json(self._recommend(decode_request(await _body(request, _BODY_BYTES))))

    async def recommendation_batch(self, request: Request) -> Response:
        """`POST /v1/recommendations/batch`: answers in the order of the requests."""
        answers = []
        for asked in decode_batch(await _body(request, _BODY_BYTES)):
            answers.append(self._recommend(asked))
            await asyncio.sleep(0)  # nobody who asks for one list waits for a hundred
        return _json({"answers": answers})

    async def search(self, request: Request) -> Response:
        """`POST /v1/search`"""
        return _json(self._search(decode_search(await _body(request, _BODY_BYTES))))

    async def similar(self, request: Request) -> Response:
        """`GET /v1/items/{item_id}/similar?k=N`"""
        wishes = Wishes(decode_count(request.query_params.get("k", "20")))
        engine = self._engine()
        try:
            found = engine.similar(request.path_params["item_id"], wishes, unix_now())
        except InputError as error:
            raise RequestError(404, "No such item", str(error)) from error
        return _json({"model_version": engine.bundle.model_version, "items": found})

    async def put_item(self, request: Request) -> Response:
        """`PUT /v1/items/{item_id}`"""
        item_id = decode_id(request.path_params["item_id"], "item")
        addition = Addition(item_id, datetime.now(UTC), decode_item(await _body(request, _BODY_BYTES)))
        line = msgspec.json.encode(addition) + b"\n"
        await self.items.append(line)
        async with self._swapping:
            await run_in_threadpool(self.models.put_items, self.additions.replay([line]))
        trained = self.models.engine is not None and self.models.engine.is_trained(item_id)
        return _json(ItemAnswer(item_id, trained))

    async def hear_of_items(self) -> None:
        """Takes in what other workers are told of items, as long as this one serves."""
        while True:
            await asyncio.sleep(_HEAR_SECONDS)
            news = self.additions.replay(self.others_items.lines())
            if news:
                async with self._swapping:
                    await run_in_threadpool(self.models.put_items, news)

    async def post_events(self, request: Request) -> Response:
        """`POST /v1/events`"""
        events = decode_events(await _body(request, _BODY_BYTES), _BATCH_EVENTS)
        await self.journal.append(_lines(events))
        for event in events:
            self.state.add(event)
            self.events.labels(event.event_type).inc()
        return _json({"accepted": len(events), "event_ids": [event.event_id for event in events]})

    async def model(self, request: Request) -> Response:
        """`GET /v1/model`"""
        bundle = self._engine().bundle
        lineage = {name: value for name, value in bundle.manifest.items() if name != "files"}
        return _json({**lineage, "bundle": bundle.digest})

    async def put_model(self, request: Request) -> Response:
        """`PUT /v1/admin/model`: stages a bundle and lets it serve."""
        async with self._swapping:
            challenger = await self._stage(request)
            engine = await run_in_threadpool(self.models.activate, challenger.engine.bundle.digest)
            self.models.rest()
        self._show_version()
        return _json(self._serving(engine))

    async def delete_model(self, request: Request) -> Response:
        """`DELETE /v1/admin/model`: back to the one before."""
        to_none = request.query_params.get("to_none") == "true"
        async with self._swapping:
            try:
                engine = await run_in_threadpool(self.models.roll_back, to_none)
            except InputError as error:
                raise RequestError(409, "Nothing to go back to", str(error)) from error
        self._show_version()
        return _json(self._serving(engine) if engine else {"model_version": None})

    async def admin_model(self, request: Request) -> Response:
        """`GET /v1/admin/model`: what serves, the bundle that served before, and what is staged."""
        engine, challenger = self.models.engine, self.models.challenger
        return _json(
            {
                "active": engine.bundle.digest if engine else None,
                "model_version": engine.bundle.model_version if engine else None,
                "previous": self.models.serving.previous,
                "staged": challenger.report() if challenger else None,
            }
        )

    async def put_staged(self, request: Request) -> Response:
        """`PUT /v1/admin/staged`: checks a bundle and keeps it beside the one that serves."""
        async with self._swapping:
            challenger = await self._stage(request)
        return _json(challenger.report())

    async def post_staged(self, request: Request) -> Response:
        """`POST /v1/admin/staged`: lets the staged bundle serve, or tries it."""
        asked = decode_staged_change(await _body(request, _BODY_BYTES))
        async with self._swapping:
            try:
                if asked.mode == "active":
                    engine = await run_in_threadpool(self.models.activate, asked.bundle)
                    self.models.rest()
                    self._show_version()
                    return _json(self._serving(engine))
                terms = Terms(
                    mode=asked.mode,
                    share=asked.share,
                    error_share=asked.error_share,
                    latency_ratio=asked.latency_ratio,
                )
                return _json((await run_in_threadpool(self.models.begin_trial, asked.bundle, terms)).report())
            except InputError as error:
                raise RequestError(409, "Not staged", str(error)) from error

    async def delete_staged(self, request: Request) -> Response:
        """`DELETE /v1/admin/staged?bundle=D`: lets go of what is staged, or of that bundle only."""
        async with self._swapping:
            await run_in_threadpool(self.models.discard, request.query_params.get("bundle"))
        return _json({"staged": None})

    async def delete_user(self, request: Request) -> Response:
        """`DELETE /v1/admin/users/{user_id}`"""
        user_id = decode_id(request.path_params["user_id"], "user")
        async with self._forgetting:
            async with self.journal.quiet() as end:
                # Nothing waits in here: what came before is the forgotten user's, what comes after a new one's.
                self._listen()
                entry = self.forgotten.add(user_id, end)
                self.state.forget_user(user_id)
                self.models.forget(user_id)
            traces = await run_in_threadpool(find_traces, self.journal, [entry])
            self.state.withdraw(traces.session_ids, traces.event_ids)
            await run_in_threadpool(erase, self.journal, traces)
        return _json({"forgotten": True, "journal_lines": len(traces)})

    async def journal_segments(self, request: Request) -> Response:
        """`GET /v1/admin/journal`"""
        segments = [{"name": segment.name, "bytes": segment.bytes} for segment in self.journal.segments()]
        return _json({"instance": self.journal.instance, "segments": segments})

    async def journal_segment(self, request: Request) -> Response:
        """`GET /v1/admin/journal/{segment}?offset=N`"""
        offset = request.query_params.get("offset", "0")
        if not offset.isdecimal() or len(offset) > 18:
            raise RequestError(422, "Invalid request", f"`offset` is {offset!r}; expected a number of bytes")
        try:
            chunk = self.journal.read(request.path_params["segment"], int(offset), _JOURNAL_CHUNK)
        except FileNotFoundError as error:
            raise RequestError(404, "No such segment", f"the journal has no segment {error}") from error
        return Response(chunk, media_type="application/x-ndjson")

    async def healthz(self, request: Request) -> Response:
        """`GET /healthz`: the process answers."""
        return _json({"status": "alive"})

    async def readyz(self, request: Request) -> Response:
        """`GET /readyz`: a model serves."""
        return _json({"status": "ready", "model_version": self._engine().bundle.model_version})

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`"""
        return Response(generate_latest(self.registry), media_type="text/plain; version=0.0.4")

    async def openapi(self, request: Request) -> Response:
        """`GET /openapi.json`: all of this for machines that write clients."""
        return Response(document(), media_type="application/json")

    # What they share

    def _recommend(self, asked: RecommendationRequest) -> RecommendationAnswer:
        past, session, now = self._context(asked)

        def ask(engine: Engine) -> Answer:
            known_as, wishes = self._wishes(asked, engine, [*past, *session])
            return engine.recommend(known_as, past, session, now, wishes)

        return self._answer(asked, ask, uuid.uuid4().hex)

    def _search(self, asked: SearchRequest) -> SearchAnswer:
        """Where no item has a word of the query, what else may please, marked as such."""
        past, session, now = self._context(asked)
        request_id = uuid.uuid4().hex

        def ask(engine: Engine) -> Answer:
            known_as, wishes = self._wishes(asked, engine, [*past, *session])
            found = engine.search(known_as, past, session, now, asked.query, wishes)
            return found if found.items else engine.recommend(known_as, past, session, now, wishes)

        answer = self._answer(asked, ask, request_id)
        if asked.record:
            self._record_search(asked, request_id)
        fallback = not any(item.source == "search" for item in answer.items)
        return SearchAnswer(**msgspec.structs.asdict(answer), fallback=fallback)

    def _answer(
        self, asked: RecommendationRequest, ask: Callable[[Engine], Answer], request_id: str
    ) -> RecommendationAnswer:
        engine, found = self.models.answer(self._engine(), asked.user_id or asked.session_id, ask)
        if asked.record:
            self._record_impressions(asked, found.items, request_id, engine.bundle.model_version)
        return RecommendationAnswer(request_id, engine.bundle.model_version, found.purchase_intent, found.items)

    def _wishes(self, asked: RecommendationRequest, engine: Engine, actions: list[Action]) -> tuple[str | None, Wishes]:
        """By what id the bundle knows the user, and what is wanted of the list."""
        known_as = self._known_as(asked.user_id, engine)
        exclude = self._excluded(asked, engine, known_as, actions)
        return known_as, Wishes(
            asked.k, exclude, asked.filter, asked.diversity, asked.at_most_per_category, asked.interests
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

    def _listen(self) -> None:
        """Takes in what other workers were told meanwhile."""
        self.state.replay(self.others.lines())

    def _engine(self) -> Engine:
        if self.models.engine is None:
            raise RequestError(503, "No model yet", "no model was promoted to this endpoint so far")
        return self.models.engine

    def _known_as(self, user_id: str | None, engine: Engine) -> str | None:
        """The id by which to look a user up in the bundle: none for one forgotten since it was made."""
        forgotten = user_id is not None and self.forgotten.hides(user_id, engine.bundle.cutoff)
        return None if forgotten else user_id

    def _context(self, asked: RecommendationRequest) -> tuple[list[Action], list[Action], float]:
        """What the user did outside the session, what the session did, and when it began."""
        self._listen()
        now = asked.time.timestamp() if asked.time else unix_now()
        session_id = asked.session_id
        if session_id is None and not asked.session:
            session_id = self.state.running_session(asked.user_id, now)
        live = self.state.of_session(session_id)
        told = [
            Action(
                event.item_id or "",
                event.event_type,
                event.event_time.timestamp() if event.event_time else now,
                query=(event.query or "") if event.event_type == SEARCH else "",
            )
            for event in asked.session
        ]
        known = {(action.item_id, action.event_type, action.query) for action in live}
        session = live + [action for action in told if (action.item_id, action.event_type, action.query) not in known]
        session.sort(key=lambda action: action.seconds)
        latest = max([now, *(action.seconds for action in session)])
        if asked.query is not None:
            session.append(Action("", SEARCH, latest, query=asked.query))
        session += [Action(item_id, ADD_TO_CART, latest) for item_id in asked.context_items]
        of_session = {action.event_id for action in live}
        in_session = {(action.item_id, action.event_type, action.seconds) for action in session}
        past = [
            action
            for action in self.state.of_user(asked.user_id)
            if action.event_id not in of_session
            and (action.item_id, action.event_type, action.seconds) not in in_session
        ]
        return past, session, min([now, *(action.seconds for action in session)])

    def _record_impressions(
        self, asked: RecommendationRequest, found: list[Recommendation], request_id: str, version: str
    ) -> None:
        shared = _who_and_when(asked, request_id)
        impressions = [
            Event(
                event_type=IMPRESSION,
                event_id=f"{request_id}-{position}",
                item_id=item.item_id,
                position=position,
                properties={"model_version": version, "score": item.score, "source": item.source},
                **shared,
            )
            for position, item in enumerate(found, start=1)
        ]
        self._note(impressions, f"Impressions of request {request_id}")

    def _record_search(self, asked: SearchRequest, request_id: str) -> None:
        """Notes the search as something that the user did, which counts in the next answer."""
        event = Event(event_type=SEARCH, event_id=request_id, query=asked.query, **_who_and_when(asked, request_id))
        self._note([event], f"The words of search {request_id}")
        self.state.add(event)

    def _note(self, events: list[Event], what: str) -> None:
        try:
            self.journal.note(_lines(events))
        except OSError as error:
            log.error("%s were lost: %s", what, error)

    async def _stage(self, request: Request) -> Challenger:
        with self.models.arriving() as archive:
            await _body_to_file(request, archive, _BUNDLE_BYTES)
            try:
                return await run_in_threadpool(self.models.stage, archive)
            except InvariantError as error:
                raise RequestError(422, "Bundle refused", str(error)) from error
            except InputError as error:
                raise RequestError(409, "Another bundle is on trial", str(error)) from error

    def _serving(self, engine: Engine) -> dict[str, Any]:
        bundle = engine.bundle
        return {
            "model_version": bundle.model_version,
            "bundle": bundle.digest,
            "golden_requests": len(bundle.golden),
        }

    def _show_version(self) -> None:
        if self.models.engine is not None and self.models.engine.bundle.model_version.isdecimal():
            self.version.set(int(self.models.engine.bundle.model_version))


def create_app(settings: Settings, place: Place | None = None) -> Starlette:
    """The endpoint as an ASGI application, alone or as one of several workers."""
    place = place or Place.of_worker(settings.home, 0, 1)
    endpoint = Endpoint(settings, place)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        hearing = asyncio.create_task(endpoint.hear_of_items()) if place.others else None
        yield
        if hearing is not None:
            hearing.cancel()
        endpoint.journal.close()
        endpoint.items.close()

    def route(path: str, handler: Handler, method: str, scope: Scope) -> Route:
        return Route(path, _measured(endpoint, path, handler, scope), methods=[method])

    return Starlette(
        routes=[
            route("/v1/recommendations", endpoint.recommendations, "POST", READ),
            route("/v1/recommendations/batch", endpoint.recommendation_batch, "POST", READ),
            route("/v1/search", endpoint.search, "POST", READ),
            route("/v1/items/{item_id:path}/similar", endpoint.similar, "GET", READ),
            route("/v1/items/{item_id:path}", endpoint.put_item, "PUT", ADMIN),
            route("/v1/events", endpoint.post_events, "POST", WRITE),
            route("/v1/model", endpoint.model, "GET", READ),
            route("/v1/admin/model", endpoint.admin_model, "GET", ADMIN),
            route("/v1/admin/model", endpoint.put_model, "PUT", ADMIN),
            route("/v1/admin/model", endpoint.delete_model, "DELETE", ADMIN),
            route("/v1/admin/staged", endpoint.put_staged, "PUT", ADMIN),
            route("/v1/admin/staged", endpoint.post_staged, "POST", ADMIN),
            route("/v1/admin/staged", endpoint.delete_staged, "DELETE", ADMIN),
            route("/v1/admin/users/{user_id:path}", endpoint.delete_user, "DELETE", ADMIN),
            route("/v1/admin/journal", endpoint.journal_segments, "GET", ADMIN),
            route("/v1/admin/journal/{segment}", endpoint.journal_segment, "GET", ADMIN),
            route("/openapi.json", endpoint.openapi, "GET", OPEN),
            route("/healthz", endpoint.healthz, "GET", OPEN),
            route("/readyz", endpoint.readyz, "GET", OPEN),
            route("/metrics", endpoint.metrics, "GET", OPEN),
        ],
        exception_handlers={HTTPException: _http_problem},
        lifespan=lifespan,
    )


def _measured(endpoint: Endpoint, path: str, handler: Handler, scope: Scope) -> Handler:
    """The handler for whom it is meant, with its time measured and what it raises turned into a problem document."""

    async def measured(request: Request) -> Response:
        request_id, began = begin_request(request.headers.get(REQUEST_ID)), time.perf_counter()
        try:
            endpoint.access.check(request.headers.get("authorization"), scope)
            response = await handler(request)
        except RequestError as error:
            response = _problem(error.status, error.title, error.detail)
        except UnavailableError as error:
            response = _problem(503, "Not available", str(error))
        except Exception:
            log.exception("%s %s failed", request.method, path)
            response = _problem(500, "Internal error", "this is our mistake; the log of the endpoint says more")
        spent, status = time.perf_counter() - began, response.status_code
        endpoint.latency.labels(path, str(status)).observe(spent)
        fields = {"method": request.method, "route": path, "status": status, "milliseconds": round(1e3 * spent, 3)}
        access.info("%(method)s %(route)s %(status)s %(milliseconds)s ms", fields, extra={"fields": fields})
        response.headers[REQUEST_ID] = request_id
        return response

    return measured


def _who_and_when(asked: RecommendationRequest, request_id: str) -> dict[str, Any]:
    """What every event of a request has: one of nobody is in a session of its own."""
    return {
        "user_id": asked.user_id,
        "session_id": asked.session_id or (None if asked.user_id else f"anonymous-{request_id}"),
        "event_time": (asked.time or datetime.now(UTC)).astimezone(UTC),
        "request_id": request_id,
    }


def _lines(events: list[Event]) -> bytes:
    return b"".join(msgspec.json.encode(event) + b"\n" for event in events)


async def _body_to_file(request: Request, path: Path, most: int) -> None:
    size = 0
    with path.open("wb") as file:
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise RequestError(413, "Body too large", f"the body has more than {most} bytes")
            began = time.thread_time()
            try:
                file.write(part)
            except OSError as error:
                raise RequestError(503, "No room for the body", str(error)) from error
            await asyncio.sleep(rest_after(began))


async def _body(request: Request, most: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise RequestError(413, "Body too large", f"the body has more than {most} bytes")
        parts.append(part)
    return b"".join(parts)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _problem(status: int, title: str, detail: str) -> Response:
    """A problem document (RFC 9457)."""
    body = msgspec.json.encode(Problem("about:blank", title, status, detail))
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return Response(body, status, headers=headers, media_type="application/problem+json")


async def _http_problem(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    titles = {404: "No such route", 405: "Method not allowed"}
    return _problem(status, titles.get(status, "Request refused"), f"{request.method} {request.url.path}")
