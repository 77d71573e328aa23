"""Landing: a source's rows, as text, into the landing tables, in one transaction per batch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import pyarrow as pa
from sqlalchemy import Connection, Engine, text

from recsys_tasks.ingestion.batch import SourceBatch
from recsys_tasks.warehouse import copy_in, statement

log = logging.getLogger(__name__)


def land(engine: Engine, batches: Iterable[SourceBatch]) -> list[str]:
    """Lands every batch and returns all their ids, in order, those loaded before among them.

    A batch that was loaded stays as it is; one that was landed or rejected is landed anew, so that a run
    killed at any point is repeated safely.

    Raises:
        MalformedFile: a file is broken and its mapping says `reject`; nothing of that file is landed.
    """
    return [_land_one(engine, batch) for batch in batches]


def _land_one(engine: Engine, batch: SourceBatch) -> str:
    with engine.begin() as connection:
        # Two runs that land the same content at the same moment: the second waits, then finds it landed.
        connection.execute(text("select pg_advisory_xact_lock(hashtextextended(:id, 0))"), {"id": batch.batch_id})
        if _status(connection, batch.batch_id) == "loaded":
            log.info("Batch %s was loaded before: nothing to do", batch.batch_id)
            return batch.batch_id
        _register(connection, batch)
        read = sum(copy_in(connection, f"landing_{kind}", _labelled(batch, kind)) for kind in batch.rows)
        _quarantine_lines(connection, batch)
        connection.execute(
            text("update batches set read_rows = :read where batch_id = :id"),
            {"read": read + len(batch.bad_lines), "id": batch.batch_id},
        )
    log.info("Landed batch %s from %s: %d rows, %d bad lines", batch.batch_id, batch.origin, read, len(batch.bad_lines))
    return batch.batch_id


def _status(connection: Connection, batch_id: str) -> str | None:
    status: str | None = connection.scalar(text("select status from batches where batch_id = :id"), {"id": batch_id})
    return status


def _register(connection: Connection, batch: SourceBatch) -> None:
    for table in ("quarantine", *(f"landing_{kind}" for kind in ("items", "users", "events")), "batches"):
        connection.execute(text(f"delete from {table} where batch_id = :id"), {"id": batch.batch_id})  # noqa: S608
    connection.execute(
        statement("ingestion/register_batch"),
        {
            "batch_id": batch.batch_id,
            "source": batch.source,
            "origin": batch.origin,
            "interval_start": batch.interval.start if batch.interval else None,
            "interval_end": batch.interval.end if batch.interval else None,
            "implies_items": batch.implies_items,
            "implies_users": batch.implies_users,
        },
    )


def _labelled(batch: SourceBatch, kind: str) -> Iterator[pa.RecordBatch]:
    for rows in batch.rows[kind]:
        yield rows.append_column("batch_id", pa.array([batch.batch_id] * rows.num_rows, pa.string()))


def _quarantine_lines(connection: Connection, batch: SourceBatch) -> None:
    if batch.bad_lines:
        connection.execute(
            statement("ingestion/quarantine_line"),
            [
                {"batch_id": batch.batch_id, "row_number": line.number, "reason": line.reason, "raw": line.raw}
                for line in batch.bad_lines
            ],
        )
