"""A staged model beside the one that serves: on copies of requests (shadow), or for a share of the users (canary)."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Final, Literal

import msgspec
import numpy as np

from recsys_tasks.engine.engine import Answer, Engine
from recsys_tasks.engine.item_updates import Addition
from recsys_tasks.engine.probe import Measured
from recsys_tasks.names import CANARY, SHADOW

log = logging.getLogger(__name__)

HELD: Final = "held"
Mode = Literal["held", "shadow", "canary"]
Ask = Callable[[Engine], Answer]

_REMEMBERED = 5_000  # latest times of each model
_LOOK_EVERY = 100
_ENOUGH = 200  # times of each model before they are compared
_FEWEST_ERRORS = 3
_QUEUE = 8
_SLACK_MILLISECONDS = 2.0  # a slower answer by less than this is no reason to end anything


class Terms(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """How a staged model is tried.

    Attributes:
        mode: `held` (not at all), `shadow` or `canary`.
        share: of the requests (shadow) or of the users (canary).
        error_share: more failed answers than this end the trial.
        latency_ratio: an answer's 95th percentile over this many times the serving model's ends it.
    """

    mode: Mode = HELD
    share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    error_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01
    latency_ratio: Annotated[float, msgspec.Meta(gt=0)] = 2.0


class Trial(msgspec.Struct, kw_only=True):
    """What a staged model showed.

    Attributes:
        bundle, model_version: which it is; measured: when it was staged.
        terms: how it is tried; ended: why it is no longer, if it ended by itself.
        answers, errors: how many, on trial; skipped: copies of requests that came too fast.
        milliseconds, serving_milliseconds: 95th percentiles of its answers and of those of the model that serves.
        overlap: mean share of the serving model's list that its own has too, in the shadow.
    """

    bundle: str
    model_version: str
    measured: Measured
    terms: Terms
    ended: str | None = None
    answers: int = 0
    errors: int = 0
    skipped: int = 0
    milliseconds: float | None = None
    serving_milliseconds: float | None = None
    overlap: float | None = None


class Challenger:
    """A staged model, on trial or not. One thread may ask it, and one of its own asks it in the shadow."""

    def __init__(self, engine: Engine, measured: Measured, terms: Terms, ended: str | None = None) -> None:
        self.engine = engine
        self.measured = measured
        self.terms = terms
        self.ended = ended
        self._engine_in_use = threading.Lock()
        self._shadow = ThreadPoolExecutor(1, "shadow")
        self._room = threading.Semaphore(_QUEUE)
        self._clear()

    @property
    def on_trial(self) -> bool:
        """Whether requests come to it."""
        return self.terms.mode != HELD and self.ended is None

    def begin(self, terms: Terms) -> None:
        """Tries it by other terms, counting from nothing; by the same ones it goes on."""
        if terms != self.terms or self.ended is not None:
            self._clear()
            self.terms, self.ended = terms, None

    def close(self) -> None:
        """Ends what is asked in the shadow."""
        self._shadow.shutdown(wait=True, cancel_futures=True)

    def answer(self, serving: Engine, key: str | None, ask: Ask) -> tuple[Engine, Answer]:
        """The answer to one request, and whose it is.

        Args:
            serving: the engine of the model that serves.
            key: of whose request it is: the same key has the same answer to whether it takes part.
            ask: gets the answer from an engine.
        """
        if not self.on_trial:
            return serving, ask(serving)
        taken = key is not None and self.takes(key)
        if taken and self.terms.mode == CANARY:
            with self._engine_in_use:
                found = self._timed(ask)
            if found is not None:
                return self.engine, found
        began = time.perf_counter()
        answer = ask(serving)
        self._serving_times.append(1e3 * (time.perf_counter() - began))
        if self.terms.mode == SHADOW and self._drawn(taken, key):
            self._copy(ask, answer)
        return serving, answer

    def forget(self, user_id: str) -> None:
        """Drops what its engine keeps of a user between answers."""
        with self._engine_in_use:
            self.engine.forget(user_id)

    def put_items(self, news: Mapping[str, Addition]) -> None:
        """Lets its engine know what was told of items."""
        with self._engine_in_use:
            self.engine = self.engine.with_items(news)

    def takes(self, key: str) -> bool:
        """Whether a user's requests are among the share that is tried; the same users at every endpoint."""
        digest = hashlib.blake2b(f"{self.engine.bundle.digest} {key}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) < self.terms.share * 2**64

    def report(self) -> Trial:
        """What it showed so far."""
        bundle = self.engine.bundle
        return Trial(
            bundle=bundle.digest,
            model_version=bundle.model_version,
            measured=self.measured,
            terms=self.terms,
            ended=self.ended,
            answers=self._answers,
            errors=self._errors,
            skipped=self._skipped,
            milliseconds=_p95(self._times),
            serving_milliseconds=_p95(self._serving_times),
            overlap=self._overlaps / self._compared if self._compared else None,
        )

    def _clear(self) -> None:
        self._answers = self._errors = self._skipped = self._compared = 0
        self._overlaps = 0.0
        self._times: deque[float] = deque(maxlen=_REMEMBERED)
        self._serving_times: deque[float] = deque(maxlen=_REMEMBERED)

    def _drawn(self, taken: bool, key: str | None) -> bool:
        # Requests of nobody have no key; in the shadow they take their turn all the same.
        return taken or (key is None and len(self._serving_times) % 100 < 100 * self.terms.share)

    def _timed(self, ask: Ask) -> Answer | None:
        """Its own answer, counted; None if it failed."""
        began = time.perf_counter()
        self._answers += 1
        try:
            found = ask(self.engine)
        except Exception as error:
            self._errors += 1
            log.exception("Version %s on trial failed to answer", self.engine.bundle.model_version)
            if self._errors >= max(_FEWEST_ERRORS, self.terms.error_share * self._answers):
                self._end(
                    f"{self._errors} of {self._answers} answers failed, the last by {type(error).__name__}: {error}"
                )
            return None
        self._times.append(1e3 * (time.perf_counter() - began))
        if self._answers % _LOOK_EVERY == 0:
            self._compare_times()
        return found

    def _compare_times(self) -> None:
        own, serving = _p95(self._times), _p95(self._serving_times)
        if own is None or serving is None or min(len(self._times), len(self._serving_times)) < _ENOUGH:
            return
        if own > max(self.terms.latency_ratio * serving, serving + _SLACK_MILLISECONDS):
            self._end(f"answers in {own:.1f} ms (95th percentile) where the serving model takes {serving:.1f} ms")

    def _copy(self, ask: Ask, answer: Answer) -> None:
        if not self._room.acquire(blocking=False):
            self._skipped += 1
            return
        try:
            self._shadow.submit(self._answer_copy, ask, [item.item_id for item in answer.items])
        except RuntimeError:  # it was closed a moment ago, in the thread that lets it serve or go
            self._room.release()

    def _answer_copy(self, ask: Ask, shown: list[str]) -> None:
        try:
            with self._engine_in_use:
                found = self._timed(ask)
            if found is not None and shown:
                self._compared += 1
                self._overlaps += len({item.item_id for item in found.items} & set(shown)) / len(shown)
        finally:
            self._room.release()

    def _end(self, reason: str) -> None:
        self.ended = reason
        log.error("The trial of version %s has ended: %s", self.engine.bundle.model_version, reason)


def _p95(milliseconds: deque[float]) -> float | None:
    return float(np.percentile(list(milliseconds), 95)) if milliseconds else None
