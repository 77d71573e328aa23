"""Requests followed through OpenTelemetry, by a collector that listens."""

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

from recsys_tasks.stack.environment import any_free_port
from tests.integration.endpoints import TOKEN, running_process

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def collector() -> Iterator[tuple[str, Queue[Span]]]:
    """An address for spans, and what has come there."""
    spans: Queue[Span] = Queue()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told = ExportTraceServiceRequest.FromString(
                gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            )
            for resource in told.resource_spans:
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


def test_a_request_is_a_span_under_that_of_the_caller(tmp_path: Path, collector: tuple[str, Queue[Span]]) -> None:
    address, spans = collector
    port = any_free_port()
    settings: dict[str, Any] = {"RECSYS_TRACING": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": address}
    with running_process(tmp_path / "home", TOKEN, port, 1, **settings):
        parent = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        httpx.post(f"http://127.0.0.1:{port}/v1/recommendations", json={}, headers=parent)
    # What was not sent yet is sent when the endpoint stops.
    found = {span.name: span for span in iter_of(spans)}
    span = found["POST /v1/recommendations"]
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == "00f067aa0ba902b7"
    told = {entry.key: entry.value for entry in span.attributes}
    assert told["http.response.status_code"].int_value == 503  # there is no model yet
    assert "GET /healthz" in found


def iter_of(spans: Queue[Span]) -> Iterator[Span]:
    """All that have come."""
    while not spans.empty():
        yield spans.get()
