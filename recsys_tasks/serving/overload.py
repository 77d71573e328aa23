"""Overload protection: load shedding by estimated queue wait, and a rate limit per caller."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from recsys_tasks.wire.messages import Problem

_SMOOTHING = 0.02  # weight of the latest list in the moving average of durations
_MAX_CALLERS = 10_000
_MAX_COST_SECONDS = 10.0  # of a caller's rate, that one request may cost
_LIST_PATHS, _ITEMS_PATH = ("/v1/recommendations", "/v1/search"), "/v1/items/"
_REJECTION = msgspec.json.encode(Problem("about:blank", "Too busy", 503, "the endpoint is overloaded; retry later"))
_REJECTION_HEADERS = [
    (b"content-type", b"application/problem+json"),
    (b"content-length", str(len(_REJECTION)).encode()),
    (b"retry-after", b"1"),
]


class QueueEstimator:
    """Estimates the queue wait of a request: number of requests not started, times the mean duration of a list.

    Args:
        max_wait_seconds: requests for lists are rejected while the wait is longer.

    Attributes:
        count_arrived: returns the number of requests that arrived and are not answered; the server sets it.
    """

    def __init__(self, max_wait_seconds: float) -> None:
        self._max_wait_seconds = max_wait_seconds
        self._mean_seconds = 0.0
        self._num_started = 0
        self.count_arrived: Callable[[], int] = lambda: 0

    @contextmanager
    def mark_started(self) -> Iterator[None]:
        """Marks one request as started, until it ends. From then on it waits only for I/O and delays no other."""
        self._num_started += 1
        try:
            yield
        finally:
            self._num_started -= 1

    @contextmanager
    def measure_list(self) -> Iterator[None]:
        """Measures how long one list of any kind takes, and adds it to the moving average."""
        began = time.perf_counter()
        yield
        self.record_duration(time.perf_counter() - began)

    def record_duration(self, seconds: float) -> None:
        """Adds the duration of one list to the moving average."""
        self._mean_seconds += _SMOOTHING * (seconds - self._mean_seconds)

    @property
    def wait_seconds(self) -> float:
        """Estimated wait of the next request."""
        return max(self.count_arrived() - self._num_started, 0) * self._mean_seconds

    def should_reject(self) -> bool:
        """Whether a request for a list is to be rejected, so that the queue gets shorter."""
        return self.wait_seconds > self._max_wait_seconds


class LoadSheddingMiddleware:
    """ASGI middleware that rejects requests for lists under overload, before routing: a rejection must be cheap.

    Args:
        app: the application.
        queue: decides whether to reject.
        is_exempt: whether the value of an `Authorization` header is never rejected.
        on_rejected: called at each rejection.
    """

    def __init__(
        self, app: ASGIApp, queue: QueueEstimator, is_exempt: Callable[[str], bool], on_rejected: Callable[[], None]
    ) -> None:
        self._app, self._queue, self._is_exempt, self._on_rejected = app, queue, is_exempt, on_rejected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forwards a request to the application, or rejects it with status 503."""
        if scope["type"] != "http":  # the lifespan of the process is no request
            await self._app(scope, receive, send)
            return
        if not (_is_list_request(scope) and self._queue.should_reject()) or self._is_exempt(_authorization(scope)):
            with self._queue.mark_started():
                await self._app(scope, receive, send)
            return
        self._on_rejected()
        await send({"type": "http.response.start", "status": 503, "headers": _REJECTION_HEADERS})
        await send({"type": "http.response.body", "body": _REJECTION})


def _is_list_request(scope: Scope) -> bool:
    path: str = scope["path"]
    is_of_items = path.startswith(_ITEMS_PATH) and (scope["method"] == "GET" or path.endswith("/similar"))
    return path.startswith(_LIST_PATHS) or is_of_items


def _authorization(scope: Scope) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"), "")


class RateLimiter:
    """Token bucket per caller and rate: `rate` requests per second, with a burst of one second's worth, at least one.

    All methods take the caller's name, the time in seconds of any clock, and the rate.
    """

    def __init__(self) -> None:
        self._buckets: OrderedDict[tuple[str, float], tuple[float, float]] = OrderedDict()  # tokens, time of update

    def should_reject(self, caller: str, now: float, rate: float) -> bool:
        """Whether a caller's request exceeds the rate; takes a token if not."""
        tokens = self._tokens(caller, now, rate)
        is_rejected = tokens < 1.0
        self._buckets[caller, rate] = (tokens if is_rejected else tokens - 1.0, now)
        self._buckets.move_to_end((caller, rate))
        if len(self._buckets) > _MAX_CALLERS:
            self._buckets.popitem(last=False)
        return is_rejected

    def charge(self, caller: str, now: float, rate: float, tokens: float) -> None:
        """Takes more tokens for an accepted request that costs as much as several; the caller waits until they are
        refilled."""
        self._buckets[caller, rate] = self._tokens(caller, now, rate) - tokens, now

    def headers(self, caller: str, now: float, rate: float) -> dict[str, str]:
        """Returns the headers that tell a caller what is left (draft-ietf-httpapi-ratelimit-headers-10): `q` requests
        per `w` seconds, `r` of them now, all of them in `t` seconds. Without any left, also `Retry-After`."""
        tokens, most = self._tokens(caller, now, rate), _max_tokens(rate)
        window, refilled = (ceil(missing / rate) for missing in (most, most - tokens))
        headers = {
            "RateLimit-Policy": f'"caller";q={int(most)};w={window}',
            "RateLimit": f'"caller";r={max(int(tokens), 0)};t={refilled}',
        }
        return headers if tokens >= 1 else {**headers, "Retry-After": str(ceil((1 - tokens) / rate))}

    def _tokens(self, caller: str, now: float, rate: float) -> float:
        most = _max_tokens(rate)
        tokens, updated_at = self._buckets.get((caller, rate), (most, now))
        return min(most, tokens + rate * (now - updated_at))


def max_cost(rate: float) -> int:
    """Returns the tokens that one request of a caller with a rate may cost."""
    return ceil(_MAX_COST_SECONDS * rate)


def _max_tokens(rate: float) -> float:
    return max(rate, 1.0)
