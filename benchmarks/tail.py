"""What the slowest lists wait for: `python benchmarks/tail.py --items 10000 --rate 200 --rounds 5`.

The same load with one cause taken away at a time, in turns: each variant runs once per round, so that a restless host
disturbs all alike. The median over the rounds counts. What a cause takes is the difference to the full list.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bundles import build_requests, make_bundle
from benchmarks.endpoints import running_endpoint
from benchmarks.load import LoadGenerator
from benchmarks.report import host_info, print_table, write_json
from recsys_tasks.engine.bundle import pack

_TOKEN = "benchmark"  # noqa: S105
_NUM_REQUESTS, _REPEATED = 20_000, 2_000
_MAX_SECONDS = 120.0
_WITHOUT_COLLECTION = "import gc; gc.disable()\n"


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--rate", type=float, default=200.0, help="requests/s")
    parser.add_argument("--seconds", type=float, default=8.0, help="duration of a variant in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    args = parser.parse_args()
    server_core, *_, client_core = sorted(os.sched_getaffinity(0))
    os.environ["RECSYS_ADMIN_TOKEN"] = _TOKEN
    bodies = build_requests(args.items, args.users, _NUM_REQUESTS)
    requests = {
        "full list": bodies,
        "without its record": [json.dumps(json.loads(body) | {"record": False}).encode() for body in bodies],
        "without encoding histories": bodies[:_REPEATED],  # the same hundred users again and again
        "without garbage collection": bodies,
        "without the model (popular items)": [b"{}"],
    }
    measured: dict[str, dict[float, list[float]]] = {name: {50: [], 99: []} for name in requests}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        home = Path(folder)
        archive = pack(make_bundle(home / "bundle", "1", "r", args.items, args.users, 100, 64, 0))
        (home / "without").mkdir()
        (home / "without" / "sitecustomize.py").write_text(_WITHOUT_COLLECTION, encoding="utf-8")
        os.sched_setaffinity(0, {server_core})  # processes inherit it
        usual = servers.enter_context(_endpoint(home / "usual", archive))
        os.environ["PYTHONPATH"] = str(home / "without")
        uncollected = servers.enter_context(_endpoint(home / "uncollected", archive))
        os.sched_setaffinity(0, {client_core})
        for _ in range(args.rounds):
            for name, variant in requests.items():
                url = uncollected if name == "without garbage collection" else usual
                generator = LoadGenerator([url], variant, args.rate, {}, _MAX_SECONDS)
                with generator:
                    time.sleep(args.seconds)
                assert generator.load is not None, "the context is closed"  # noqa: S101
                for percentile, values in measured[name].items():
                    values.append(generator.load.milliseconds(percentile))
    medians = {name: {p: statistics.median(values) for p, values in found.items()} for name, found in measured.items()}
    full = medians["full list"][99]
    rows = [
        {"list": name, "p50_ms": found[50], "p99_ms": found[99], "share_of_p99": 1 - found[99] / full}
        for name, found in medians.items()
    ]
    host = host_info("onnxruntime", "uvicorn")
    print_table(f"{args.items:,} items, {args.rate:g} requests/s, median of {args.rounds} rounds", rows, host)
    write_json(args.json, {"rows": rows, "machine": host})


@contextmanager
def _endpoint(home: Path, archive: bytes) -> Iterator[str]:
    """Starts an endpoint that serves a bundle; yields its URL."""
    with running_endpoint(home) as (url, _):
        header = {"Authorization": f"Bearer {_TOKEN}"}
        httpx.put(f"{url}/v1/admin/model", content=archive, headers=header, timeout=600).raise_for_status()
        yield url


if __name__ == "__main__":
    main()
