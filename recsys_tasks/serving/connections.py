"""HTTP connections with bounds: on the size of the headers, on the time they take, and per address."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from recsys_tasks.serving.access import network_of

MAX_HEADER_BYTES = 32 << 10
HEADER_SECONDS, WRITE_SECONDS = 10.0, 120.0
_NUM_CONNECTIONS: Counter[str] = Counter()  # by address; a worker has one event loop


class BoundedProtocol(HttpToolsProtocol):
    """Uvicorn's protocol, which on its own takes headers of any size and waits for them for ever.

    The usual request, whose headers arrive in one piece, costs no timer.
    """

    max_connections = 1_024  # of one address

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accepts a connection; closes it if its address has too many, or as an idle one if it sends no request."""
        super().connection_made(transport)
        self._num_bytes = 0  # since the last headers or piece of a body
        self._is_in_message = self._is_in_body = False
        self._address = network_of(self.client[0]) if self.client else ""
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        _NUM_CONNECTIONS[self._address] += 1
        if _NUM_CONNECTIONS[self._address] > self.max_connections:
            transport.close()
        else:
            self._limit_time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._stop_timer()
        self._stop_write_timer()
        _NUM_CONNECTIONS[self._address] -= 1
        if not _NUM_CONNECTIONS[self._address]:
            del _NUM_CONNECTIONS[self._address]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses a piece of a request."""
        self._num_bytes += len(data)
        if not self._is_in_message:
            self._stop_timer()
        super().data_received(data)
        if self._num_bytes > MAX_HEADER_BYTES:
            self._close(b"431 Request Header Fields Too Large")
        else:
            self._limit_time()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._is_in_message = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has arrived; one after the body is not used."""
        if not self._is_in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The headers of a request have arrived."""
        self._num_bytes, self._is_in_body = 0, True
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body has arrived."""
        self._num_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has arrived."""
        self._num_bytes, self._is_in_message, self._is_in_body = 0, False, False
        self._stop_timer()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client does not read its answers; it has some time to begin."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._stop_write_timer()

    def _limit_time(self) -> None:
        """Limits the time until the next headers, or the end of a body that was answered before its end."""
        if self._timer is not None or (self.cycle is not None and not self.cycle.response_complete):
            return  # the handler of a request waits for its body, with a time limit of its own
        if self._is_in_message:
            self._timer = self.loop.call_later(HEADER_SECONDS, self._close, b"408 Request Timeout")
        else:
            self._timer = self.loop.call_later(self.timeout_keep_alive, self.transport.close)

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self, status: bytes) -> None:
        self._stop_timer()
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()


def bounded_protocol(max_connections: int) -> type[Any]:
    """Returns the protocol class of a server that accepts at most a number of connections of one address."""
    return type("BoundedProtocol", (BoundedProtocol,), {"max_connections": max_connections})
