"""When a call is sent again, and after how long."""

from __future__ import annotations

import random
from dataclasses import dataclass

BUSY_STATUSES = (429, 503)


@dataclass(frozen=True)
class RetryPolicy:
    """Calls without a response, and those answered with 429 or 503, are sent again. They count once; a change of rules
    would not, so it is sent again only if it cannot have arrived.

    Attributes:
        attempts: how often a call is sent at most.
        first_wait_seconds: longest wait before the second attempt; it doubles with each further one.
        max_wait_seconds: longest wait. A response that asks for more (`Retry-After`) is final.
    """

    attempts: int = 3
    first_wait_seconds: float = 0.1
    max_wait_seconds: float = 2.0

    def wait_seconds(self, attempt: int, retry_after: str | None = None) -> float | None:
        """Returns the wait after an attempt, counted from 1; None if it was the last one.

        The wait is random up to its limit, so that clients do not return all at once ("full jitter").

        Args:
            attempt: number of the attempt.
            retry_after: header of the response, if it has one.
        """
        if attempt >= self.attempts:
            return None
        limit = min(self.first_wait_seconds * 2 ** (attempt - 1), self.max_wait_seconds)
        asked = float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
        if asked > self.max_wait_seconds:
            return None
        return asked + random.uniform(0, limit)  # noqa: S311


DEFAULT_RETRIES = RetryPolicy()
