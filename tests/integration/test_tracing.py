"""Request spans, exported to an OpenTelemetry collector."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from recsys_tasks.stack.environment import find_free_port
from tests.integration.endpoints import TOKEN, running_process

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def collector() -> Iterator[tuple[str, Queue[Span]]]:
    """The URL of a collector, and the spans it received."""
    spans: Queue[Span] = Queue()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            message = ExportTraceServiceRequest.FromString(
                gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            )
            for resource in message.resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        spans.put(span)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", spans
    server.shutdown()


def test_a_request_is_a_child_span_of_the_caller(tmp_path: Path, collector: tuple[str, Queue[Span]]) -> None:
    url, spans = collector
    port = find_free_port()
    settings: dict[str, Any] = {"RECSYS_TRACING": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": url}
    with running_process(tmp_path / "home", TOKEN, port, 1, **settings):
        parent = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        httpx.post(f"http://127.0.0.1:{port}/v1/recommendations", json={}, headers=parent)
    # The endpoint exports the remaining spans when it stops.
    span_of = {span.name: span for span in drain(spans)}
    span = span_of["POST /v1/recommendations"]
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == "00f067aa0ba902b7"
    attributes = {entry.key: entry.value for entry in span.attributes}
    assert attributes["http.response.status_code"].int_value == 503  # no model is active
    assert "GET /healthz" in span_of


def drain(spans: Queue[Span]) -> Iterator[Span]:
    """Yields the spans received so far."""
    while not spans.empty():
        yield spans.get()
