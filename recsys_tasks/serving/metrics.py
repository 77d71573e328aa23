"""Prometheus metrics of one endpoint."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from recsys_tasks.engine.engine import Answer, Engine
from recsys_tasks.serving.event_log import EventLog
from recsys_tasks.serving.overload import QueueEstimator

_REQUEST_BUCKETS_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_STAGE_BUCKETS_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)


class Metrics:
    """Counters, histograms and gauges of one endpoint, in a registry of their own."""

    def __init__(self, event_log: EventLog, overload: QueueEstimator) -> None:
        self._registry = registry = CollectorRegistry()
        self._request_seconds = Histogram(
            "recsys_request_seconds",
            "Request latency",
            ["route", "status"],
            buckets=_REQUEST_BUCKETS_SECONDS,
            registry=registry,
        )
        stage_seconds = Histogram(
            "recsys_stage_seconds",
            "Time of each stage of a list made by the model",
            ["stage"],
            buckets=_STAGE_BUCKETS_SECONDS,
            registry=registry,
        )
        self._stage_seconds = {stage: stage_seconds.labels(stage) for stage in ("history", "decoder", "ranking")}
        history_cache = Counter(
            "recsys_history_cache_requests_total",
            "Look-ups of encoded histories, by cache result",
            ["result"],
            registry=registry,
        )
        self._history_cache = {is_hit: history_cache.labels("hit" if is_hit else "miss") for is_hit in (True, False)}
        self._rejected_requests = Counter(
            "recsys_rejected_requests_total",
            "Requests rejected by load shedding or rate limit",
            ["reason"],
            registry=registry,
        )
        self._events = Counter("recsys_events_total", "Events written durably", ["event_type"], registry=registry)
        self._model_version = Gauge("recsys_model_version", "Version of the active model", registry=registry)
        queue_wait = Gauge(
            "recsys_queue_wait_seconds", "Estimated time a new request waits before it is processed", registry=registry
        )
        queue_wait.set_function(lambda: overload.wait_seconds)
        event_log_bytes = Gauge("recsys_event_log_bytes", "Size of the event log", registry=registry)
        event_log_bytes.set_function(lambda: sum(segment.size_bytes for segment in event_log.segments()))
        uncollected_bytes = Gauge(
            "recsys_event_log_uncollected_bytes",
            "Size of the part of the event log not collected yet",
            registry=registry,
        )
        uncollected_bytes.set_function(event_log.uncollected_bytes)

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Records the latency of one request."""
        self._request_seconds.labels(route, str(status)).observe(seconds)

    def count_rejected_request(self, reason: str) -> None:
        """Counts a rejected request; the reason is `overload` or `rate_limit`."""
        self._rejected_requests.labels(reason).inc()

    def observe_list(self, answer: Answer) -> None:
        """Records the stage times and the cache result of one list, if the model made it."""
        timings = answer.timings
        if timings is not None:
            self._history_cache[timings.history_cached].inc()
            self._stage_seconds["history"].observe(timings.history)
            self._stage_seconds["decoder"].observe(timings.decoder)
            self._stage_seconds["ranking"].observe(timings.ranking)

    def count_event(self, event_type: str) -> None:
        """Counts an event that was written durably."""
        self._events.labels(event_type).inc()

    def set_model_version(self, engine: Engine | None) -> None:
        """Sets the version of the active model."""
        if engine is not None and engine.bundle.model_version.isdecimal():
            self._model_version.set(int(engine.bundle.model_version))

    def render(self) -> bytes:
        """Returns all metrics in the Prometheus text format."""
        return generate_latest(self._registry)
