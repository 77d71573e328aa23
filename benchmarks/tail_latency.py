"""Breakdown of the p99 latency of lists: `python benchmarks/tail_latency.py --items 10000 --rate 200 --rounds 5`.

Each variant omits one cause. The variants alternate, so that noise of the host affects all of them equally, and medians
over the rounds are compared. The reduction is what the p99 loses without the cause.
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
from math import ceil
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bundles import build_requests, make_bundle
from benchmarks.endpoints import running_endpoint
from benchmarks.load import LoadGenerator
from benchmarks.report import host_info, print_table, write_json
from recsys_tasks.engine.bundle import pack

_TOKEN = "benchmark"  # noqa: S105
_REPEATED = 2_000  # requests of a hundred users, 20 each
_MAX_SECONDS = 120.0
_FULL, _UNRECORDED, _CACHED = "full list", "without its record", "without encoding histories"
_UNCOLLECTED, _POPULAR = "without garbage collection", "without the model (popular items)"
_VARIANTS = (_FULL, _UNRECORDED, _CACHED, _UNCOLLECTED, _POPULAR)
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
    measured: dict[str, dict[float, list[float]]] = {name: {50: [], 99: []} for name in _VARIANTS}
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
        for number in range(args.rounds):
            for name in _VARIANTS:
                url = uncollected if name == _UNCOLLECTED else usual
                bodies = _requests(name, number, args.items, args.users, ceil(args.rate * args.seconds))
                generator = LoadGenerator([url], bodies, args.rate, {}, _MAX_SECONDS)
                with generator:
                    time.sleep(args.seconds)
                assert generator.load is not None, "the context is closed"  # noqa: S101
                for percentile, values in measured[name].items():
                    values.append(generator.load.milliseconds(percentile))
    medians = {name: {p: statistics.median(values) for p, values in found.items()} for name, found in measured.items()}
    full = medians[_FULL][99]
    rows = [
        {"list": name, "p50_ms": found[50], "p99_ms": found[99], "p99_reduction": 1 - found[99] / full}
        for name, found in medians.items()
    ]
    host = host_info("onnxruntime", "uvicorn")
    print_table(f"{args.items:,} items, {args.rate:g} requests/s, median of {args.rounds} rounds", rows, host)
    write_json(args.json, {"rows": rows, "machine": host})


def _requests(variant: str, number: int, items: int, users: int, count: int) -> list[bytes]:
    """Returns the requests of a variant in a round: of users drawn anew, except where histories are to be cached."""
    if variant == _POPULAR:
        return [b"{}"]
    seed = 0 if variant == _CACHED else 1 + len(_VARIANTS) * number + _VARIANTS.index(variant)
    bodies = build_requests(items, users, _REPEATED if variant == _CACHED else count, seed)
    return (
        [json.dumps(json.loads(body) | {"record": False}).encode() for body in bodies]
        if variant == _UNRECORDED
        else bodies
    )


@contextmanager
def _endpoint(home: Path, archive: bytes) -> Iterator[str]:
    """Starts an endpoint that serves a bundle; yields its URL."""
    with running_endpoint(home) as (url, _):
        header = {"Authorization": f"Bearer {_TOKEN}"}
        httpx.put(f"{url}/v1/admin/model", content=archive, headers=header, timeout=600).raise_for_status()
        yield url


if __name__ == "__main__":
    main()
