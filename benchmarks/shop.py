"""Synthetic event log of any size, created day by day: returning users, short sessions, random ids."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

START = datetime(2024, 1, 1, tzinfo=UTC)
EVENTS_PER_DAY = 55_000
_USERS, _ITEMS, _SESSION = 200_000, 30_000, 6
_TYPES = np.asarray(["view"] * 16 + ["add_to_cart"] * 3 + ["purchase"])

MAPPING = """
source = "shop"
format = "csv"
implies_items = true
implies_users = true
[columns]
event_id = "id"
user_id = "user"
session_id = "session"
item_id = "item"
event_type = "type"
event_time = "time"
price = "price"
quantity = "quantity"
"""


def days(events: int, first_day: int = 0, seed: int = 0) -> Iterator[pa.Table]:
    """Yields one table per day, ordered by time."""
    for day in range(first_day, first_day + -(-events // EVENTS_PER_DAY)):
        count = min(EVENTS_PER_DAY, events - (day - first_day) * EVENTS_PER_DAY)
        yield _day(count, day, np.random.default_rng((seed, day)))


def write_csv(path: Path, events: int, first_day: int = 0, seed: int = 0) -> None:
    """Writes events as a CSV file with a header."""
    writer = None
    for table in days(events, first_day, seed):
        writer = writer or csv.CSVWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _day(count: int, day: int, random: np.random.Generator) -> pa.Table:
    sessions = -(-count // _SESSION)
    session = np.repeat(np.arange(sessions), _SESSION)[:count]
    begins = random.integers(0, 85_000_000, sessions)
    offsets = random.exponential(60_000, count).cumsum() % 1_000_000
    millis = begins[session] + offsets.astype(np.int64)
    order = np.argsort(millis, kind="stable")
    user = (random.pareto(1.2, sessions) * 1_000).astype(np.int64) % _USERS
    item = (random.pareto(0.8, count) * 50).astype(np.int64) % _ITEMS
    timestamps = pa.array((int(START.timestamp()) + day * 86_400) * 1_000 + millis[order], pa.int64())
    text = [f"{a:016x}{b:016x}" for a, b in random.integers(0, 2**63, (count, 2)).tolist()]
    return pa.table(
        {
            "id": pa.array(text),
            "user": _ids("u", user[session][order]),
            "session": _ids(f"s{day}-", session[order]),
            "item": _ids("i", item[order]),
            "type": pa.array(_TYPES[random.integers(0, len(_TYPES), count)]),
            "time": pc.strftime(timestamps.cast(pa.timestamp("ms")), "%Y-%m-%dT%H:%M:%SZ"),
            "price": pa.array((item[order] % 97 + 0.99).round(2)).cast(pa.string()),
            "quantity": pa.array(["1"] * count),
        }
    )


def _ids(prefix: str, numbers: np.ndarray) -> pa.Array:
    return pc.binary_join_element_wise(prefix, pa.array(numbers).cast(pa.string()), "")
