"""Throttles background work so that request latency stays flat while a model loads."""

from __future__ import annotations

import time
from collections.abc import Callable

_SLEEP_RATIO = 7  # seconds of sleep per second of CPU time
Pause = Callable[[], None]
"""Called by long work after each step, so that the caller can yield the interpreter to requests."""


def no_pause() -> None:
    """Does nothing: for work without concurrent requests."""


class Throttle:
    """A `Pause` that sleeps after each step of this thread's work, as long as `throttle_seconds` says."""

    def __init__(self) -> None:
        self._step_start = time.thread_time()

    def __call__(self) -> None:
        """Sleeps for the step that ends now."""
        time.sleep(throttle_seconds(self._step_start))
        self._step_start = time.thread_time()


def throttle_seconds(start: float) -> float:
    """Returns how many seconds to sleep so that this thread's work since `start` takes an eighth of the time.

    Two threads of one interpreter halve each other's speed. An endpoint at half its capacity would fall further and
    further behind while the other thread works; after a short step and a sleep it has caught up.

    Args:
        start: `time.thread_time` at the start of the step. CPU time is what counts: time spent waiting is not work.
    """
    return _SLEEP_RATIO * (time.thread_time() - start)
