"""What an endpoint does not take on: more than it can answer in time, and more than one caller may ask."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from recsys_tasks.serving.messages import Problem

_WEIGHT = 0.02  # of the latest list, in the mean of what one takes
_CALLERS = 10_000
_LISTS, _ITEMS = ("/v1/recommendations", "/v1/search"), "/v1/items/"
_REFUSAL = msgspec.json.encode(
    Problem("about:blank", "Too busy", 503, "more is asked than can be answered in time; ask again later")
)
_REFUSAL_HEADERS = [
    (b"content-type", b"application/problem+json"),
    (b"content-length", str(len(_REFUSAL)).encode()),
    (b"retry-after", b"1"),
]


class Overload:
    """How long requests wait for their turn: as many as have come and not begun, times what one takes.

    Args:
        most_seconds: requests for lists are refused while it is longer than this.

    Attributes:
        arrived: how many requests have come and are not answered; the server sets it.
    """

    def __init__(self, most_seconds: float) -> None:
        self._most_seconds = most_seconds
        self._mean_seconds = 0.0
        self._begun = 0
        self.arrived: Callable[[], int] = lambda: 0

    @contextmanager
    def begun(self) -> Iterator[None]:
        """That a request has had its turn; what it waits for from then on keeps nobody else waiting."""
        self._begun += 1
        try:
            yield
        finally:
            self._begun -= 1

    def took(self, seconds: float) -> None:
        """Takes in how long a list took."""
        self._mean_seconds += _WEIGHT * (seconds - self._mean_seconds)

    @property
    def wait_seconds(self) -> float:
        """How long the next request waits."""
        return max(self.arrived() - self._begun, 0) * self._mean_seconds

    def refuses(self) -> bool:
        """Whether a list is not to be made now, so that those behind it wait less."""
        return self.wait_seconds > self._most_seconds


class Shedding:
    """An application in front of another, which refuses lists without asking that one: refusing has to be cheap where
    many are refused.

    Args:
        app: what answers.
        overload: says what to refuse.
        spared: whether a request's header `Authorization` gets an answer all the same.
        refused: is told of each refusal.
    """

    def __init__(
        self, app: ASGIApp, overload: Overload, spared: Callable[[str], bool], refused: Callable[[], None]
    ) -> None:
        self._app, self._overload, self._spared, self._refused = app, overload, spared, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or refuses it."""
        if not (_is_for_a_list(scope) and self._overload.refuses()) or self._spared(_authorization(scope)):
            with self._overload.begun():
                await self._app(scope, receive, send)
            return
        self._refused()
        await send({"type": "http.response.start", "status": 503, "headers": _REFUSAL_HEADERS})
        await send({"type": "http.response.body", "body": _REFUSAL})


def _is_for_a_list(scope: Scope) -> bool:
    if scope["type"] != "http":
        return False
    path: str = scope["path"]
    return path.startswith(_LISTS) or (path.startswith(_ITEMS) and scope["method"] == "GET")


def _authorization(scope: Scope) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"), "")


class RateLimit:
    """So many requests a second of each caller, and a second's worth at once (a token bucket)."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when

    def refuses(self, caller: str, now: float) -> bool:
        """Whether a caller has asked too much at a time, seconds of any clock."""
        tokens, at = self._left.get(caller, (self._most, now))
        tokens = min(self._most, tokens + self._rate * (now - at))
        refused = tokens < 1.0
        self._left[caller] = (tokens if refused else tokens - 1.0, now)
        self._left.move_to_end(caller)
        if len(self._left) > _CALLERS:
            self._left.popitem(last=False)
        return refused

    @property
    def _most(self) -> float:
        return max(self._rate, 1.0)
