"""Promotions and rollbacks under load: `python benchmarks/promotion.py --promotions 200 --endpoints 1`.

Complete promotions with a warehouse and a registry, while a client sends requests at half of the endpoints' capacity.
A pause follows each promotion; the quiet figures are from these pauses, so that both are of the same minutes on one
host. Also the time from an approval until the last endpoint serves the version.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bundles import build_requests, make_bundle
from benchmarks.endpoints import resident_memory_mb, running_endpoint
from benchmarks.load import LoadGenerator, LoadResult, capacity, item_ids
from benchmarks.report import host_info, print_table, write_json
from recsys_tasks.names import REGISTERED_MODEL
from recsys_tasks.registry.tracking import client
from recsys_tasks.steps import promotion

_NUM_REQUESTS = 400
_MAX_SECONDS = 1_800.0
_SETTLE_SECONDS = 0.5  # seconds after a promotion that count as neither quiet nor loaded
Spans = Sequence[tuple[float, float]]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--promotions", type=int, default=200, help="number of promotions and rollbacks, alternating")
    parser.add_argument("--endpoints", type=int, default=1)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=5_000, help="number of users, with a history of 100 events each")
    parser.add_argument("--pause", type=float, default=3.0, help="seconds between two promotions")
    parser.add_argument("--rate", type=float, help="requests per second; by default, half of the capacity")
    parser.add_argument("--json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        home = Path(folder)
        os.environ |= {"RECSYS_HOME": folder, "RECSYS_ADMIN_TOKEN": "benchmark"}
        endpoints = [stack.enter_context(running_endpoint(home / f"endpoint{n}")) for n in range(args.endpoints)]
        os.environ["RECSYS_ENDPOINT_URLS"] = json.dumps([url for url, _ in endpoints])
        fields = _measure(args, home, endpoints)
    host = host_info("onnxruntime", "uvicorn") | {"items": f"{args.items:,}", "users": f"{args.users:,}"}
    title = f"{args.promotions} promotions and rollbacks, {args.endpoints} endpoint(s)"
    print_table(title, [{"figure": name, "value": value} for name, value in fields.items()], host)
    write_json(args.json, {**fields, "machine": host})


def _measure(args: argparse.Namespace, home: Path, endpoints: Sequence[tuple[str, int]]) -> dict[str, float]:
    urls = [url for url, _ in endpoints]
    folders = [_register_version(home, number, args) for number in ("1", "2")]
    bodies = build_requests(args.items, args.users, _NUM_REQUESTS)
    expected, seconds_to_serve = {}, []
    for number, bundle in zip(("1", "2"), folders, strict=True):
        began = time.perf_counter()
        promotion.activate(number, bundle)
        seconds_to_serve.append(time.perf_counter() - began)
        expected[number] = [_request_item_ids(urls[0], body) for body in bodies]
    most = capacity(urls, bodies, 10.0)
    rate = args.rate or most / 2
    before = sum(resident_memory_mb(pid) for _, pid in endpoints)
    generator, turns, quiet = LoadGenerator(urls, bodies, rate, expected, _MAX_SECONDS), [], []
    with generator:
        os.nice(10)  # from here on, this process is the pipeline, which has a host of its own in production
        for turn in range(args.promotions):
            began = time.perf_counter()
            if turn % 2 == 0:
                promotion.roll_back()
            else:
                promotion.activate("2", folders[1])
            turns.append((began, time.perf_counter()))
            time.sleep(args.pause)
            quiet.append((turns[-1][1] + _SETTLE_SECONDS, time.perf_counter()))
    after = sum(resident_memory_mb(pid) for _, pid in endpoints)
    return _fields(most, rate, _load_result(generator), turns, quiet) | {
        "seconds_to_serve": max(seconds_to_serve),
        "megabytes_before": before,
        "megabytes_after": after,
    }


def _fields(most: float, rate: float, load: LoadResult, turns: Spans, quiet: Spans) -> dict[str, float]:
    durations = [ended - began for began, ended in turns]
    return {
        "capacity_requests_s": most,
        "rate_requests_s": rate,
        "requests": len(load.seconds),
        "failed_requests": load.failed,
        "mixed_answers": load.mixed,
        "quiet_p50_ms": load.milliseconds(50, quiet),
        "quiet_p99_ms": load.milliseconds(99, quiet),
        "p50_ms": load.milliseconds(50, turns),
        "p99_ms": load.milliseconds(99, turns),
        "max_ms": load.milliseconds(100, turns),
        "p99_ratio": load.milliseconds(99, turns) / load.milliseconds(99, quiet),
        "promotion_seconds": statistics.median(durations[1::2]),
        "rollback_seconds": statistics.median(durations[::2]),
        "longest_rollback_seconds": max(durations[::2]),
    }


def _load_result(generator: LoadGenerator) -> LoadResult:
    assert generator.load is not None, "the context is closed"  # noqa: S101
    return generator.load


def _register_version(home: Path, number: str, args: argparse.Namespace) -> Path:
    if number == "1":
        client().create_registered_model(REGISTERED_MODEL)
    run = client().create_run(client().create_experiment(f"of version {number}")).info.run_id
    client().create_model_version(REGISTERED_MODEL, f"runs:/{run}/model", run, tags={"snapshot_id": "s"})
    return make_bundle(home / "made" / number, number, run, args.items, args.users, 100, 64, int(number))


def _request_item_ids(url: str, body: bytes) -> list[str]:
    answer = httpx.post(f"{url}/v1/recommendations", content=body)
    answer.raise_for_status()
    return item_ids(answer.json())


if __name__ == "__main__":
    main()
