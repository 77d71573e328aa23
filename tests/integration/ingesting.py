"""Helpers of ingestion tests: CSV files with a mapping, complete ingestion, and dumps of a warehouse."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine, text

from recsys_tasks.ingestion.landing import land_batches
from recsys_tasks.ingestion.load import LoadReport, load_batch
from recsys_tasks.ingestion.sources import read_source
from recsys_tasks.storage.folder import Folder
from recsys_tasks.validation.batch import validate_batch

LONG_AGO = datetime(1990, 1, 1, tzinfo=UTC)
HEADER = "id,who,what,did,when,price"


def write_mapping(folder: Path, **extra: object) -> str:
    """Writes a mapping for the CSV files of `write_csv`; returns its path."""
    keys = {"source": "shop", "format": "csv", "on_error": "quarantine", "implies_items": True, "implies_users": True}
    lines = [f"{key} = {json.dumps(value)}" for key, value in (keys | extra).items()]
    lines += ["[columns]", 'event_id = "id"', 'user_id = "who"', 'item_id = "what"', 'event_type = "did"']
    lines += ['event_time = "when"', 'price = "price"']
    path = folder / "mapping.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def csv_line(number: int, **changes: object) -> str:
    """Returns one CSV line with the number's event; `changes` override columns."""
    row = {
        "id": f"e{number}",
        "who": f"u{number % 7}",
        "what": f"i{number % 11}",
        "did": "view",
        "when": f"2024-07-{1 + number % 28:02d}T12:{number % 60:02d}:00Z",
        "price": "1.50",
    }
    return ",".join(str(value) for value in (row | changes).values())


def write_csv(path: Path, lines: Iterable[str]) -> Path:
    """Writes a CSV file with header and lines; returns its path."""
    path.write_text("\n".join([HEADER, *lines, ""]), encoding="utf-8")
    return path


def ingest(warehouse: Engine, home: Path, source: str, *paths: Path | str, bad: float = 0.5) -> list[LoadReport]:
    """Lands, validates and loads files."""
    reports = []
    for batch_id in land_batches(warehouse, read_source(source, paths)):
        validate_batch(warehouse, batch_id, Folder.of(home / "gx"), max_bad_share=bad, retention_start=LONG_AGO)
        reports.append(load_batch(warehouse, batch_id))
    return reports


def dump_contents(warehouse: Engine) -> dict[str, list[tuple[object, ...]]]:
    """Returns the sorted rows of the main tables, without load times and change numbers."""
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
    """Returns the single number of a query."""
    with warehouse.connect() as connection:
        return int(connection.scalar(text(query)) or 0)


def set_old_mtime(path: Path) -> Path:
    """Sets a file's modification time to one minute ago; returns its path."""
    earlier = time.time() - 60
    os.utime(path, (earlier, earlier))
    return path
