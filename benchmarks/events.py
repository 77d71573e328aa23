"""Durable events under an open load: `python benchmarks/events.py --rate 5000 --batch 50 --seconds 20`.

Batches are posted when they are due, independent of earlier ones. Latency counts from the due time to the response,
which confirms that the events are on disk.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.endpoints import resident_memory_mb, running_endpoint
from benchmarks.load import LoadGenerator
from benchmarks.report import host_info, print_table, write_json

_BATCHES = 200
_USERS, _ITEMS = 50_000, 10_000
_MAX_SECONDS = 300.0


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, nargs="+", default=[5_000.0], help="events/s")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0, help="duration of each rate")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_endpoint(Path(folder) / "home", args.workers) as (url, pid):
        bodies = _batches(args.batch)
        rows = [_measure_rate(f"{url}/v1/events", bodies, rate, args, pid) for rate in args.rate]
    host = host_info("uvicorn") | {"workers": str(args.workers), "batch": str(args.batch)}
    print_table("Durable events", rows, host)
    write_json(args.json, {"rows": rows, **rows[-1], "machine": host})


def _batches(size: int) -> list[bytes]:
    random = np.random.default_rng(0)
    return [
        json.dumps(
            [
                {
                    "event_type": "view",
                    "user_id": f"u{random.integers(_USERS)}",
                    "session_id": f"s{random.integers(_USERS)}",
                    "item_id": f"i{random.integers(_ITEMS)}",
                }
                for _ in range(size)
            ]
        ).encode()
        for _ in range(_BATCHES)
    ]


def _measure_rate(url: str, bodies: list[bytes], rate: float, args: argparse.Namespace, pid: int) -> dict[str, float]:
    generator = LoadGenerator([url], bodies, rate / args.batch, {}, _MAX_SECONDS)
    with generator:
        time.sleep(args.seconds)
    load = generator.load
    assert load is not None, "the context is closed"  # noqa: S101
    elapsed = float((load.due + load.seconds).max() - load.due.min())
    return {
        "events_s": rate,
        "achieved_events_s": args.batch * len(load.seconds) / elapsed,
        "p50_ms": load.milliseconds(50),
        "p99_ms": load.milliseconds(99),
        "max_ms": load.milliseconds(100),
        "errors": load.failed,
        "rss_mb": resident_memory_mb(pid),
    }


if __name__ == "__main__":
    main()
