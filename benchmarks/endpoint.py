"""Recommendations under an open load: `python benchmarks/endpoint.py --items 10000 --rate 500 1500 --workers 2`.

Users with histories of 100 events send a request after each of a session's 20 events. The client runs on the same cores
and sends each request when it is due, not when the previous one was answered; latency counts from the due time. With
`--rivals`, in the same run: FastAPI with the same network in PyTorch, and FastAPI with VMIS-kNN.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bundles import make_bundle, requests
from benchmarks.endpoints import own_addresses, resident_megabytes, running_endpoint, running_server
from benchmarks.load import Caller, capacity
from benchmarks.report import machine, show, write
from benchmarks.rivals import RIVALS
from recsys_tasks.engine.bundle import pack
from recsys_tasks.stack.environment import find_free_port

_TOKEN = "benchmark"  # noqa: S105
_QUESTIONS = 20_000
_MOST_SECONDS = 300.0
_WARM_SECONDS = 5.0


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--rate", type=float, nargs="+", default=[500.0], help="requests a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="at each rate")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rivals", action="store_true")
    parser.add_argument("--json")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["RECSYS_ADMIN_TOKEN"] = _TOKEN
        bundle = make_bundle(home / "bundle", "1", "r", given.items, given.users, 100, 64, 0)
        bodies = requests(given.items, given.users, _QUESTIONS)
        for name in ("endpoint", *(RIVALS if given.rivals else ())):
            with _running(name, bundle, home / name, given.workers) as (url, process):
                most = capacity([url], bodies, _WARM_SECONDS)
                for rate in given.rate:
                    measured = _at(url, bodies, rate, given.seconds, process)
                    rows.append({"who": name, "most_rps": most, "rate": rate, **measured})
    about = machine("onnxruntime", "uvicorn", "torch", "fastapi") | {"workers": str(given.workers)}
    show(f"{given.items:,} items, {given.users:,} users", rows, about)
    own: Mapping[str, object] = [row for row in rows if row["who"] == "endpoint"][-1]
    write(given.json, {"rows": rows, **own, "machine": about})


@contextmanager
def _running(name: str, bundle: Path, home: Path, workers: int) -> Iterator[tuple[str, int]]:
    """The address of an endpoint with the bundle, or of a rival, and its process."""
    if name in RIVALS:
        port = find_free_port()
        command = [
            sys.executable,
            "-W",
            "ignore",
            str(Path(__file__).parent / "rivals.py"),
            name,
            str(bundle),
            str(port),
        ]
        with running_server(command, home, [port]) as process:
            yield f"http://127.0.0.1:{port}", process
    else:
        with running_endpoint(home, workers) as (url, process):
            archive, header = pack(bundle), {"Authorization": f"Bearer {_TOKEN}"}
            for own in own_addresses(url, workers):
                httpx.put(f"{own}/v1/admin/model", content=archive, headers=header, timeout=600).raise_for_status()
            yield url, process


def _at(url: str, bodies: list[bytes], rate: float, seconds: float, process: int) -> dict[str, float]:
    caller = Caller([url], bodies, rate, {}, _MOST_SECONDS)
    with caller:
        time.sleep(seconds)
    load = caller.load
    assert load is not None, "the context is closed"  # noqa: S101
    took = float((load.due + load.seconds).max() - load.due.min())
    return {
        "achieved_rps": len(load.seconds) / took,
        "p50_ms": load.milliseconds(50),
        "p90_ms": load.milliseconds(90),
        "p99_ms": load.milliseconds(99),
        "errors": load.failed - load.refused,
        "refused": load.refused,
        "rss_mb": resident_megabytes(process),
    }


if __name__ == "__main__":
    main()
