"""Load generator for endpoints on this host: closed loop, or open loop at a fixed rate; bounded in time.

Addresses without a path get recommendation requests.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import httptools
import msgspec
import numpy as np
import uvloop

_PATH = "/v1/recommendations"
_CONNECTIONS = 512
_TIMEOUT_SECONDS = 30.0
_REJECTED_STATUSES = (429, 503)
Expected = Mapping[str, Sequence[Sequence[str]]]


class LoadResult(NamedTuple):
    """Results of a load: due time (`time.perf_counter`) and latency in seconds of each answered request, counts of
    failed requests, of rejected ones among them (429, 503) and of answers that mix versions, and answers by version."""

    due: np.ndarray
    seconds: np.ndarray
    failed: int
    refused: int
    mixed: int
    versions: dict[str, int]

    def milliseconds(self, percentile: float, spans: Sequence[tuple[float, float]] = ((-np.inf, np.inf),)) -> float:
        """Returns a latency percentile in ms of the requests that were due within the spans."""
        within = np.zeros(len(self.due), bool)
        for began, ended in spans:
            within |= (self.due >= began) & (self.due < ended)
        return float(1e3 * np.percentile(self.seconds[within], percentile))


def capacity(urls: Sequence[str], bodies: Sequence[bytes], seconds: float, connections: int = 8) -> float:
    """Returns the requests/s of a closed loop: each connection sends its next request after an answer."""

    async def run() -> float:
        done, end = 0, time.perf_counter() + seconds

        async def one(start: int) -> None:
            nonlocal done
            url = urls[start % len(urls)]
            connection = await _connect(url)
            for number in itertools.count(start, connections):
                if time.perf_counter() >= end:
                    connection.close()
                    return
                await connection.ask(_request(url, bodies[number % len(bodies)]))
                done += 1

        await asyncio.gather(*(one(start) for start in range(connections)))
        return done / seconds

    return uvloop.run(run())


class LoadGenerator:
    """Open-loop load generator: a process that sends requests at a fixed rate while the context is open."""

    def __init__(
        self,
        urls: Sequence[str],
        bodies: Sequence[bytes],
        rate: float,
        expected: Expected,
        max_seconds: float,
        key: str | None = None,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._results, results_sender = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_run_load, args=(urls, bodies, rate, expected, max_seconds, self._stop, results_sender, key)
        )
        self.load: LoadResult | None = None

    def __enter__(self) -> LoadGenerator:
        self._process.start()
        self._results.recv()  # the process is ready
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.load = self._results.recv()
        self._process.join()


def _run_load(
    urls: Sequence[str],
    bodies: Sequence[bytes],
    rate: float,
    expected: Expected,
    max_seconds: float,
    stop: Event,
    results: Connection,
    key: str | None,
) -> None:
    with suppress(PermissionError):
        os.nice(-10)  # real clients run on other hosts; a delay of the generator would count as latency
    results.send("ready")
    results.send(uvloop.run(_open_loop(urls, bodies, rate, expected, max_seconds, stop, key)))


async def _open_loop(
    urls: Sequence[str],
    bodies: Sequence[bytes],
    rate: float,
    expected: Expected,
    max_seconds: float,
    stop: Event,
    key: str | None,
) -> LoadResult:
    random = np.random.default_rng(0)
    pool = _ConnectionPool(urls, bodies, expected, key)
    await pool.connect()
    began = due = time.perf_counter()
    running: set[asyncio.Task[None]] = set()
    for number in itertools.count():
        due += random.exponential(1 / rate)
        if stop.is_set() or due - began > max_seconds:
            break
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(pool.ask(number, due))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    return LoadResult(
        np.asarray(pool.dues), np.asarray(pool.seconds), pool.failed, pool.refused, pool.mixed, pool.versions
    )


class _ConnectionPool:
    """Connections to the endpoints, and the results of the requests sent over them."""

    def __init__(self, urls: Sequence[str], bodies: Sequence[bytes], expected: Expected, key: str | None) -> None:
        self._urls = urls
        self._requests = [[_request(url, body, key) for body in bodies] for url in urls]
        self._expected = expected
        self._free: list[asyncio.Queue[_Connection]] = [asyncio.Queue() for _ in urls]
        self.dues: list[float] = []
        self.seconds: list[float] = []
        self.failed = self.refused = self.mixed = 0
        self.versions: dict[str, int] = {}

    async def connect(self) -> None:
        for url, free in zip(self._urls, self._free, strict=True):
            for _ in range(_CONNECTIONS // len(self._urls)):
                free.put_nowait(await _connect(url))

    async def ask(self, number: int, due: float) -> None:
        where, which = number % len(self._urls), number % len(self._requests[0])
        connection = await self._free[where].get()
        try:
            status, body = await connection.ask(self._requests[where][which])
        except (OSError, TimeoutError):
            self.failed += 1
            connection.close()
            connection = await _connect(self._urls[where])
            return
        finally:
            self._free[where].put_nowait(connection)
        if status != 200:
            self.failed += 1
            self.refused += status in _REJECTED_STATUSES
            return
        self.dues.append(due)
        self.seconds.append(time.perf_counter() - due)
        if self._expected:
            self._compare(body, which)

    def _compare(self, body: bytes, which: int) -> None:
        found = msgspec.json.decode(body)
        version = found["model_version"]
        self.versions[version] = self.versions.get(version, 0) + 1
        self.mixed += version in self._expected and item_ids(found) != list(self._expected[version][which])


def item_ids(answer: Mapping[str, Any]) -> list[str]:
    """Returns the item ids of an answer, in order."""
    return [item["item_id"] for item in answer["items"]]


class _Connection(asyncio.Protocol):
    """Minimal HTTP client, one request at a time; cheap because it shares the cores with the endpoint."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[tuple[int, bytes]] | None = None
        self._parser: httptools.HttpResponseParser
        self._body = bytearray()

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Sends a request; returns the status and body of the answer."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("the server closed the connection")
        self._parser, self._body = httptools.HttpResponseParser(self), bytearray()
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await asyncio.wait_for(self._answered, _TIMEOUT_SECONDS)

    def close(self) -> None:
        """Closes the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(exc or ConnectionError("the server closed the connection"))

    def on_body(self, body: bytes) -> None:
        """Appends a part of the body (parser callback)."""
        self._body += body

    def on_message_complete(self) -> None:
        """Completes the answer (parser callback)."""
        if self._answered is not None and not self._answered.done():
            self._answered.set_result((self._parser.get_status_code(), bytes(self._body)))


async def _connect(url: str) -> _Connection:
    parts = urlsplit(url)
    _, connection = await asyncio.get_running_loop().create_connection(
        _Connection, parts.hostname or "", parts.port or 80
    )
    return connection


def _request(url: str, body: bytes, key: str | None = None) -> bytes:
    parts = urlsplit(url)
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    head = f"POST {parts.path or _PATH} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    return f"{head}{authorization}Content-Length: {len(body)}\r\n\r\n".encode() + body
