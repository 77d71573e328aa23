"""OpenTelemetry tracing: one server span for each request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


class RequestTracer:
    """Creates request spans; a no-op without a tracer. `close` exports the remaining spans."""

    def __init__(self, tracer: Tracer | None = None, close: Callable[[], None] = lambda: None) -> None:
        self._tracer = tracer
        self.close = close

    @contextmanager
    def span(self, method: str, route: str, headers: Mapping[str, str]) -> Iterator[Callable[[int], None]]:
        """Opens the span of a request, as a child of the caller's span. Yields a function that sets the HTTP status."""
        if self._tracer is None:
            yield lambda status: None
            return
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, StatusCode

        attributes = {"http.request.method": method, "http.route": route}
        with self._tracer.start_as_current_span(
            f"{method} {route}", context=extract(headers), kind=SpanKind.SERVER, attributes=attributes
        ) as span:

            def set_status(status: int) -> None:
                span.set_attribute("http.response.status_code", status)
                if status >= 500:
                    span.set_status(StatusCode.ERROR)

            yield set_status


def create_tracer(settings: Settings) -> RequestTracer:
    """Returns the request tracer. OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_…`) set where spans go.

    Raises:
        ConfigurationError: OpenTelemetry is not installed.
    """
    if not settings.tracing:
        return RequestTracer()
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
    return RequestTracer(provider.get_tracer("recsys_tasks.serving"), provider.shutdown)
