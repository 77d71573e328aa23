"""Exactly-once delivery under random kills: `python benchmarks/feedback.py --events 1000000 --kills 200`.

Clients post batches of events to two endpoints until each batch is acknowledged; they retry at the other endpoint. A
collector copies the endpoints' event logs into the warehouse repeatedly. Meanwhile endpoints, collector and database
are killed at random times, the database is unreachable once, the disk of one endpoint moves to another, and some
clients have clock skew. Finally, each acknowledged event must be in the warehouse exactly once.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import sqlalchemy
from sqlalchemy import text

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.report import host_info, print_table, write_json
from recsys_tasks.stack.environment import find_free_port
from recsys_tasks.warehouse import embedded, migrate

_BATCH, _ITEMS, _USERS = 500, 1_000, 20_000
_TOKEN = "benchmark"  # noqa: S105
_TIMEOUT_SECONDS = 120.0
_CLOCK_SKEWS = (timedelta(0), timedelta(minutes=4), timedelta(hours=-7), timedelta(days=-2))


class DeliveryReport(NamedTuple):
    """Result: acknowledged events, those missing in the warehouse (`lost`) or stored more than once (`doubled`), the
    number of killed processes, and the throughput."""

    acknowledged: int
    lost: int
    doubled: int
    kills: int
    events_per_s: float
    seconds: float
    killed: str


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--away", type=float, default=60.0, help="seconds of a database outage after its first kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="feedback-") as folder:
        found = survive(Path(folder).resolve(), args.events, args.kills, args.away, args.seed)
    host = host_info("psycopg", "uvicorn", "great-expectations")
    print_table("Exactly once", [found._asdict()], host)
    write_json(args.json, {**found._asdict(), "machine": host})
    if found.lost or found.doubled:
        raise SystemExit(1)


def survive(folder: Path, events: int, kills: int, away: float, seed: int = 0) -> DeliveryReport:
    """Posts and collects events while processes are killed; returns what was delivered.

    Args:
        folder: Home of all processes.
        events: Number of events to post.
        kills: Number of processes to kill meanwhile.
        away: Seconds of the database outage after its first kill.
        seed: Determines the processes and times of the kills.
    """
    began = time.monotonic()
    with _Database(folder) as database, _Endpoints(folder) as endpoints:
        collector = _Collector(folder, database, endpoints)
        clients = [_EventClient(endpoints, number, events // 2) for number in range(2)]
        collector.start()
        for client in clients:
            client.start()
        killed = _kill(random.Random(seed), kills, away, database, endpoints, collector, clients)  # noqa: S311
        for client in clients:
            client.join()
        endpoints.move(1)  # its disk moves to another endpoint
        collector.finish()
        acknowledged = sum(len(client.acknowledged) * _BATCH for client in clients)
        lost, doubled = _count_lost_and_duplicated(database, clients)
    seconds = time.monotonic() - began
    counts = ", ".join(f"{count} {name}" for name, count in killed.items())
    return DeliveryReport(acknowledged, lost, doubled, sum(killed.values()), acknowledged / seconds, seconds, counts)


def _kill(
    random_source: random.Random,
    kills: int,
    away: float,
    database: _Database,
    endpoints: _Endpoints,
    collector: _Collector,
    clients: list[_EventClient],
) -> dict[str, int]:
    """Kills processes at random times, spread over the progress of the clients; returns the kills by kind."""
    killed = {"endpoints": 0, "collectors": 0, "databases": 0}
    for number in range(kills):
        share = number / kills
        while sum(client.share for client in clients) / len(clients) < share and any(c.is_alive() for c in clients):
            time.sleep(0.02)
        time.sleep(random_source.uniform(0, 0.5))
        kinds = list(killed)
        who = (
            kinds[number] if number < len(kinds) else random_source.choices(kinds, [5, 4, 1])[0]
        )  # each kind at least once
        if who == "endpoints":
            endpoints.kill(random_source.randrange(2))
        elif who == "databases":
            database.kill()
            time.sleep(away if killed["databases"] == 0 else 0)
            database.start()
        elif not collector.kill():
            endpoints.kill(random_source.randrange(2))
            who = "endpoints"
        killed[who] += 1
    return killed


def _count_lost_and_duplicated(database: _Database, clients: list[_EventClient]) -> tuple[int, int]:
    """Returns the number of missing acknowledged events and of events that are stored more than once."""
    engine = database.engine()
    with engine.connect() as connection:
        found = connection.execute(text("select event_id, count(*) from events group by event_id")).all()
    engine.dispose()
    stored = {row[0]: row[1] for row in found}
    acknowledged = [event_id for client in clients for batch in client.acknowledged for event_id in client.ids(batch)]
    return sum(event_id not in stored for event_id in acknowledged), sum(count > 1 for count in stored.values())


class _Database:
    """A PostgreSQL server of this benchmark."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "database"

    def __enter__(self) -> _Database:
        self.start()
        engine = self.engine()
        migrate(engine)
        with engine.begin() as connection:
            connection.execute(
                text(
                    "insert into item_versions (item_id, valid_from, batch, source)"
                    " select 'i' || number, '-infinity', 0, 'benchmark' from generate_series(0, :most) as number"
                ),
                {"most": _ITEMS},
            )
        engine.dispose()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.cleanup()

    def start(self) -> None:
        """Starts the server unless it runs."""
        self._server = embedded.start(self._folder)
        self.url = embedded.url(self._server, "warehouse")

    def kill(self) -> None:
        """Stops all server processes immediately, without a checkpoint."""
        postmaster = psutil.Process(int(self._server.get_postmaster_info().pid))
        postmaster.send_signal(signal.SIGQUIT)
        psutil.wait_procs([postmaster], timeout=20)

    def engine(self) -> sqlalchemy.Engine:
        """Returns an engine for the database."""
        return sqlalchemy.create_engine(self.url, connect_args={"options": "-c timezone=UTC"})


class _Endpoints:
    """Two endpoints with separate disks, restarted after a kill."""

    def __init__(self, folder: Path) -> None:
        self._homes = [folder / f"endpoint{number}" for number in range(2)]
        self._ports = [find_free_port() for _ in self._homes]
        self._processes: list[subprocess.Popen[bytes] | None] = [None, None]

    def __enter__(self) -> _Endpoints:
        for number in range(2):
            self._start(number)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process is not None:
                process.kill()
                process.wait()

    @property
    def urls(self) -> list[str]:
        """The URLs of the endpoints."""
        return [f"http://127.0.0.1:{port}" for port in self._ports]

    def kill(self, number: int) -> None:
        """Kills and restarts an endpoint; it is unreachable until it has read its event log."""
        process = self._processes[number]
        assert process is not None  # noqa: S101
        process.kill()
        process.wait()
        self._start(number)

    def move(self, number: int) -> None:
        """Kills an endpoint and starts another one with its disk, at another address."""
        process = self._processes[number]
        assert process is not None  # noqa: S101
        process.kill()
        process.wait()
        moved = self._homes[number].with_name("moved")
        self._homes[number].rename(moved)
        self._homes[number], self._ports[number] = moved, find_free_port()
        self._start(number)
        _wait(self.urls[number])

    def _start(self, number: int) -> None:
        home = self._homes[number]
        home.mkdir(exist_ok=True)
        environment = {**os.environ, "RECSYS_HOME": str(home), "RECSYS_ADMIN_TOKEN": _TOKEN}
        command = [sys.executable, "-m", "recsys_tasks", "serve", "--port", str(self._ports[number])]
        self._processes[number] = subprocess.Popen(command, env=environment, cwd=home, stderr=subprocess.DEVNULL)  # noqa: S603


@dataclass
class _Collector:
    """Runs collections repeatedly, each in a new process."""

    folder: Path
    database: _Database
    endpoints: _Endpoints
    _stop: threading.Event = field(default_factory=threading.Event)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def kill(self) -> bool:
        """Kills the running collection; returns whether there was one."""
        process = self._process
        if process is None or process.poll() is not None:
            return False
        process.kill()
        process.wait()
        return True

    def finish(self) -> None:
        """Stops the thread, then collects until a successful collection reads no new events."""
        self._stop.set()
        self._thread.join()
        deadline = time.monotonic() + 10 * _TIMEOUT_SECONDS
        while True:
            done = subprocess.run(self._command, env=self._environment, capture_output=True, text=True, check=False)  # noqa: S603
            if done.returncode == 0 and '"read": 0' in done.stdout:
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"The event logs could not be collected: {done.stdout}{done.stderr}")

    def _collect(self) -> None:
        while not self._stop.is_set():
            self._process = subprocess.Popen(  # noqa: S603
                self._command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            self._process.wait()

    @property
    def _command(self) -> list[str]:
        return [sys.executable, "-W", "ignore", "-m", "recsys_tasks", "feedback", "--json"]

    @property
    def _environment(self) -> dict[str, str]:
        urls = "[" + ",".join(f'"{url}"' for url in self.endpoints.urls) + "]"
        return {
            **os.environ,
            "RECSYS_HOME": str(self.folder / "collector"),
            "RECSYS_WAREHOUSE_URL": self.database.url,
            "RECSYS_ENDPOINT_URLS": urls,
            "RECSYS_ADMIN_TOKEN": _TOKEN,
            "GX_ANALYTICS_ENABLED": "false",
        }


class _EventClient(threading.Thread):
    """Posts its events in batches; retries each batch at alternating endpoints until it is acknowledged."""

    def __init__(self, endpoints: _Endpoints, number: int, events: int) -> None:
        super().__init__(daemon=True)
        self._endpoints, self._number, self._batches = endpoints, number, events // _BATCH
        self._begin = datetime.now(UTC) - timedelta(days=3)
        self.acknowledged: list[int] = []

    @property
    def share(self) -> float:
        """Share of the batches that are acknowledged."""
        return len(self.acknowledged) / self._batches

    def ids(self, batch: int) -> Iterator[str]:
        """Returns the event ids of a batch."""
        return (f"e{self._number}-{batch * _BATCH + place}" for place in range(_BATCH))

    def run(self) -> None:
        """Posts all batches."""
        with httpx.Client(timeout=10) as http:
            for batch in range(self._batches):
                self._post(http, batch)
                self.acknowledged.append(batch)

    def _post(self, http: httpx.Client, batch: int) -> None:
        at = self._begin + timedelta(seconds=batch) + _CLOCK_SKEWS[batch % len(_CLOCK_SKEWS)]
        body = [
            {
                "event_id": event_id,
                "event_type": "view",
                "user_id": f"u{hash((batch, place)) % _USERS}",
                "item_id": f"i{(batch * 7 + place) % _ITEMS}",
                "event_time": at.isoformat(),
            }
            for place, event_id in enumerate(self.ids(batch))
        ]
        attempt, deadline = self._number, time.monotonic() + _TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            url = self._endpoints.urls[attempt % 2]
            try:
                if http.post(f"{url}/v1/events", json=body).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
            attempt += 1
        raise SystemExit(f"No endpoint acknowledged batch {batch} within {_TIMEOUT_SECONDS:.0f} s")


def _wait(url: str) -> None:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/healthz", timeout=5)
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise SystemExit(f"{url} did not start within {_TIMEOUT_SECONDS:.0f} s")


if __name__ == "__main__":
    main()
