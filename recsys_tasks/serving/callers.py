"""The callers of one endpoint: who they are, what they may do, and how much."""

from __future__ import annotations

import secrets
import time
from contextlib import suppress
from functools import partial
from math import ceil
from pathlib import Path

from starlette.requests import Request

from recsys_tasks.serving.access import ADMIN, OPEN, AccessControl, Caller, Scope
from recsys_tasks.serving.durable import create_file
from recsys_tasks.serving.messages import RequestError
from recsys_tasks.serving.metrics import Metrics
from recsys_tasks.serving.overload import RateLimiter, max_cost

_UNITS_PER_TOKEN = 100  # items of a list, or events, that count as one request


class Callers:
    """Admits callers by their keys and rate limits.

    Args:
        access: the keys.
        default_rate: requests per second of callers whose key has no limit of its own; None for no limit.
        metrics: count the rejected requests.
        home: of the endpoint's workers, which share a secret there.
    """

    def __init__(self, access: AccessControl, default_rate: float | None, metrics: Metrics, home: Path) -> None:
        self._access, self._default_rate, self._metrics = access, default_rate, metrics
        self._limiter = RateLimiter()
        self._secret = _load_secret(home / "address_secret")

    def admit(self, request: Request, scope: Scope) -> None:
        """Checks the rate limit and the scope of a request's caller.

        Handlers find the caller in `request.state.caller`, and charge what the request costs by
        `request.state.charge(length, …)`, with the lengths of its lists of items or events.

        Raises:
            RequestError: the caller exceeds its rate limit (429), or lacks the scope (401, 403).
        """
        headers, host = request.headers, request.client.host if request.client else ""
        caller = self._access.identify(headers.get("authorization"), _origin(request), host)
        request.state.caller, request.state.charge = caller, partial(self._charge, caller)
        rate = self._rate_of(caller)
        if rate is not None and scope != OPEN and self._limiter.should_reject(caller.name, time.monotonic(), rate):
            self._metrics.count_rejected_request("rate_limit")
            raise RequestError(429, "Too many requests", "this caller exceeds its rate limit; retry later")
        self._access.check(caller, scope)

    def rate_limit_headers(self, request: Request) -> dict[str, str]:
        """Returns the headers that tell a caller what is left of its rate limit; none without a limit."""
        caller: Caller | None = getattr(request.state, "caller", None)
        rate = None if caller is None else self._rate_of(caller)
        if caller is None or rate is None:
            return {}
        return self._limiter.headers(caller.name, time.monotonic(), rate)

    def sender(self, request: Request) -> str:
        """Returns the name of a request's caller for the event log, which holds no addresses."""
        caller: Caller = request.state.caller
        return caller.pseudonym(self._secret)

    def _charge(self, caller: Caller, *lengths: int) -> None:
        """Charges lists of items or events to a caller, beside the token that the request has cost so far: a token for
        every 100, rounded up.

        Raises:
            RequestError: the request costs more than the caller may spend in ten seconds (413).
        """
        rate = self._rate_of(caller)
        if rate is None:
            return
        tokens = sum(ceil(length / _UNITS_PER_TOKEN) for length in lengths)
        if tokens > max_cost(rate):
            self._metrics.count_rejected_request("rate_limit")
            problem = f"the request counts as {tokens} requests, the maximum is {max_cost(rate)}; ask for fewer items"
            raise RequestError(413, "Request too costly", problem)
        self._limiter.charge(caller.name, time.monotonic(), rate, max(tokens - 1, 0))

    def _rate_of(self, caller: Caller) -> float | None:
        """Returns a caller's requests per second; None without a limit. Administrators have none."""
        return None if ADMIN in caller.scopes else caller.rate_limit or self._default_rate


def _origin(request: Request) -> str | None:
    """Returns the origin of the page that sends a request. Browsers leave the header out of GET requests to the page's
    own origin, and say so in another one (Fetch Metadata)."""
    origin = request.headers.get("origin")
    if origin is None and request.headers.get("sec-fetch-site") == "same-origin":
        return f"{request.url.scheme}://{request.headers.get('host', '')}"
    return origin


def _load_secret(path: Path) -> bytes:
    """Returns the secret of a machine's workers; the first one makes it."""
    with suppress(FileExistsError):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            create_file(path, secrets.token_bytes(32))
    return path.read_bytes()
