"""Landing: copies the rows of a batch as text into its own schema, one transaction per batch."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable

from sqlalchemy import Connection, Engine, text

from recsys_tasks.errors import BatchRejected
from recsys_tasks.ingestion.batch import SourceBatch
from recsys_tasks.ingestion.contract import Contract
from recsys_tasks.ingestion.landing_schema import create_landing_schema, drop_landing_schema, find_batch, lock_batch
from recsys_tasks.warehouse import copy_rows, raises_unavailable, statement

log = logging.getLogger(__name__)


def land_batches(engine: Engine, batches: Iterable[SourceBatch]) -> list[str]:
    """Lands batches and returns their ids in order, including those of batches landed earlier.

    Landing is atomic, so an existing batch is skipped. A rejected batch is landed again, because its source or mapping
    may have been fixed.

    Raises:
        MalformedFile: a file lacks a mapped column, or has a malformed line and its mapping says `reject`. Nothing of
            the file is landed.
        BatchRejected: the batch was retracted.
        UnavailableError: the warehouse is unreachable or its disk is full. Nothing of the current batch is landed.
    """
    return [_land_batch(engine, batch) for batch in batches]


@raises_unavailable
def _land_batch(engine: Engine, batch: SourceBatch) -> str:
    with engine.begin() as connection:
        lock_batch(connection, batch.batch_id)
        existing = find_batch(connection, batch.batch_id)
        if existing is not None and existing.status == "retracted":
            raise BatchRejected(f"Batch {batch.batch_id} of {batch.origin} was retracted: {existing.message}")
        if existing is not None and existing.status != "rejected":
            log.info("Batch %s is already %s; skipped", batch.batch_id, existing.status)
            return batch.batch_id
        if existing is not None:
            drop_landing_schema(connection, existing.number)
            connection.execute(text("delete from batches where batch_id = :id"), {"id": batch.batch_id})
        num_rows = copy_batch(connection, batch)
        if not batch.is_replay:
            values = {"source": batch.source, "expected_every_hours": batch.expected_every_hours}
            connection.execute(statement("ingestion/register_source"), values)
    log.info(
        "Landed batch %s from %s: %d rows, %d bad lines", batch.batch_id, batch.origin, num_rows, len(batch.bad_lines)
    )
    return batch.batch_id


def copy_batch(connection: Connection, batch: SourceBatch) -> int:
    """Copies the rows of a new batch to its landing schema, and its bad lines to quarantine; returns its row count."""
    number = _insert_batch(connection, batch)
    create_landing_schema(connection, number)
    num_rows = sum(copy_rows(connection, f"landed_{kind}", rows) for kind, rows in batch.rows.items())
    _quarantine_lines(connection, batch)
    _record_counts_and_columns(connection, batch, num_rows)
    return num_rows


def _insert_batch(connection: Connection, batch: SourceBatch) -> int:
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
        "contract": None if batch.contract is None else _contract_json(*batch.contract),
    }
    return int(connection.execute(statement("ingestion/register_batch"), values).scalar_one())


def _contract_json(kind: str, contract: Contract) -> str:
    return json.dumps({"kind": kind, "contract": contract.model_dump()})


def _record_counts_and_columns(connection: Connection, batch: SourceBatch, num_rows: int) -> None:
    """Records the row count and the columns, which are known only after reading; marks new columns."""
    connection.execute(
        statement("ingestion/describe_batch"),
        {
            "batch_id": batch.batch_id,
            "source": batch.source,
            "read": num_rows + len(batch.bad_lines),
            "ignored": batch.ignored_rows,
            "columns": batch.columns,
            "kinds": list(batch.rows),
            "warnings": batch.warnings,
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
