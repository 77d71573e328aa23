"""Admin routes: deployment of model bundles, erasure of users, and download of the event log."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from recsys_tasks.engine.engine import Engine
from recsys_tasks.errors import InputError, InvariantError
from recsys_tasks.serving.erasure import ErasedUsers, erase_lines, find_user_lines
from recsys_tasks.serving.event_log import EventLog
from recsys_tasks.serving.http import json_response, read_body, save_body
from recsys_tasks.serving.live_state import LiveState
from recsys_tasks.serving.messages import RequestError, decode_position, decode_staged_change, parse_id
from recsys_tasks.serving.metrics import Metrics
from recsys_tasks.serving.model_store import ModelStore
from recsys_tasks.serving.recommendations import RecommendationService
from recsys_tasks.serving.rollout import ChallengerRunner, RolloutTerms
from recsys_tasks.serving.shared_state import SharedState

_MAX_BUNDLE_BYTES = 2 << 30
_JOURNAL_CHUNK_BYTES = 8 << 20


class AdminRoutes:
    """Handlers of the admin routes of one endpoint."""

    def __init__(
        self,
        models: ModelStore,
        event_log: EventLog,
        erased_users: ErasedUsers,
        state: LiveState,
        shared: SharedState,
        recommender: RecommendationService,
        metrics: Metrics,
    ) -> None:
        self._models, self._event_log, self._erased_users = models, event_log, erased_users
        self._state, self._shared, self._recommender, self._metrics = state, shared, recommender, metrics
        self.model_lock = asyncio.Lock()  # one change of the models at a time
        self._erasure_lock = asyncio.Lock()  # one erasure at a time

    async def put_model(self, request: Request) -> Response:
        """`PUT /v1/admin/model`: stages a bundle and activates it."""
        async with self.model_lock:
            challenger = await self._stage(request)
            engine = await run_in_threadpool(self._models.activate, challenger.engine.bundle.digest)
            self._models.shrink_previous_cache()
        self._metrics.set_model_version(self._models.engine)
        return json_response(_describe(engine))

    async def delete_model(self, request: Request) -> Response:
        """`DELETE /v1/admin/model`: rolls back to the previous bundle."""
        to_none = request.query_params.get("to_none") == "true"
        async with self.model_lock:
            try:
                engine = await run_in_threadpool(self._models.roll_back, to_none)
            except InputError as error:
                raise RequestError(409, "No previous model", str(error)) from error
        self._metrics.set_model_version(self._models.engine)
        return json_response(_describe(engine) if engine else {"model_version": None})

    async def get_model(self, request: Request) -> Response:
        """`GET /v1/admin/model`: the active, the previous and the staged bundle."""
        engine, challenger = self._models.engine, self._models.challenger
        return json_response(
            {
                "active": engine.bundle.digest if engine else None,
                "model_version": engine.bundle.model_version if engine else None,
                "previous": self._models.state.previous,
                "staged": challenger.report() if challenger else None,
            }
        )

    async def put_staged(self, request: Request) -> Response:
        """`PUT /v1/admin/staged`: checks a bundle and stages it beside the active one."""
        async with self.model_lock:
            challenger = await self._stage(request)
        return json_response(challenger.report())

    async def post_staged(self, request: Request) -> Response:
        """`POST /v1/admin/staged`: activates the staged bundle, or changes its rollout."""
        change = decode_staged_change(await read_body(request))
        async with self.model_lock:
            try:
                if change.mode == "active":
                    engine = await run_in_threadpool(self._models.activate, change.bundle)
                    self._models.shrink_previous_cache()
                    self._metrics.set_model_version(self._models.engine)
                    return json_response(_describe(engine))
                terms = RolloutTerms(
                    mode=change.mode,
                    share=change.share,
                    error_share=change.error_share,
                    latency_ratio=change.latency_ratio,
                )
                challenger = await run_in_threadpool(self._models.start_rollout, change.bundle, terms)
                return json_response(challenger.report())
            except InputError as error:
                raise RequestError(409, "Bundle not staged", str(error)) from error

    async def delete_staged(self, request: Request) -> Response:
        """`DELETE /v1/admin/staged?bundle=D`: discards the staged bundle; with `bundle`, only if it is that one."""
        async with self.model_lock:
            await run_in_threadpool(self._models.discard, request.query_params.get("bundle"))
        return json_response({"staged": None})

    async def delete_user(self, request: Request) -> Response:
        """`DELETE /v1/admin/users/{user_id}`: erases a user."""
        user_id = parse_id(request.path_params["user_id"], "user")
        async with self._erasure_lock:
            if not await self._shared.erase_user(user_id):
                raise RequestError(
                    503, "Shared state unavailable", "the store of the shared state does not answer; try again later"
                )
            async with self._event_log.pause_appends() as end:
                # No await in this block: events up to here belong to the erased user, later ones to a new user.
                self._recommender.read_other_workers()
                entry = self._erased_users.add(user_id, end)
                self._state.erase_user(user_id)
                self._models.erase_user(user_id)
            user_lines = await run_in_threadpool(find_user_lines, self._event_log, [entry])
            self._state.remove_session_events(user_lines.session_ids, user_lines.event_ids)
            await run_in_threadpool(erase_lines, self._event_log, user_lines)
        return json_response({"forgotten": True, "journal_lines": len(user_lines)})

    async def get_journal(self, request: Request) -> Response:
        """`GET /v1/admin/journal`: the segments of the event log."""
        segments = [{"name": segment.name, "bytes": segment.size_bytes} for segment in self._event_log.segments()]
        return json_response({"instance": self._event_log.instance, "segments": segments})

    async def get_journal_segment(self, request: Request) -> Response:
        """`GET /v1/admin/journal/{segment}?offset=N`: whole lines of a segment, from a byte offset."""
        offset = request.query_params.get("offset", "0")
        if not offset.isdecimal() or len(offset) > 18:
            raise RequestError(422, "Invalid request", f"`offset` is {offset!r}; expected a number of bytes")
        segment = request.path_params["segment"]
        try:
            chunk = self._event_log.read(segment, int(offset), _JOURNAL_CHUNK_BYTES)
        except FileNotFoundError as error:
            raise RequestError(404, "No such segment", f"the event log has no segment {segment!r}") from error
        return Response(chunk, media_type="application/x-ndjson")

    async def put_consumer(self, request: Request) -> Response:
        """`PUT /v1/admin/journal/consumers/{consumer}`: what a consumer has collected may be deleted."""
        end = decode_position(await read_body(request))
        self._event_log.confirm_collected(parse_id(request.path_params["consumer"], "consumer"), end)
        return json_response(end)

    async def delete_consumer(self, request: Request) -> Response:
        """`DELETE /v1/admin/journal/consumers/{consumer}`: nothing is kept for a consumer that is gone."""
        self._event_log.remove_consumer(parse_id(request.path_params["consumer"], "consumer"))
        return json_response({"removed": True})

    async def _stage(self, request: Request) -> ChallengerRunner:
        with self._models.receive_archive() as archive:
            await save_body(request, archive, _MAX_BUNDLE_BYTES)
            try:
                return await run_in_threadpool(self._models.stage, archive)
            except InvariantError as error:
                raise RequestError(422, "Bundle rejected", str(error)) from error
            except InputError as error:
                raise RequestError(409, "Another rollout is running", str(error)) from error


def _describe(engine: Engine) -> dict[str, Any]:
    bundle = engine.bundle
    return {
        "model_version": bundle.model_version,
        "bundle": bundle.digest,
        "golden_requests": len(bundle.golden),
    }
