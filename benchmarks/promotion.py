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

from benchmarks.bundles import make_bundle, requests
from benchmarks.endpoints import resident_megabytes, running_endpoint
from benchmarks.load import Caller, Load, capacity, shown
from benchmarks.report import machine, show, write
from recsys_tasks.names import REGISTERED_MODEL
from recsys_tasks.registry.tracking import client
from recsys_tasks.steps import promotion

_QUESTIONS = 400
_MOST_SECONDS = 1_800.0
_AFTERWARDS = 0.5  # seconds in which what waited is answered, neither quiet nor not
Spans = Sequence[tuple[float, float]]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--promotions", type=int, default=200, help="and rollbacks, by turns")
    parser.add_argument("--endpoints", type=int, default=1)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=5_000, help="with a history of 100 events each")
    parser.add_argument("--pause", type=float, default=3.0, help="seconds between one and the next")
    parser.add_argument("--json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        home = Path(folder)
        os.environ |= {"RECSYS_HOME": folder, "RECSYS_ADMIN_TOKEN": "benchmark"}
        endpoints = [stack.enter_context(running_endpoint(home / f"endpoint{n}")) for n in range(given.endpoints)]
        os.environ["RECSYS_ENDPOINT_URLS"] = json.dumps([url for url, _ in endpoints])
        fields = _measure(given, home, endpoints)
    about = machine("onnxruntime", "uvicorn") | {"items": f"{given.items:,}", "users": f"{given.users:,}"}
    title = f"{given.promotions} promotions and rollbacks, {given.endpoints} endpoint(s)"
    show(title, [{"figure": name, "value": value} for name, value in fields.items()], about)
    write(given.json, {**fields, "machine": about})


def _measure(given: argparse.Namespace, home: Path, endpoints: Sequence[tuple[str, int]]) -> dict[str, float]:
    urls = [url for url, _ in endpoints]
    folders = [_registered(home, number, given) for number in ("1", "2")]
    bodies = requests(given.items, given.users, _QUESTIONS)
    expected, seconds_to_serve = {}, []
    for number, bundle in zip(("1", "2"), folders, strict=True):
        began = time.perf_counter()
        promotion.activate(number, bundle)
        seconds_to_serve.append(time.perf_counter() - began)
        expected[number] = [_items(urls[0], body) for body in bodies]
    most = capacity(urls, bodies, 10.0)
    before = sum(resident_megabytes(pid) for _, pid in endpoints)
    caller, turns, quiet = Caller(urls, bodies, most / 2, expected, _MOST_SECONDS), [], []
    with caller:
        os.nice(10)  # from here on, what the pipeline does, which has a machine of its own elsewhere
        for turn in range(given.promotions):
            began = time.perf_counter()
            if turn % 2 == 0:
                promotion.roll_back()
            else:
                promotion.activate("2", folders[1])
            turns.append((began, time.perf_counter()))
            time.sleep(given.pause)
            quiet.append((turns[-1][1] + _AFTERWARDS, time.perf_counter()))
    after = sum(resident_megabytes(pid) for _, pid in endpoints)
    return _fields(most, _done(caller), turns, quiet) | {
        "seconds_to_serve": max(seconds_to_serve),
        "megabytes_before": before,
        "megabytes_after": after,
    }


def _fields(most: float, load: Load, turns: Spans, quiet: Spans) -> dict[str, float]:
    took = [ended - began for began, ended in turns]
    return {
        "capacity_requests_s": most,
        "requests": len(load.seconds),
        "failed_requests": load.failed,
        "mixed_answers": load.mixed,
        "quiet_p50_ms": load.milliseconds(50, quiet),
        "quiet_p99_ms": load.milliseconds(99, quiet),
        "p50_ms": load.milliseconds(50, turns),
        "p99_ms": load.milliseconds(99, turns),
        "max_ms": load.milliseconds(100, turns),
        "p99_ratio": load.milliseconds(99, turns) / load.milliseconds(99, quiet),
        "promotion_seconds": statistics.median(took[1::2]),
        "rollback_seconds": statistics.median(took[::2]),
        "longest_rollback_seconds": max(took[::2]),
    }


def _done(caller: Caller) -> Load:
    assert caller.load is not None, "the context is closed"  # noqa: S101
    return caller.load


def _registered(home: Path, number: str, given: argparse.Namespace) -> Path:
    if number == "1":
        client().create_registered_model(REGISTERED_MODEL)
    run = client().create_run(client().create_experiment(f"of version {number}")).info.run_id
    client().create_model_version(REGISTERED_MODEL, f"runs:/{run}/model", run, tags={"snapshot_id": "s"})
    return make_bundle(home / "made" / number, number, run, given.items, given.users, 100, 64, int(number))


def _items(url: str, body: bytes) -> list[str]:
    answer = httpx.post(f"{url}/v1/recommendations", content=body)
    answer.raise_for_status()
    return shown(answer.json())


if __name__ == "__main__":
    main()
