"""Requests to endpoints on this machine: as many as they answer, or at a rate whatever they do; bounded in time."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any, NamedTuple

import aiohttp
import msgspec
import numpy as np

_PATH = "/v1/recommendations"
_CONNECTIONS = 64
Expected = Mapping[str, Sequence[Sequence[str]]]


class Load(NamedTuple):
    """What requests met with: when each was due (of `time.perf_counter`), seconds it took from then, how many failed,
    and how many answers were of no version alone; versions seen."""

    due: np.ndarray
    seconds: np.ndarray
    failed: int
    mixed: int
    versions: dict[str, int]

    def milliseconds(self, percentile: float, spans: Sequence[tuple[float, float]] = ((-np.inf, np.inf),)) -> float:
        """A percentile of the times of what was due in any of some spans of time."""
        within = np.zeros(len(self.due), bool)
        for began, ended in spans:
            within |= (self.due >= began) & (self.due < ended)
        return float(1e3 * np.percentile(self.seconds[within], percentile))


def capacity(urls: Sequence[str], bodies: Sequence[bytes], seconds: float, connections: int = 8) -> float:
    """Requests a second that the endpoints answer if each of some connections sends one after the other."""

    async def run() -> float:
        done, end = 0, time.perf_counter() + seconds
        async with _session() as session:

            async def one(start: int) -> None:
                nonlocal done
                for number in itertools.count(start, connections):
                    if time.perf_counter() >= end:
                        return
                    url, body = urls[number % len(urls)], bodies[number % len(bodies)]
                    async with session.post(url + _PATH, data=body) as answer:
                        await answer.read()
                    done += 1

            await asyncio.gather(*(one(start) for start in range(connections)))
        return done / seconds

    return asyncio.run(run())


class Caller:
    """Sends requests at a rate from a process of its own while the context is open, and not longer than a limit."""

    def __init__(
        self, urls: Sequence[str], bodies: Sequence[bytes], rate: float, expected: Expected, most_seconds: float
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._results, theirs = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_call, args=(urls, bodies, rate, expected, most_seconds, self._stop, theirs)
        )
        self.load: Load | None = None

    def __enter__(self) -> Caller:
        self._process.start()
        self._results.recv()  # it is about to begin
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.load = self._results.recv()
        self._process.join()


def _call(
    urls: Sequence[str],
    bodies: Sequence[bytes],
    rate: float,
    expected: Expected,
    most_seconds: float,
    stop: Event,
    results: Connection,
) -> None:
    results.send("ready")
    results.send(asyncio.run(_open_loop(urls, bodies, rate, expected, most_seconds, stop)))


async def _open_loop(
    urls: Sequence[str], bodies: Sequence[bytes], rate: float, expected: Expected, most_seconds: float, stop: Event
) -> Load:
    random = np.random.default_rng(0)
    dues: list[float] = []
    seconds: list[float] = []
    failed = mixed = 0
    versions: dict[str, int] = {}

    async def one(session: aiohttp.ClientSession, number: int, due: float) -> None:
        nonlocal failed, mixed
        which = number % len(bodies)
        try:
            async with session.post(urls[number % len(urls)] + _PATH, data=bodies[which]) as answer:
                body = await answer.read()
        except aiohttp.ClientError:
            failed += 1
            return
        dues.append(due)
        seconds.append(time.perf_counter() - due)
        if answer.status != 200:
            failed += 1
            return
        found = msgspec.json.decode(body)
        version = found["model_version"]
        versions[version] = versions.get(version, 0) + 1
        mixed += version in expected and shown(found) != list(expected[version][which])

    async with _session() as session:
        began = due = time.perf_counter()
        running: set[asyncio.Task[None]] = set()
        for number in itertools.count():
            due += random.exponential(1 / rate)
            if stop.is_set() or due - began > most_seconds:
                break
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(one(session, number, due))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
    return Load(np.asarray(dues), np.asarray(seconds), failed, mixed, versions)


def shown(answer: Mapping[str, Any]) -> list[str]:
    """The items of an answer."""
    return [item["item_id"] for item in answer["items"]]


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_CONNECTIONS), timeout=aiohttp.ClientTimeout(total=30)
    )
