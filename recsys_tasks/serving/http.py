"""Bodies of requests, and answers, as the routes read and write them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from recsys_tasks.engine.throttle import rest_after
from recsys_tasks.serving.messages import Problem, RequestError

BODY_BYTES = 1 << 20
_BODY_SECONDS = 10.0
_HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "1"}}


async def read_body(request: Request, most: int = BODY_BYTES) -> bytes:
    """The whole body.

    Raises:
        RequestError: it is too large, or does not come.
    """
    parts, size = [], 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise RequestError(413, "Body too large", f"the body has more than {most} bytes")
                parts.append(part)
    except TimeoutError as error:
        problem = f"{size} bytes of the body came in {_BODY_SECONDS:.0f} s"
        raise RequestError(408, "Body too slow", problem) from error
    return b"".join(parts)


async def body_to_file(request: Request, path: Path, most: int) -> None:
    """Writes a large body to a file as it comes, with rests, so that those who wait for an answer do not wait for it.

    Raises:
        RequestError: it is too large, or there is no room for it.
    """
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


def answer(value: object) -> Response:
    """JSON."""
    return Response(msgspec.json.encode(value), media_type="application/json")


def problem(status: int, title: str, detail: str) -> Response:
    """A problem document (RFC 9457)."""
    body = msgspec.json.encode(Problem("about:blank", title, status, detail))
    return Response(body, status, headers=_HEADERS.get(status), media_type="application/problem+json")


async def unrouted(request: Request, error: Exception) -> Response:
    """What to say where no route is."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    titles = {404: "No such route", 405: "Method not allowed"}
    return problem(status, titles.get(status, "Request refused"), f"{request.method} {request.url.path}")
