"""Rollout of a staged model beside the active one: shadow traffic (copies of requests) or a canary (share of users)."""

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
from recsys_tasks.engine.item_updates import ItemUpdate
from recsys_tasks.engine.probe import BundleMeasurement
from recsys_tasks.names import CANARY, SHADOW

log = logging.getLogger(__name__)

HELD: Final = "held"
RolloutMode = Literal["held", "shadow", "canary"]
AnswerFunction = Callable[[Engine], Answer]

_MAX_LATENCIES = 5_000  # latest ones, of each model
_COMPARE_EVERY_ANSWERS = 100
_MIN_LATENCIES = 200  # of each model, for a comparison
_MIN_ERRORS = 3
_MAX_QUEUED_COPIES = 8
_LATENCY_TOLERANCE_MS = 2.0  # a smaller difference never ends a rollout


class RolloutTerms(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Traffic of a staged model, and the limits that end its rollout.

    Attributes:
        mode: `held` (no traffic), `shadow` or `canary`.
        share: of requests (shadow) or of users (canary).
        error_share: maximum share of failed answers.
        latency_ratio: maximum ratio of its 95th percentile latency to that of the active model.
    """

    mode: RolloutMode = HELD
    share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    error_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01
    latency_ratio: Annotated[float, msgspec.Meta(gt=0)] = 2.0


class RolloutReport(msgspec.Struct, kw_only=True):
    """State and statistics of a staged model.

    Attributes:
        bundle: digest of the bundle.
        model_version: its version.
        measured: measurements of the bundle from staging.
        terms: terms of the rollout.
        ended: reason why the endpoint ended the rollout, else None.
        answers: number of answers in the rollout, failed ones included.
        errors: number of failed answers.
        skipped: number of request copies dropped because the shadow queue was full.
        milliseconds: 95th percentile latency of the staged model.
        serving_milliseconds: 95th percentile latency of the active model.
        overlap: mean share of the active model's list that the shadow list contains too.
    """

    bundle: str
    model_version: str
    measured: BundleMeasurement
    terms: RolloutTerms
    ended: str | None = None
    answers: int = 0
    errors: int = 0
    skipped: int = 0
    milliseconds: float | None = None
    serving_milliseconds: float | None = None
    overlap: float | None = None


class ChallengerRunner:
    """Runs a staged model. Canary answers come from the calling thread, shadow answers from a thread of its own."""

    def __init__(
        self, engine: Engine, measured: BundleMeasurement, terms: RolloutTerms, ended: str | None = None
    ) -> None:
        self.engine = engine
        self.measured = measured
        self.terms = terms
        self.ended = ended
        self._engine_lock = threading.Lock()
        self._shadow_executor = ThreadPoolExecutor(1, "shadow")
        self._queue_slots = threading.Semaphore(_MAX_QUEUED_COPIES)
        self._reset_statistics()

    @property
    def is_in_rollout(self) -> bool:
        """Whether it receives requests."""
        return self.terms.mode != HELD and self.ended is None

    def start(self, terms: RolloutTerms) -> None:
        """Starts a phase with empty statistics; with the same terms, a running one continues. A rollout that has ended
        here stays ended until the bundle is staged again."""
        if terms != self.terms:
            self._reset_statistics()
            self.terms = terms

    def close(self) -> None:
        """Stops the shadow thread and drops queued copies."""
        self._shadow_executor.shutdown(wait=True, cancel_futures=True)

    def answer(self, active: Engine, visitor: str | None, compute: AnswerFunction) -> tuple[Engine, Answer]:
        """Returns the engine that answers a request, and its answer.

        Args:
            active: engine of the active model.
            visitor: id of the user or session; the same id is always in or out of the share.
            compute: computes the answer with an engine.
        """
        if not self.is_in_rollout:
            return active, compute(active)
        is_included = visitor is not None and self.is_in_share(visitor)
        if is_included and self.terms.mode == CANARY:
            with self._engine_lock:
                own_answer = self._compute_own_answer(compute)
            if own_answer is not None:
                return self.engine, own_answer
        began = time.perf_counter()
        answer = compute(active)
        self._active_latencies_ms.append(1e3 * (time.perf_counter() - began))
        if self.terms.mode == SHADOW and self._is_sampled(is_included, visitor):
            self._enqueue_copy(compute, answer)
        return active, answer

    def erase_user(self, user_id: str) -> None:
        """Removes a user from the engine's caches."""
        with self._engine_lock:
            self.engine.forget(user_id)

    def apply_item_updates(self, updates: Mapping[str, ItemUpdate]) -> None:
        """Applies item updates to the engine."""
        with self._engine_lock:
            self.engine = self.engine.with_items(updates)

    def is_in_share(self, visitor: str) -> bool:
        """Whether a visitor is in the rollout's share; the same at every endpoint, and kept when the share grows."""
        digest = hashlib.blake2b(f"{self.engine.bundle.digest} {visitor}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) < self.terms.share * 2**64

    def report(self) -> RolloutReport:
        """Returns the state and the statistics so far."""
        bundle = self.engine.bundle
        return RolloutReport(
            bundle=bundle.digest,
            model_version=bundle.model_version,
            measured=self.measured,
            terms=self.terms,
            ended=self.ended,
            answers=self._num_answers,
            errors=self._num_errors,
            skipped=self._num_skipped,
            milliseconds=_percentile_95(self._own_latencies_ms),
            serving_milliseconds=_percentile_95(self._active_latencies_ms),
            overlap=self._overlap_sum / self._num_compared if self._num_compared else None,
        )

    def _reset_statistics(self) -> None:
        self._num_answers = self._num_errors = self._num_skipped = self._num_compared = self._num_unidentified = 0
        self._overlap_sum = 0.0
        self._own_latencies_ms: deque[float] = deque(maxlen=_MAX_LATENCIES)
        self._active_latencies_ms: deque[float] = deque(maxlen=_MAX_LATENCIES)

    def _is_sampled(self, is_included: bool, visitor: str | None) -> bool:
        if visitor is not None:
            return is_included
        # Requests without a visitor cannot be hashed; the shadow takes the first ones of every 100 up to the share.
        self._num_unidentified += 1
        return (self._num_unidentified - 1) % 100 < 100 * self.terms.share

    def _compute_own_answer(self, compute: AnswerFunction) -> Answer | None:
        """Returns the staged model's answer and counts it; None if it failed."""
        began = time.perf_counter()
        self._num_answers += 1
        try:
            answer = compute(self.engine)
        except Exception as error:
            self._num_errors += 1
            log.exception("Version %s, in a rollout, failed to answer", self.engine.bundle.model_version)
            if self._num_errors >= max(_MIN_ERRORS, self.terms.error_share * self._num_answers):
                self._end(
                    f"{self._num_errors} of {self._num_answers} answers failed,"
                    f" the last with {type(error).__name__}: {error}"
                )
            return None
        self._own_latencies_ms.append(1e3 * (time.perf_counter() - began))
        if self._num_answers % _COMPARE_EVERY_ANSWERS == 0:
            self._compare_latencies()
        return answer

    def _compare_latencies(self) -> None:
        own_ms, active_ms = _percentile_95(self._own_latencies_ms), _percentile_95(self._active_latencies_ms)
        num_latencies = min(len(self._own_latencies_ms), len(self._active_latencies_ms))
        if own_ms is None or active_ms is None or num_latencies < _MIN_LATENCIES:
            return
        if own_ms > max(self.terms.latency_ratio * active_ms, active_ms + _LATENCY_TOLERANCE_MS):
            self._end(f"95th percentile latency is {own_ms:.1f} ms, that of the active model {active_ms:.1f} ms")

    def _enqueue_copy(self, compute: AnswerFunction, answer: Answer) -> None:
        if not self._queue_slots.acquire(blocking=False):
            self._num_skipped += 1
            return
        try:
            self._shadow_executor.submit(self._answer_copy, compute, [item.item_id for item in answer.items])
        except RuntimeError:  # another thread has just closed it to activate or discard the bundle
            self._queue_slots.release()

    def _answer_copy(self, compute: AnswerFunction, active_item_ids: list[str]) -> None:
        try:
            with self._engine_lock:
                answer = self._compute_own_answer(compute)
            if answer is not None and active_item_ids:
                shared = {item.item_id for item in answer.items} & set(active_item_ids)
                self._num_compared += 1
                self._overlap_sum += len(shared) / len(active_item_ids)
        finally:
            self._queue_slots.release()

    def _end(self, reason: str) -> None:
        self.ended = reason
        log.error("The rollout of version %s has ended: %s", self.engine.bundle.model_version, reason)


def _percentile_95(latencies_ms: deque[float]) -> float | None:
    return float(np.percentile(list(latencies_ms), 95)) if latencies_ms else None
