"""A span for each request, for those who follow requests through several services with OpenTelemetry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


class Tracing:
    """Spans of a tracer; without one it does nothing. `close` sends what was not sent yet."""

    def __init__(self, tracer: Tracer | None = None, close: Callable[[], None] = lambda: None) -> None:
        self._tracer = tracer
        self.close = close

    @contextmanager
    def request(self, method: str, route: str, headers: Mapping[str, str]) -> Iterator[Callable[[int], None]]:
        """The span of a request, under that of the caller if its headers name one; to be told the answer's status."""
        if self._tracer is None:
            yield lambda status: None
            return
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, StatusCode

        about = {"http.request.method": method, "http.route": route}
        with self._tracer.start_as_current_span(
            f"{method} {route}", context=extract(headers), kind=SpanKind.SERVER, attributes=about
        ) as span:

            def answered(status: int) -> None:
                span.set_attribute("http.response.status_code", status)
                if status >= 500:
                    span.set_status(StatusCode.ERROR)

            yield answered


def tracing(settings: Settings) -> Tracing:
    """What the settings ask for; where spans go is said by OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_…`).

    Raises:
        ConfigurationError: OpenTelemetry is not installed.
    """
    if not settings.tracing:
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigurationError(
            f"RECSYS_TRACING needs OpenTelemetry ({error}): pip install 'session-recommender[tracing]'"
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": "recsys-endpoint"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider.get_tracer("recsys_tasks.serving"), provider.shutdown)
