"""The administrator's routes: models that come and go, users who are forgotten, and the journal for the pipeline."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from recsys_tasks.engine.engine import Engine
from recsys_tasks.errors import InputError, InvariantError
from recsys_tasks.serving.erasure import Forgotten, erase, find_traces
from recsys_tasks.serving.event_log import Journal
from recsys_tasks.serving.http import answer, body_to_file, read_body
from recsys_tasks.serving.live_state import LiveState
from recsys_tasks.serving.messages import RequestError, decode_id, decode_staged_change
from recsys_tasks.serving.metrics import Metrics
from recsys_tasks.serving.model_store import Models
from recsys_tasks.serving.recommendations import Lists
from recsys_tasks.serving.rollout import Challenger, Terms
from recsys_tasks.serving.shared_state import SharedState

_BUNDLE_BYTES = 2 << 30
_JOURNAL_CHUNK = 8 << 20


class Admin:
    """What the administrator of one endpoint may ask."""

    def __init__(
        self,
        models: Models,
        journal: Journal,
        forgotten: Forgotten,
        state: LiveState,
        shared: SharedState,
        lists: Lists,
        metrics: Metrics,
    ) -> None:
        self._models, self._journal, self._forgotten = models, journal, forgotten
        self._state, self._shared, self._lists, self._metrics = state, shared, lists, metrics
        self.swapping = asyncio.Lock()  # one bundle comes or goes at a time
        self._forgetting = asyncio.Lock()  # one user goes at a time

    async def put_model(self, request: Request) -> Response:
        """`PUT /v1/admin/model`: stages a bundle and lets it serve."""
        async with self.swapping:
            challenger = await self._stage(request)
            engine = await run_in_threadpool(self._models.activate, challenger.engine.bundle.digest)
            self._models.rest()
        self._metrics.serving(self._models.engine)
        return answer(self._serving(engine))

    async def delete_model(self, request: Request) -> Response:
        """`DELETE /v1/admin/model`: back to the one before."""
        to_none = request.query_params.get("to_none") == "true"
        async with self.swapping:
            try:
                engine = await run_in_threadpool(self._models.roll_back, to_none)
            except InputError as error:
                raise RequestError(409, "Nothing to go back to", str(error)) from error
        self._metrics.serving(self._models.engine)
        return answer(self._serving(engine) if engine else {"model_version": None})

    async def admin_model(self, request: Request) -> Response:
        """`GET /v1/admin/model`: what serves, the bundle that served before, and what is staged."""
        engine, challenger = self._models.engine, self._models.challenger
        return answer(
            {
                "active": engine.bundle.digest if engine else None,
                "model_version": engine.bundle.model_version if engine else None,
                "previous": self._models.serving.previous,
                "staged": challenger.report() if challenger else None,
            }
        )

    async def put_staged(self, request: Request) -> Response:
        """`PUT /v1/admin/staged`: checks a bundle and keeps it beside the one that serves."""
        async with self.swapping:
            challenger = await self._stage(request)
        return answer(challenger.report())

    async def post_staged(self, request: Request) -> Response:
        """`POST /v1/admin/staged`: lets the staged bundle serve, or tries it."""
        asked = decode_staged_change(await read_body(request))
        async with self.swapping:
            try:
                if asked.mode == "active":
                    engine = await run_in_threadpool(self._models.activate, asked.bundle)
                    self._models.rest()
                    self._metrics.serving(self._models.engine)
                    return answer(self._serving(engine))
                terms = Terms(
                    mode=asked.mode,
                    share=asked.share,
                    error_share=asked.error_share,
                    latency_ratio=asked.latency_ratio,
                )
                return answer((await run_in_threadpool(self._models.begin_trial, asked.bundle, terms)).report())
            except InputError as error:
                raise RequestError(409, "Not staged", str(error)) from error

    async def delete_staged(self, request: Request) -> Response:
        """`DELETE /v1/admin/staged?bundle=D`: lets go of what is staged, or of that bundle only."""
        async with self.swapping:
            await run_in_threadpool(self._models.discard, request.query_params.get("bundle"))
        return answer({"staged": None})

    async def delete_user(self, request: Request) -> Response:
        """`DELETE /v1/admin/users/{user_id}`"""
        user_id = decode_id(request.path_params["user_id"], "user")
        async with self._forgetting:
            if not await self._shared.forget(user_id):
                raise RequestError(503, "Shared state away", "what endpoints share does not answer; ask again later")
            async with self._journal.quiet() as end:
                # Nothing waits in here: what came before is the forgotten user's, what comes after a new one's.
                self._lists.listen()
                entry = self._forgotten.add(user_id, end)
                self._state.forget_user(user_id)
                self._models.forget(user_id)
            traces = await run_in_threadpool(find_traces, self._journal, [entry])
            self._state.withdraw(traces.session_ids, traces.event_ids)
            await run_in_threadpool(erase, self._journal, traces)
        return answer({"forgotten": True, "journal_lines": len(traces)})

    async def journal_segments(self, request: Request) -> Response:
        """`GET /v1/admin/journal`"""
        segments = [{"name": segment.name, "bytes": segment.bytes} for segment in self._journal.segments()]
        return answer({"instance": self._journal.instance, "segments": segments})

    async def journal_segment(self, request: Request) -> Response:
        """`GET /v1/admin/journal/{segment}?offset=N`"""
        offset = request.query_params.get("offset", "0")
        if not offset.isdecimal() or len(offset) > 18:
            raise RequestError(422, "Invalid request", f"`offset` is {offset!r}; expected a number of bytes")
        try:
            chunk = self._journal.read(request.path_params["segment"], int(offset), _JOURNAL_CHUNK)
        except FileNotFoundError as error:
            raise RequestError(404, "No such segment", f"the journal has no segment {error}") from error
        return Response(chunk, media_type="application/x-ndjson")

    async def _stage(self, request: Request) -> Challenger:
        with self._models.arriving() as archive:
            await body_to_file(request, archive, _BUNDLE_BYTES)
            try:
                return await run_in_threadpool(self._models.stage, archive)
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
