"""Reading of request bodies and construction of responses, for all routes."""

from __future__ import annotations

import asyncio
import hashlib
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import zstandard
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from recsys_tasks.engine.throttle import throttle_seconds
from recsys_tasks.serving.messages import RequestError
from recsys_tasks.wire.messages import Problem

MAX_BODY_BYTES = 1 << 20
_BODY_TIMEOUT_SECONDS = 10.0
_GZIP_FORMAT = 31  # for zlib
_DECOMPRESSORS: Mapping[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(_GZIP_FORMAT),
    "zstd": lambda: zstandard.ZstdDecompressor().decompressobj(),
}
_PIECE_BYTES = 64
_MAX_KEY_LENGTH = 200
_OK, _NOT_MODIFIED = 200, 304
_METHODS_WITHOUT_BODY = {"GET", "HEAD", "OPTIONS"}
_SIMPLE_TYPES = {"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"}  # of the Fetch standard
_PROBLEM_HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "1"}}


async def read_body(
    request: Request, max_bytes: int = MAX_BODY_BYTES, max_seconds: float = _BODY_TIMEOUT_SECONDS
) -> bytes:
    """Returns the whole request body, decompressed.

    Raises:
        RequestError: the body exceeds `max_bytes`, before or after decompression (413), does not arrive in time (408),
            or has another encoding than gzip and zstd (415) or is broken (400).
    """
    chunks, size = [], 0
    try:
        async with asyncio.timeout(max_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > max_bytes:
                    raise RequestError(413, "Body too large", f"the body exceeds {max_bytes} bytes")
                chunks.append(chunk)
    except TimeoutError as error:
        detail = f"only {size} bytes of the body arrived within {max_seconds:.0f} s; send it again"
        raise RequestError(408, "Body too slow", detail) from error
    body = b"".join(chunks)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        return body
    return await run_in_threadpool(_decompress, body, encoding, max_bytes)


def _decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    if encoding not in _DECOMPRESSORS:
        raise RequestError(415, "Unsupported encoding", f"send `gzip` or `zstd`, not `{encoding}`")
    decompressor, content = _DECOMPRESSORS[encoding](), bytearray()
    try:
        for start in range(0, len(body), _PIECE_BYTES):  # a small piece cannot become more than a few megabytes
            content += decompressor.decompress(body[start : start + _PIECE_BYTES])
            if decompressor.unused_data or (decompressor.eof and start + _PIECE_BYTES < len(body)):
                raise RequestError(400, "Malformed body", "data follow the end of the compressed body; send one part")
            if len(content) > max_bytes:
                raise RequestError(413, "Body too large", f"the decompressed body exceeds {max_bytes} bytes")
    except (zlib.error, zstandard.ZstdError) as error:
        raise RequestError(400, "Malformed body", f"the body cannot be decompressed: {error}") from error
    if not decompressor.eof:
        raise RequestError(400, "Malformed body", "the compressed body ends too early")
    return bytes(content)


def read_idempotency_key(request: Request, body: bytes) -> str | None:
    """Returns a key that is the same if a caller sends the same body to the same path again with the same
    `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header); None without that header.

    Raises:
        RequestError: the header is empty or too long (422).
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= _MAX_KEY_LENGTH:
        raise RequestError(422, "Invalid request", f"`Idempotency-Key` must have 1 to {_MAX_KEY_LENGTH} characters")
    digest = hashlib.blake2b(body, digest_size=16).hexdigest()
    return f"{request.state.caller.name} {request.url.path} {key} {digest}"


def revalidate(request: Request, response: Response) -> Response:
    """Returns a successful response with an `ETag`, to be checked at each use; no body (304) if the caller has it."""
    if response.status_code != _OK or "etag" in response.headers:
        return response
    tag = f'W/"{hashlib.blake2b(response.body, digest_size=12).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if tag in [known.strip() for known in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=_NOT_MODIFIED, headers=headers)
    response.headers.update(headers)
    return response


def check_content_type(request: Request) -> None:
    """Checks that a page in a browser sends a body of a type that needs this endpoint's consent (CORS); otherwise a
    foreign page could post in its visitors' name. Callers that are no pages may send any.

    Raises:
        RequestError: the content type is one that any page may send (415).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method not in _METHODS_WITHOUT_BODY and "origin" in request.headers and kind in _SIMPLE_TYPES:
        raise RequestError(415, "Unsupported media type", f"a page must send `application/json`, not `{kind}`")


async def save_body(request: Request, path: Path, max_bytes: int) -> None:
    """Streams a large request body to a file. Throttles itself, so that the latency of other requests stays flat.

    Raises:
        RequestError: the body exceeds `max_bytes` (413), or the disk is full (503).
    """
    size = 0
    with path.open("wb") as file:
        async for chunk in request.stream():
            size += len(chunk)
            if size > max_bytes:
                raise RequestError(413, "Body too large", f"the body exceeds {max_bytes} bytes")
            began = time.thread_time()
            try:
                file.write(chunk)
            except OSError as error:
                raise RequestError(503, "Body not stored", f"the body cannot be written to disk: {error}") from error
            await asyncio.sleep(throttle_seconds(began))


def json_response(value: object) -> Response:
    """Returns a 200 response with a value serialized as JSON."""
    return Response(msgspec.json.encode(value), media_type="application/json")


def problem_response(status: int, title: str, detail: str) -> Response:
    """Returns an error response with a problem document (RFC 9457)."""
    body = msgspec.json.encode(Problem("about:blank", title, status, detail))
    return Response(body, status, headers=_PROBLEM_HEADERS.get(status), media_type="application/problem+json")


async def handle_http_exception(request: Request, error: Exception) -> Response:
    """Returns the problem document for a request that matches no route."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    titles = {404: "No such route", 405: "Method not allowed"}
    response = problem_response(status, titles.get(status, "Request rejected"), f"{request.method} {request.url.path}")
    if status == 405:
        response.headers["Allow"] = ", ".join(_allowed_methods(request))
    return response


def _allowed_methods(request: Request) -> list[str]:
    """Methods of all routes of a path."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in routes for method in getattr(route, "methods", None) or ("GET", "HEAD")})
