"""What tests of ingestion share: a shop's files and mapping, the whole way of a file, and what a warehouse holds."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine, text

from recsys_tasks.ingestion.landing import land
from recsys_tasks.ingestion.load import LoadReport, load
from recsys_tasks.ingestion.sources import read_source
from recsys_tasks.validation import validate

LONG_AGO = datetime(1990, 1, 1, tzinfo=UTC)
HEADER = "id,who,what,did,when,price"


def mapping(folder: Path, **extra: object) -> str:
    """Writes a mapping for the shop's files and returns its path."""
    keys = {"source": "shop", "format": "csv", "on_error": "quarantine", "implies_items": True, "implies_users": True}
    lines = [f"{key} = {json.dumps(value)}" for key, value in (keys | extra).items()]
    lines += ["[columns]", 'event_id = "id"', 'user_id = "who"', 'item_id = "what"', 'event_type = "did"']
    lines += ['event_time = "when"', 'price = "price"']
    path = folder / "mapping.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def line(number: int, **changes: object) -> str:
    """A line of the shop's file."""
    row = {
        "id": f"e{number}",
        "who": f"u{number % 7}",
        "what": f"i{number % 11}",
        "did": "view",
        "when": f"2024-07-{1 + number % 28:02d}T12:{number % 60:02d}:00Z",
        "price": "1.50",
    }
    return ",".join(str(value) for value in (row | changes).values())


def write(path: Path, lines: Iterable[str]) -> Path:
    """A CSV file of the shop."""
    path.write_text("\n".join([HEADER, *lines, ""]), encoding="utf-8")
    return path


def ingest(warehouse: Engine, home: Path, source: str, *paths: Path, bad: float = 0.5) -> list[LoadReport]:
    """All the way of some files."""
    reports = []
    for batch_id in land(warehouse, read_source(source, paths)):
        validate(warehouse, batch_id, home / "gx", max_bad_share=bad, kept_from=LONG_AGO)
        reports.append(load(warehouse, batch_id))
    return reports


def contents(warehouse: Engine) -> dict[str, list[tuple[object, ...]]]:
    """Everything a warehouse says, but for when it was told and in which order."""
    queries = {
        "events": "select event_id, user_id, item_id, event_type, event_time, price, properties, content from events",
        "items": "select item_id, title, price from items",
        "users": "select user_id from users",
        "quarantine": "select batch_id, kind, row_number, rule, raw::text from quarantine",
        "batches": "select batch_id, status, read_rows, quarantined_rows from batches",
        "days": "select day, sum(events) from batch_days group by day",
    }
    with warehouse.connect() as connection:
        return {
            name: sorted(tuple(map(str, row)) for row in connection.execute(text(query)))
            for name, query in queries.items()
        }


def count(warehouse: Engine, query: str) -> int:
    """The one number a query gives."""
    with warehouse.connect() as connection:
        return int(connection.scalar(text(query)) or 0)


def age(path: Path) -> Path:
    """Makes a file look as if nobody had written to it for a while."""
    earlier = time.time() - 60
    os.utime(path, (earlier, earlier))
    return path
