"""Versions of the merchandising rules, and their routes. All workers of a machine share the folder of the versions."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from recsys_tasks.errors import UnavailableError
from recsys_tasks.serving.durable import create_file
from recsys_tasks.serving.http import json_response, read_body
from recsys_tasks.serving.messages import RequestError, decode_rules
from recsys_tasks.serving.model_store import ModelStore
from recsys_tasks.wire.messages import RulesVersion
from recsys_tasks.wire.rules import MerchandisingRules

log = logging.getLogger(__name__)

_FOLLOW_INTERVAL_SECONDS = 0.5


class RuleVersions:
    """The versions of a shop's rules, a file each. Version 0 are the rules of the settings, until another one exists.

    Args:
        folder: of the versions.
        initial: version 0.
    """

    def __init__(self, folder: Path, initial: MerchandisingRules) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._initial = folder, initial

    def numbers(self) -> list[int]:
        """Returns the numbers of all versions, oldest first."""
        return [0, *sorted(int(path.stem) for path in self._folder.glob("*.json") if path.stem.isdecimal())]

    def read(self, number: int) -> RulesVersion:
        """Returns one version.

        Raises:
            FileNotFoundError: there is no such version.
        """
        if number == 0:
            return RulesVersion(0, None, self._initial)
        return msgspec.json.decode(self._path(number).read_bytes(), type=RulesVersion)

    def latest(self) -> RulesVersion:
        """Returns the version in use."""
        return self.read(self.numbers()[-1])

    def add(self, rules: MerchandisingRules, after: int) -> RulesVersion:
        """Stores the version after another one.

        Raises:
            FileExistsError: that version has a successor already.
            UnavailableError: the file cannot be written.
        """
        version = RulesVersion(after + 1, datetime.now(UTC), rules)
        try:
            create_file(self._path(version.version), msgspec.json.encode(version))
        except FileExistsError:
            raise
        except OSError as error:
            raise UnavailableError(f"The rules cannot be written: {error.strerror}. Fix the disk and retry") from error
        return version

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.json"


class RuleRoutes:
    """Handlers of `/v1/admin/rules`.

    Args:
        versions: of the rules.
        applied: number of the version that the models have.
        models: the models that apply them.
        model_lock: one change of the models at a time.
    """

    def __init__(self, versions: RuleVersions, applied: int, models: ModelStore, model_lock: asyncio.Lock) -> None:
        self._versions, self._applied = versions, applied
        self._models, self._model_lock = models, model_lock

    async def get_rules(self, request: Request) -> Response:
        """`GET /v1/admin/rules?version=N`: a version of the rules, by default the one in use."""
        number = request.query_params.get("version", str(self._versions.numbers()[-1]))
        try:
            return _respond(self._versions.read(int(number)))
        except (ValueError, FileNotFoundError) as error:
            numbers = ", ".join(map(str, self._versions.numbers()[-10:]))
            raise RequestError(
                404, "No such version", f"there is no version {number!r}; the latest are {numbers}"
            ) from error

    async def put_rules(self, request: Request) -> Response:
        """`PUT /v1/admin/rules`: a new version. With `If-Match`, only if that version is in use."""
        rules = decode_rules(await read_body(request))
        async with self._model_lock:
            current = self._versions.numbers()[-1]
            expected = request.headers.get("if-match")
            if expected not in (None, "*", _tag(current)):
                raise RequestError(
                    412, "Rules changed", f"version {current} is in use; read it, and repeat your change"
                )
            try:
                version = self._versions.add(rules, current)
            except FileExistsError as error:
                raise RequestError(
                    412, "Rules changed", "another change came first; read it, and repeat yours"
                ) from error
            await self._apply(version)
        return _respond(version)

    async def follow_other_workers(self) -> None:
        """Applies the versions that other workers store, until cancelled."""
        while True:
            await asyncio.sleep(_FOLLOW_INTERVAL_SECONDS)
            try:
                if self._versions.numbers()[-1] != self._applied:
                    async with self._model_lock:
                        await self._apply(self._versions.latest())
            except (OSError, msgspec.MsgspecError) as error:
                log.error("The latest rules cannot be read; those of version %d stay: %s", self._applied, error)

    async def _apply(self, version: RulesVersion) -> None:
        await run_in_threadpool(self._models.apply_rules, version.rules)
        self._applied = version.version
        log.info("Applied version %d of the merchandising rules", version.version)


def _respond(version: RulesVersion) -> Response:
    response = json_response(version)
    response.headers["ETag"] = _tag(version.version)
    return response


def _tag(version: int) -> str:
    return f'"{version}"'
