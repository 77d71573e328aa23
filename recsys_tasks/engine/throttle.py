"""Work beside answers: a model that comes may take its time, those who wait for an answer may not."""

from __future__ import annotations

import time
from collections.abc import Callable

_REST = 7
Pause = Callable[[], None]
"""What work in pieces calls after each of them."""


def no_pause() -> None:
    """For work that nobody waits beside."""


class Rests:
    """Rests after each piece of this thread's work, as `rest_after` says."""

    def __init__(self) -> None:
        self._began = time.thread_time()

    def __call__(self) -> None:
        """Ends a piece."""
        time.sleep(rest_after(self._began))
        self._began = time.thread_time()


def rest_after(began: float) -> float:
    """Seconds to sleep, so that what this thread did since `began` (of `time.thread_time`) is an eighth of the time.

    It is the processor's time: one who waited for others meanwhile has rested already.

    Two threads that share an interpreter halve each other's speed. An endpoint at half of what it can do would answer
    later and later as long as the other one works; after a short piece of work and a rest it has caught up.
    """
    return _REST * (time.thread_time() - began)
