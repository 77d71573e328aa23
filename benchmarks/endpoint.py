"""Recommendations under an open load: `python benchmarks/endpoint.py --items 10000 --rate 500 1500 --workers 2`.

Users with histories of 100 events send a request after each of a session's 20 events. The client runs on the same cores
and sends each request when it is due, not when the previous one was answered; latency counts from the due time. With
`--pin`, the endpoint has the first core to itself and the client the last one. With
`--rivals`, in the same run: FastAPI with the same network in PyTorch, with VMIS-kNN, and with precomputed lists.
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

from benchmarks.bundles import build_requests, make_bundle
from benchmarks.endpoints import resident_memory_mb, running_endpoint, running_server, worker_urls
from benchmarks.load import LoadGenerator, capacity
from benchmarks.report import host_info, print_table, write_json
from benchmarks.rivals import RIVALS
from recsys_tasks.engine.bundle import pack
from recsys_tasks.stack.environment import find_free_port

_TOKEN = "benchmark"  # noqa: S105
_NUM_REQUESTS = 20_000
_MAX_SECONDS = 300.0
_CAPACITY_SECONDS = 5.0


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--rate", type=float, nargs="+", default=[500.0], help="requests/s")
    parser.add_argument("--seconds", type=float, default=20.0, help="duration of each rate")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rivals", action="store_true")
    parser.add_argument("--pin", action="store_true", help="a core for the server, another one for the client")
    parser.add_argument("--json")
    args = parser.parse_args()
    rows = []
    server_core, *_, client_core = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["RECSYS_ADMIN_TOKEN"] = _TOKEN
        bundle = make_bundle(home / "bundle", "1", "r", args.items, args.users, 100, 64, 0)
        bodies = build_requests(args.items, args.users, _NUM_REQUESTS)
        for name in ("endpoint", *(RIVALS if args.rivals else ())):
            if args.pin:
                os.sched_setaffinity(0, {server_core})  # processes inherit it
            with _running(name, bundle, home / name, args.workers) as (url, process):
                if args.pin:
                    os.sched_setaffinity(0, {client_core})
                most = capacity([url], bodies, _CAPACITY_SECONDS)
                for rate in args.rate:
                    measured = _measure_rate(url, bodies, rate, args.seconds, process)
                    rows.append({"who": name, "most_rps": most, "rate": rate, **measured})
    host = host_info("onnxruntime", "uvicorn", "torch", "fastapi") | {"workers": str(args.workers)}
    print_table(f"{args.items:,} items, {args.users:,} users", rows, host)
    own: Mapping[str, object] = [row for row in rows if row["who"] == "endpoint"][-1]
    write_json(args.json, {"rows": rows, **own, "machine": host})


@contextmanager
def _running(name: str, bundle: Path, home: Path, workers: int) -> Iterator[tuple[str, int]]:
    """Starts an endpoint with the bundle, or a rival; yields its URL and process id."""
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
            for own in worker_urls(url, workers):
                httpx.put(f"{own}/v1/admin/model", content=archive, headers=header, timeout=600).raise_for_status()
            yield url, process


def _measure_rate(url: str, bodies: list[bytes], rate: float, seconds: float, process: int) -> dict[str, float]:
    generator = LoadGenerator([url], bodies, rate, {}, _MAX_SECONDS)
    with generator:
        time.sleep(seconds)
    load = generator.load
    assert load is not None, "the context is closed"  # noqa: S101
    elapsed = float((load.due + load.seconds).max() - load.due.min())
    return {
        "achieved_rps": len(load.seconds) / elapsed,
        "p50_ms": load.milliseconds(50),
        "p90_ms": load.milliseconds(90),
        "p99_ms": load.milliseconds(99),
        "errors": load.failed - load.refused,
        "refused": load.refused,
        "rss_mb": resident_memory_mb(process),
    }


if __name__ == "__main__":
    main()
