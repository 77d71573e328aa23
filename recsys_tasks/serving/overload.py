"""What an endpoint does not take on: more than it can answer in time, and more than one caller may ask."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict

_EVERY_SECONDS = 0.005
_MORE, _LESS = 0.1, 0.02  # of all requests, at each look
_CALLERS = 10_000


class Overload:
    """Refuses a share of requests while those that are taken wait too long for their turn.

    Requests that arrive wait for the event loop, so a task that wants its turn every few milliseconds sees how long
    they wait. The share grows while that is more than is allowed and shrinks while it is not, as in routers that keep
    queues short (Nichols and Jacobson 2012, CoDel): who is taken is answered in time, and a refusal costs next to
    nothing.
    """

    def __init__(self, most_seconds: float) -> None:
        self._most_seconds = most_seconds
        self.wait_seconds = 0.0
        self.refused_share = 0.0
        self._owed = 0.0

    async def watch(self) -> None:
        """Looks as long as the endpoint serves."""
        while True:
            began = time.perf_counter()
            await asyncio.sleep(_EVERY_SECONDS)
            self.look(time.perf_counter() - began - _EVERY_SECONDS)

    def look(self, waited: float) -> None:
        """Takes in how long something waited for its turn, seconds."""
        self.wait_seconds = max(waited, 0.0)
        change = _MORE if self.wait_seconds > self._most_seconds else -_LESS
        self.refused_share = min(max(self.refused_share + change, 0.0), 1.0)

    def refuses(self) -> bool:
        """Whether the next request is one to refuse."""
        self._owed += self.refused_share
        if self._owed < 1.0:
            return False
        self._owed -= 1.0
        return True


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
