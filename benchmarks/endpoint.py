"""Recommendations under an open load: `python benchmarks/endpoint.py --items 10000 --rate 500 --seconds 20`.

Users with histories of 100 events, sessions of 1 to 20, and a client on the same cores that sends when a request is due
and not when the one before was answered: a time counts from when the request was due.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bundles import make_bundle, requests
from benchmarks.endpoints import resident_megabytes, running_endpoint
from benchmarks.load import Caller, capacity
from benchmarks.report import machine, show, write
from recsys_tasks.serving.bundle import pack

_TOKEN = "benchmark"  # noqa: S105
_QUESTIONS = 400
_MOST_SECONDS = 300.0
_WARM_SECONDS = 5.0


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--rate", type=float, nargs="+", default=[500.0], help="requests a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="at each rate")
    parser.add_argument("--json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RECSYS_ADMIN_TOKEN"] = _TOKEN
        bundle = make_bundle(Path(folder) / "bundle", "1", "r", given.items, given.users, 100, 64, 0)
        with running_endpoint(Path(folder) / "home") as (url, process):
            archive, header = pack(bundle), {"Authorization": f"Bearer {_TOKEN}"}
            httpx.put(f"{url}/v1/admin/model", content=archive, headers=header, timeout=600).raise_for_status()
            bodies = requests(given.items, given.users, _QUESTIONS)
            most = capacity([url], bodies, _WARM_SECONDS)
            rows = [_at(url, bodies, rate, given.seconds, process) for rate in given.rate]
    about = machine("onnxruntime", "uvicorn") | {"one after the other on 8 connections": f"{most:.0f} requests/s"}
    show(f"{given.items:,} items, {given.users:,} users", rows, about)
    write(given.json, {"rows": rows, **rows[-1], "machine": about})


def _at(url: str, bodies: list[bytes], rate: float, seconds: float, process: int) -> dict[str, float]:
    caller = Caller([url], bodies, rate, {}, _MOST_SECONDS)
    with caller:
        time.sleep(seconds)
    load = caller.load
    assert load is not None, "the context is closed"  # noqa: S101
    took = float((load.due + load.seconds).max() - load.due.min())
    return {
        "rate": rate,
        "achieved_rps": len(load.seconds) / took,
        "p50_ms": load.milliseconds(50),
        "p90_ms": load.milliseconds(90),
        "p99_ms": load.milliseconds(99),
        "errors": load.failed,
        "rss_mb": resident_megabytes(process),
    }


if __name__ == "__main__":
    main()
