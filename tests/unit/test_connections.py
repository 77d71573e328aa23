"""Bounds of the HTTP connections, on a real server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from recsys_tasks.serving import connections

MAX_CONNECTIONS = 5
_SOCKET_BUFFERS = 20 << 20  # bytes, at most


async def _length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


async def _large(_: Request) -> PlainTextResponse:
    return PlainTextResponse("x" * (4 << 20))


async def _early(_: Request) -> PlainTextResponse:
    return PlainTextResponse("no", 401)


@contextmanager
def _serving(keep_alive: int) -> Iterator[tuple[str, int]]:
    app = Starlette(routes=[Route("/", _length, methods=["POST"]), Route("/large", _large), Route("/early", _early)])
    protocol = connections.bounded_protocol(MAX_CONNECTIONS)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=protocol, ws="none", log_config=None, loop="uvloop", timeout_keep_alive=keep_alive
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """A server that gives up slow headers and answers soon, and idle connections late."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(connections, "WRITE_SECONDS", 0.3)
    with _serving(keep_alive=60) as found:
        yield found


@pytest.fixture
def impatient() -> Iterator[tuple[str, int]]:
    """A server that gives up idle connections soon."""
    with _serving(keep_alive=1) as found:
        yield found


def _send_until_closed(client: socket.socket, piece: bytes) -> int:
    """Sends a piece again and again, 100 MB at most; returns the bytes that were taken."""
    num_sent = 0
    with suppress(OSError):
        while num_sent < 100 << 20:
            num_sent += client.send(piece)
    return num_sent


def _received(client: socket.socket) -> bytes:
    client.settimeout(20)
    chunks = []
    try:
        while chunk := client.recv(65_536):
            chunks.append(chunk)
    except ConnectionResetError:
        pass
    return b"".join(chunks)


def test_a_client_that_does_not_finish_its_headers_is_disconnected(address: tuple[str, int]) -> None:
    with closing(socket.create_connection(address)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert _received(client).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_sends_nothing_is_disconnected_like_an_idle_one(impatient: tuple[str, int]) -> None:
    with closing(socket.create_connection(impatient)) as client:
        assert _received(client) == b""


def test_a_connection_that_was_used_is_not_held_by_an_empty_line(impatient: tuple[str, int]) -> None:
    with closing(socket.create_connection(impatient)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        client.settimeout(20)
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
        client.sendall(b"\r\n")
        assert _received(client) == b""


def test_one_trailer_without_end_is_not_taken(address: tuple[str, int]) -> None:
    with closing(socket.create_connection(address)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ")
        assert _send_until_closed(client, b"a" * 65_536) < _SOCKET_BUFFERS


def test_a_client_that_does_not_read_its_answers_is_disconnected(address: tuple[str, int]) -> None:
    with closing(socket.create_connection(address)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.settimeout(20)
        requests = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000_000
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            client.sendall(requests)


@pytest.mark.parametrize("size", [1_000, 40_000, 300_000])
def test_an_answer_before_the_end_of_the_body_is_the_only_one(impatient: tuple[str, int], size: int) -> None:
    with closing(socket.create_connection(impatient)) as client:
        client.sendall(f"GET /early HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
        client.settimeout(20)
        answer = client.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 401 ")
        client.sendall(b"b" * size)
        assert _received(client) == b""


def test_trailers_of_any_size_are_not_taken(address: tuple[str, int]) -> None:
    with closing(socket.create_connection(address)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        assert _send_until_closed(client, b"X-Trailer: " + b"a" * 60_000 + b"\r\n") < _SOCKET_BUFFERS


@pytest.mark.parametrize("head", [b"POST / HTTP/1.1\r\nX: ", b"POST /"])
def test_headers_of_any_size_are_not_taken(address: tuple[str, int], head: bytes) -> None:
    with closing(socket.create_connection(address)) as client:
        client.sendall(head)
        assert _send_until_closed(client, b"a" * 65_536) < _SOCKET_BUFFERS
        assert _received(client)[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400", b"")


def test_an_address_has_a_bounded_number_of_connections(address: tuple[str, int]) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(socket.create_connection(address))) for _ in range(MAX_CONNECTIONS + 1)]
        assert _received(clients[-1]) == b""
        request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        clients[0].sendall(request)
        assert _received(clients[0]).startswith(b"HTTP/1.1 200 ")


def test_a_large_body_and_many_requests_of_one_connection_are_answered(address: tuple[str, int]) -> None:
    with httpx.Client(base_url=f"http://{address[0]}:{address[1]}") as client:
        for size in (0, 1 << 20, 3, 5 << 20):
            assert client.post("/", content=b"x" * size).text == str(size)
