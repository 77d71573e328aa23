"""Incremental, idempotent collection of the endpoints' event logs.

A chunk of an event log becomes a file, and the file a batch. The cursor moves only after the batch is loaded. After a
crash in between, the same bytes are fetched again, make the same batch, and change nothing.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, text

from recsys_tasks.client.admin import AdminClient
from recsys_tasks.storage.folder import Folder
from recsys_tasks.warehouse import statement

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EventLogChunk:
    """Consecutive bytes of one segment of an endpoint's event log, in a file of the folder of fetched feedback.

    Attributes:
        endpoint: instance id of the endpoint.
        stop: offset in the segment, in bytes, at which the chunk ends (exclusive).
        file: name of the file.
    """

    endpoint: str
    segment: str
    stop: int
    file: str


def fetch_chunks(engine: Engine, urls: Sequence[str], token: str, folder: Folder) -> list[EventLogChunk]:
    """Writes new bytes of every endpoint's event log to files under `folder`; moves no cursor.

    Raises:
        UnavailableError: an endpoint does not answer.
        ConfigurationError: an endpoint does not accept the token.
    """
    chunks = [chunk for url in urls for chunk in _fetch_endpoint(engine, AdminClient(url, token), folder)]
    log.info("Fetched %d chunks of %d event logs", len(chunks), len(urls))
    return chunks


def advance_cursors(engine: Engine, chunks: Sequence[EventLogChunk]) -> None:
    """Moves the cursors past chunks whose batches are loaded."""
    with engine.begin() as connection:
        for chunk in chunks:
            connection.execute(
                statement("feedback/advance_cursor"),
                {"endpoint": chunk.endpoint, "segment": chunk.segment, "read_bytes": chunk.stop},
            )


def _fetch_endpoint(engine: Engine, endpoint: AdminClient, folder: Folder) -> Iterator[EventLogChunk]:
    event_log = endpoint.list_event_log()
    instance = str(event_log["instance"])
    cursors = _read_cursors(engine, instance)
    if cursors:
        endpoint.confirm_collected(_consumer(engine), *max(cursors.items()))
    for segment in event_log["segments"]:
        name = str(segment["name"])
        offset = cursors.get(name, 0)
        while offset < segment["bytes"]:
            content = endpoint.read_event_log(name, offset)
            if not content:
                break  # the rest is an incomplete line
            offset += len(content)
            digest = hashlib.sha256(content).hexdigest()[:16]
            file = f"{instance}-{name}-{offset}-{digest}.jsonl"
            folder.write(file, content)
            yield EventLogChunk(instance, name, offset, file)


def _consumer(engine: Engine) -> str:
    """Returns a name of the warehouse that stays the same when its server restarts."""
    with engine.connect() as connection:
        query = "select system_identifier, oid from pg_control_system(), pg_database where datname = current_database()"
        server, database = connection.execute(text(query)).one()
    return f"warehouse-{server}-{database}"


def _read_cursors(engine: Engine, instance: str) -> dict[str, int]:
    """Returns the number of collected bytes by segment."""
    query = text("select segment, read_bytes from feedback_cursors where endpoint = :endpoint")
    with engine.connect() as connection:
        return {row.segment: row.read_bytes for row in connection.execute(query, {"endpoint": instance})}
