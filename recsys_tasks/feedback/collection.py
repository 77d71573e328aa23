"""Fetches what is new in the endpoints' journals.

A portion of a journal becomes a file, the file a batch, and only when that is loaded does the cursor move. Killed
anywhere in between, the same bytes come again, make the same batch, and change nothing.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, text

from recsys_tasks.client.admin import AdminClient
from recsys_tasks.warehouse import statement

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Portion:
    """Bytes of one segment of one endpoint's journal, kept in a file."""

    endpoint: str
    segment: str
    stop: int
    path: str


def fetch(engine: Engine, urls: Sequence[str], token: str, folder: Path) -> list[Portion]:
    """Writes what is new in every endpoint's journal to files under `folder`, and moves no cursor.

    Raises:
        UnavailableError: an endpoint does not answer.
        ConfigurationError: an endpoint does not accept the token.
    """
    folder.mkdir(parents=True, exist_ok=True)
    portions = [portion for url in urls for portion in _fetch_endpoint(engine, AdminClient(url, token), folder)]
    log.info("Fetched %d portions of %d journals", len(portions), len(urls))
    return portions


def advance(engine: Engine, portions: Sequence[Portion]) -> None:
    """Moves the cursors behind portions whose batches are loaded."""
    with engine.begin() as connection:
        for portion in portions:
            connection.execute(
                statement("feedback/advance_cursor"),
                {"endpoint": portion.endpoint, "segment": portion.segment, "read_bytes": portion.stop},
            )


def _fetch_endpoint(engine: Engine, endpoint: AdminClient, folder: Path) -> Iterator[Portion]:
    journal = endpoint.journal()
    instance = str(journal["instance"])
    done = _cursors(engine, instance)
    for segment in journal["segments"]:
        name, at = str(segment["name"]), done.get(str(segment["name"]), 0)
        while at < segment["bytes"]:
            chunk = endpoint.read_journal(name, at)
            if not chunk:
                break  # what follows is a torn line
            at += len(chunk)
            digest = hashlib.sha256(chunk).hexdigest()[:16]
            path = folder / f"{instance}-{name}-{at}-{digest}.jsonl"
            path.write_bytes(chunk)
            yield Portion(instance, name, at, str(path))


def _cursors(engine: Engine, instance: str) -> dict[str, int]:
    query = text("select segment, read_bytes from feedback_cursors where endpoint = :endpoint")
    with engine.connect() as connection:
        return {row.segment: row.read_bytes for row in connection.execute(query, {"endpoint": instance})}
