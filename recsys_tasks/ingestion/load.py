"""Loading: a validated batch from the landing tables into `items`, `users` and `events`."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, Row, text

from recsys_tasks.errors import InvariantError
from recsys_tasks.warehouse import statement

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadReport:
    """What became of a batch's rows: `read == inserted + duplicates + quarantined`."""

    batch_id: str
    read: int
    inserted: int
    duplicates: int
    quarantined: int
    loaded_before: bool


def load(engine: Engine, batch_id: str) -> LoadReport:
    """Loads one validated batch in one transaction and empties its landing rows; a loaded one stays.

    Raises:
        InvariantError: the batch is unknown, or was not validated.
    """
    with engine.begin() as connection:
        batch = connection.execute(
            text("select * from batches where batch_id = :id for update"), {"id": batch_id}
        ).one_or_none()
        if batch is None or batch.status not in ("validated", "loaded"):
            state = "unknown" if batch is None else batch.status
            raise InvariantError(f"Batch {batch_id} is {state}; only a validated batch can be loaded")
        if batch.status == "loaded":
            duplicates = batch.read_rows - batch.quarantined_rows
            return LoadReport(batch_id, batch.read_rows, 0, duplicates, batch.quarantined_rows, True)
        inserted = _insert(connection, batch)
        _finish(connection, batch_id, inserted)
    duplicates = batch.read_rows - inserted - batch.quarantined_rows
    report = LoadReport(batch_id, batch.read_rows, inserted, duplicates, batch.quarantined_rows, False)
    log.info("Loaded %s", report)
    return report


def _insert(connection: Connection, batch: Row[tuple[object, ...]]) -> int:
    of_batch = {"batch_id": batch.batch_id, "source": batch.source}
    if batch.implies_items:
        connection.execute(statement("ingestion/imply_items"), of_batch)
    if batch.implies_users:
        connection.execute(statement("ingestion/imply_users"), of_batch)
    kinds = ("items", "users", "events")
    return sum(connection.execute(statement(f"ingestion/load_{kind}"), of_batch).rowcount for kind in kinds)


def _finish(connection: Connection, batch_id: str, inserted: int) -> None:
    for kind in ("items", "users", "events"):
        connection.execute(text(f"delete from landing_{kind} where batch_id = :id"), {"id": batch_id})  # noqa: S608
    connection.execute(
        text(
            "update batches set status = 'loaded', inserted_rows = :inserted, finished_at = now() where batch_id = :id"
        ),
        {"id": batch_id, "inserted": inserted},
    )
