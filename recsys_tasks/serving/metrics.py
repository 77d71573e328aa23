"""What the endpoint shows to Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from recsys_tasks.engine.engine import Answer, Engine
from recsys_tasks.serving.event_log import Journal
from recsys_tasks.serving.overload import Overload

_LATENCIES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_STAGES = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)


class Metrics:
    """Counters, times and gauges of one endpoint."""

    def __init__(self, journal: Journal, overload: Overload) -> None:
        self._registry = registry = CollectorRegistry()
        self._latency = Histogram(
            "recsys_request_seconds", "Time to answer", ["route", "status"], buckets=_LATENCIES, registry=registry
        )
        stages = Histogram(
            "recsys_stage_seconds", "Parts of a model's time to answer", ["stage"], buckets=_STAGES, registry=registry
        )
        self._of_stage = {stage: stages.labels(stage) for stage in ("history", "decoder", "ranking")}
        histories = Counter(
            "recsys_histories_total", "Histories asked for, by whether they were kept", ["kept"], registry=registry
        )
        self._histories = {kept: histories.labels("yes" if kept else "no") for kept in (True, False)}
        self._refused = Counter("recsys_refused_total", "Requests not taken on", ["why"], registry=registry)
        self._events = Counter("recsys_events_total", "Events that became durable", ["event_type"], registry=registry)
        self._version = Gauge("recsys_model_version", "Version of the model that serves", registry=registry)
        waiting = Gauge("recsys_wait_seconds", "How long a request waits for its turn", registry=registry)
        waiting.set_function(lambda: overload.wait_seconds)
        written = Gauge("recsys_journal_bytes", "What the journal holds", registry=registry)
        written.set_function(lambda: sum(segment.bytes for segment in journal.segments()))
        behind = Gauge("recsys_journal_uncollected_bytes", "What of it nobody has asked past since", registry=registry)
        behind.set_function(journal.uncollected)

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._latency.labels(route, str(status)).observe(seconds)

    def refused(self, why: str) -> None:
        """A request was not taken on: `busy`, or `rate`."""
        self._refused.labels(why).inc()

    def list_made(self, answer: Answer) -> None:
        """A model made a list."""
        spent = answer.spent
        if spent is not None:
            self._histories[spent.kept].inc()
            for stage, histogram in self._of_stage.items():
                histogram.observe(getattr(spent, stage))

    def event(self, event_type: str) -> None:
        """An event became durable."""
        self._events.labels(event_type).inc()

    def serving(self, engine: Engine | None) -> None:
        """A model serves from now on."""
        if engine is not None and engine.bundle.model_version.isdecimal():
            self._version.set(int(engine.bundle.model_version))

    def page(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
