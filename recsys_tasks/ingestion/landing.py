"""Landing: a source's rows, as text, into a schema of their own, in one transaction per batch."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from sqlalchemy import Connection, Engine, text

from recsys_tasks.errors import BatchRejected
from recsys_tasks.ingestion.batch import SourceBatch
from recsys_tasks.ingestion.landing_schema import create_landing, drop_landing, find_batch, lock_batch
from recsys_tasks.warehouse import answering, copy_in, statement

log = logging.getLogger(__name__)


def land(engine: Engine, batches: Iterable[SourceBatch]) -> list[str]:
    """Lands every batch and returns all their ids, in order, those that were there before among them.

    A batch is landed whole or not at all, so one that is there stays as it is; one that was rejected is landed
    anew, since its source or its mapping may have been mended.

    Raises:
        MalformedFile: a file is broken and its mapping says `reject`, or lacks a column; nothing of it is landed.
        BatchRejected: the batch was retracted.
        UnavailableError: the warehouse went away or its disk is full; nothing of the batch in hand is landed.
    """
    return [_land_one(engine, batch) for batch in batches]


@answering
def _land_one(engine: Engine, batch: SourceBatch) -> str:
    with engine.begin() as connection:
        lock_batch(connection, batch.batch_id)
        found = find_batch(connection, batch.batch_id)
        if found is not None and found.status == "retracted":
            raise BatchRejected(f"Batch {batch.batch_id} of {batch.origin} was retracted: {found.message}")
        if found is not None and found.status != "rejected":
            log.info("Batch %s is %s already", batch.batch_id, found.status)
            return batch.batch_id
        if found is not None:
            drop_landing(connection, found.number)
            connection.execute(text("delete from batches where batch_id = :id"), {"id": batch.batch_id})
        number = _register(connection, batch)
        create_landing(connection, number)
        read = sum(copy_in(connection, f"landed_{kind}", rows) for kind, rows in batch.rows.items())
        _quarantine_lines(connection, batch)
        _describe(connection, batch, read)
    log.info("Landed batch %s from %s: %d rows, %d bad lines", batch.batch_id, batch.origin, read, len(batch.bad_lines))
    return batch.batch_id


def _register(connection: Connection, batch: SourceBatch) -> int:
    values = {
        "batch_id": batch.batch_id,
        "source": batch.source,
        "origin": batch.origin,
        "interval_start": batch.interval.start if batch.interval else None,
        "interval_end": batch.interval.end if batch.interval else None,
        "implies_items": batch.implies_items,
        "implies_users": batch.implies_users,
        "on_conflict": batch.on_conflict,
        "live": batch.live,
    }
    return int(connection.execute(statement("ingestion/register_batch"), values).scalar_one())


def _describe(connection: Connection, batch: SourceBatch, read: int) -> None:
    """Notes what was only known once the rows were read: how many, and which columns, some of them perhaps new."""
    connection.execute(
        statement("ingestion/describe_batch"),
        {
            "batch_id": batch.batch_id,
            "source": batch.source,
            "read": read + len(batch.bad_lines),
            "columns": batch.columns,
        },
    )


def _quarantine_lines(connection: Connection, batch: SourceBatch) -> None:
    if batch.bad_lines:
        connection.execute(
            statement("ingestion/quarantine_line"),
            [
                {"batch_id": batch.batch_id, "row_number": line.number, "reason": line.reason, "raw": line.raw}
                for line in batch.bad_lines
            ],
        )
