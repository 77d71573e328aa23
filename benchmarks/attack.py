"""A seeded attacker against an endpoint, with honest callers beside it: `python benchmarks/attack.py --seconds 120`.

Runs the same honest traffic twice, alone and under attack, and compares what honest callers got: latency, errors, and
the lists afterwards. The shop's server has a key of its own. The attacker has the key that every visitor can read in
the shop's page, and eight addresses of this machine (127.0.0.2 to 127.0.0.9). It sends crowds of made-up and of known
users for one item, floods of long lists, half-sent headers and bodies, requests that are too large, repeated, reordered
and future events, ids that are equal after Unicode normalization, and events in the sessions of honest users.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bundles import build_requests, make_bundle
from benchmarks.endpoints import resident_memory_mb, running_endpoint
from benchmarks.load import LoadGenerator, LoadResult, item_ids
from benchmarks.report import host_info, print_table, write_json
from recsys_tasks.engine.bundle import pack
from recsys_tasks.serving.access import new_key

_TOKEN = "benchmark"  # noqa: S105
_ORIGIN = "https://shop.example"
_ADDRESSES = [f"127.0.0.{number}" for number in range(2, 10)]
_STRANGERS_PER_SECOND = 5  # the limit of one address
_MAX_SECONDS, _NUM_SLOW, _WAIT_SECONDS = 300.0, 100, 0.05
_NUM_PROBES, _K = 200, 20
_EQUAL_IDS = ["caf\u00e9", "cafe\u0301", "\uff43\uff41\uff46\u00e9", "caf\u00e9\u200b", "CAF\u00c9"]


class Run(NamedTuple):
    """What honest callers got, and what it cost."""

    lists: LoadResult
    events: LoadResult
    probes: list[list[str]]
    memory_mb: tuple[float, float]
    disk_mb: float


class Keys(NamedTuple):
    """The keys of the shop's server and of its pages, and the file that the endpoint reads."""

    shop: str
    page: str
    file: Path


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--rate", type=float, default=40.0, help="honest lists per second; half as many events")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--json")
    args = parser.parse_args()
    answers: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        keys = _make_keys(home / "keys.toml")
        os.environ |= {"RECSYS_ADMIN_TOKEN": _TOKEN, "RECSYS_KEYS_FILE": str(keys.file)}
        os.environ["RECSYS_RATE_LIMIT"] = str(_STRANGERS_PER_SECOND)
        bundle = make_bundle(home / "bundle", "1", "r", args.items, args.users, 100, 64, 0)
        alone = _run(bundle, home / "alone", args, keys, None)
        attacked = _run(bundle, home / "attacked", args, keys, answers)
    kept = [_ndcg(quiet, found) for quiet, found in zip(alone.probes, attacked.probes, strict=True)]
    rows = [_row("alone", alone, 1.0), _row("under attack", attacked, float(np.mean(kept)))]
    host = host_info("uvicorn", "onnxruntime")
    print_table(f"{args.rate:.0f} honest lists/s for {args.seconds:.0f} s", rows, host)
    print("Answers to the attacker:", dict(sorted(answers.items())))
    write_json(args.json, {"rows": rows, "answers": dict(answers), "machine": host})


def _make_keys(file: Path) -> Keys:
    shop, shop_entry = new_key("shop", ["read", "write"])
    page, page_entry = new_key("page", ["read", "write"], [_ORIGIN])
    file.write_text(f"{shop_entry}\nrate_limit = 1e6\n{page_entry}\n", encoding="utf-8")
    return Keys(shop, page, file)


def _run(bundle: Path, home: Path, args: argparse.Namespace, keys: Keys, answers: Counter[str] | None) -> Run:
    """Runs the honest traffic, under attack if there is a counter of the attacker's answers."""
    lists, events = build_requests(args.items, args.users, 5_000), _honest_events(args)
    with running_endpoint(home) as (url, process):
        header = {"Authorization": f"Bearer {_TOKEN}"}
        httpx.put(f"{url}/v1/admin/model", content=pack(bundle), headers=header, timeout=600).raise_for_status()
        before = resident_memory_mb(process)
        honest = [
            LoadGenerator([url], lists, args.rate, {}, _MAX_SECONDS, keys.shop),
            LoadGenerator([f"{url}/v1/events"], events, args.rate / 2, {}, _MAX_SECONDS, keys.shop),
        ]
        with honest[0], honest[1]:
            if answers is None:
                time.sleep(args.seconds)
            else:
                os.nice(10)  # the attacker has hosts of its own
                asyncio.run(_attack(url, keys.page, args, answers))
        after = resident_memory_mb(process)
        probes = _probe(url, args.users, keys.shop)
    disk_mb = sum(file.stat().st_size for file in (home / "endpoint" / "journal").iterdir()) / 1e6
    assert honest[0].load is not None  # noqa: S101
    assert honest[1].load is not None  # noqa: S101
    return Run(honest[0].load, honest[1].load, probes, (before, after), disk_mb)


def _honest_events(args: argparse.Namespace) -> list[bytes]:
    random = np.random.default_rng(1)
    pairs = zip(random.integers(0, args.users, 1_000), random.integers(0, args.items, 1_000), strict=True)
    return [
        json.dumps({"event_type": "view", "user_id": f"u{u}", "session_id": f"s{u}", "item_id": f"i{i}"}).encode()
        for u, i in pairs
    ]


def _probe(url: str, num_users: int, key: str) -> list[list[str]]:
    """Returns the lists of some users, and of a visitor of whom nothing is known."""
    moment = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=1)
    users = [f"u{number}" for number in range(0, num_users, max(num_users // _NUM_PROBES, 1))]
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as http:
        fields = {"k": _K, "record": False, "time": moment.isoformat()}
        bodies = [{"user_id": user, **fields} for user in [*users, "nobody"]]
        return [item_ids(http.post("/v1/recommendations", json=body).raise_for_status().json()) for body in bodies]


def _row(name: str, run: Run, ndcg: float) -> dict[str, object]:
    return {
        "honest callers": name,
        "lists": len(run.lists.seconds),
        "p50_ms": run.lists.milliseconds(50),
        "p99_ms": run.lists.milliseconds(99),
        "events_p99_ms": run.events.milliseconds(99),
        "failed": run.lists.failed + run.events.failed,
        "ndcg": ndcg,
        "memory_mb": run.memory_mb[1],
        "grown_by_mb": run.memory_mb[1] - run.memory_mb[0],
        "event_log_mb": run.disk_mb,
    }


def _ndcg(expected: list[str], found: list[str]) -> float:
    """nDCG of a list whose relevance is the order of another one."""
    gains = {item: len(expected) - place for place, item in enumerate(expected)}
    ideal = sum(gain / np.log2(place + 2) for place, gain in enumerate(gains.values()))
    return float(sum(gains.get(item, 0) / np.log2(place + 2) for place, item in enumerate(found)) / ideal)


async def _attack(url: str, key: str, args: argparse.Namespace, answers: Counter[str]) -> None:
    """Attacks from every address until the time is over."""
    end = time.monotonic() + args.seconds
    async with asyncio.TaskGroup() as tasks:
        for number, address in enumerate(_ADDRESSES):
            tasks.create_task(_attack_from(url, address, key, Random(number), args, end, answers))  # noqa: S311
        tasks.create_task(_hold_connections(url, key, end, answers))


async def _attack_from(
    url: str, address: str, key: str, random: Random, args: argparse.Namespace, end: float, answers: Counter[str]
) -> None:
    transport = httpx.AsyncHTTPTransport(local_address=address)
    headers = {"Authorization": f"Bearer {key}", "Origin": _ORIGIN}
    async with httpx.AsyncClient(base_url=url, transport=transport, headers=headers, timeout=30) as http:
        while time.monotonic() < end:
            name, request = random.choice(_ATTACKS)
            try:
                path, content, extra = request(random, args)
                answer = await http.post(path, content=content, headers={"Content-Type": "application/json", **extra})
                answers[f"{name} {answer.status_code}"] += 1
            except httpx.TransportError:
                answers[f"{name} disconnected"] += 1
            await asyncio.sleep(_WAIT_SECONDS)


async def _hold_connections(url: str, key: str, end: float, answers: Counter[str]) -> None:
    """Keeps connections open that never finish their headers or their body."""
    parts = httpx.URL(url)

    async def hold(number: int) -> None:
        head = f"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nOrigin: {_ORIGIN}\r\n"
        head += "Content-Type: application/json\r\n" + ("Content-Length: 9\r\n\r\n1" if number % 2 else "X: ")
        while time.monotonic() < end:
            local = (_ADDRESSES[number % len(_ADDRESSES)], 0)
            reader, writer = await asyncio.open_connection(parts.host, parts.port, local_addr=local)
            writer.write(head.encode())
            with suppress(TimeoutError, ConnectionError):
                answer = await asyncio.wait_for(reader.read(100), max(end - time.monotonic(), 0.1))
                answers[f"half-sent {answer[9:12].decode() or 'disconnected'}"] += 1
            writer.close()
            await asyncio.sleep(_WAIT_SECONDS)

    await asyncio.gather(*(hold(number) for number in range(_NUM_SLOW)))


Request = tuple[str, bytes, dict[str, str]]
Attack = Callable[[Random, argparse.Namespace], Request]


def _events(events: list[dict[str, Any]]) -> Request:
    return "/v1/events", json.dumps(events).encode(), {}


def _event(user_id: str, item_id: str, **fields: Any) -> dict[str, Any]:
    return {"event_type": "purchase", "user_id": user_id, "item_id": item_id, **fields}


def _crowd(random: Random, args: argparse.Namespace) -> Request:
    """A crowd of made-up users, or of known ones, for the rarest item."""
    prefix = random.choice(["u", "made up "])
    return _events([_event(f"{prefix}{random.randrange(args.users)}", f"i{args.items - 1}") for _ in range(1_000)])


def _flood(random: Random, args: argparse.Namespace) -> Request:
    """A batch of the longest lists."""
    requests = [{"user_id": f"u{random.randrange(args.users)}", "k": 500} for _ in range(100)]
    return "/v1/recommendations/batch", json.dumps({"requests": requests}).encode(), {}


def _oversized(random: Random, _: argparse.Namespace) -> Request:
    """A request that is too large in one way or another."""
    deep = b'{"a": ' * 5_000 + b"1" + b"}" * 5_000
    nested = b'{"event_type": "view", "user_id": "u", "item_id": "i", "properties": ' + deep + b"}"
    many = json.dumps([_event("u", "i0")] * 2_000).encode()
    body, headers = random.choice(
        [
            (bytes(3 << 20), {}),
            (nested, {}),
            (_bomb(), {"Content-Encoding": "gzip"}),
            (many, {}),
            (json.dumps([_event("u" * 100_000, "i0")]).encode(), {}),
            (b"[]", {"X-Large": "x" * 200_000}),
        ]
    )
    return "/v1/events", body, headers


@cache
def _bomb() -> bytes:
    return gzip.compress(bytes(50 << 20))


def _repeated(random: Random, args: argparse.Namespace) -> Request:
    """The same events again and again, in another order, some of the future and some of long ago."""
    now = datetime.now(UTC)
    moments = [now + timedelta(seconds=seconds) for seconds in (-(10**8), -60, 0, 240)]
    events = [
        _event(f"u{number}", f"i{number}", event_id=f"again-{number}", event_time=moments[number % 4].isoformat())
        for number in range(100)
    ]
    random.shuffle(events)
    return _events(events)


def _equal_ids(random: Random, args: argparse.Namespace) -> Request:
    """Ids that look the same."""
    chosen = [random.choice(_EQUAL_IDS) for _ in range(3)]
    return _events([_event(chosen[0], chosen[1], session_id=chosen[2], event_id=random.choice(_EQUAL_IDS))])


def _foreign_sessions(random: Random, args: argparse.Namespace) -> Request:
    """Events of other users in the sessions of honest ones."""
    users = [random.randrange(args.users) for _ in range(50)]
    return _events([_event(f"thief {user}", "i0", session_id=f"s{user}") for user in users])


_ATTACKS: list[tuple[str, Attack]] = [
    ("crowd", _crowd),
    ("flood", _flood),
    ("oversized", _oversized),
    ("repeated", _repeated),
    ("equal ids", _equal_ids),
    ("foreign sessions", _foreign_sessions),
]


if __name__ == "__main__":
    main()
