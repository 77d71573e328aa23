"""Removal from the warehouse: retracts a loaded batch, or erases users who ask to be forgotten."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text

from recsys_tasks.errors import InputError
from recsys_tasks.ingestion.changes import lock_changes, record_change_without_batch
from recsys_tasks.ingestion.landing_schema import drop_landing_schema, find_batch
from recsys_tasks.warehouse import raises_unavailable, statement

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemovalReport:
    """Counts of removed events and of affected days, whose daily partitions are rebuilt."""

    events: int
    days: int


@raises_unavailable
def retract(engine: Engine, batch_id: str, reason: str) -> RemovalReport:
    """Removes the rows of a loaded batch in one transaction; the same batch cannot be landed again.

    After fixing a wrong mapping, ingest the file again: the new mapping makes it a new batch.

    Raises:
        InputError: the batch does not exist or is not loaded.
    """
    with engine.begin() as connection:
        lock_changes(connection)
        batch = find_batch(connection, batch_id)
        if batch is None or batch.status != "loaded":
            raise InputError(
                f"Batch {batch_id} is {batch.status if batch else 'unknown'}; only a loaded batch can be retracted"
            )
        removed = connection.execute(statement("ingestion/retract_events"), {"batch": batch.number}).all()
        for table in ("item_versions", "user_versions"):
            connection.execute(text(f"delete from {table} where batch = :batch"), {"batch": batch.number})  # noqa: S608
        record_change_without_batch(connection, "retract", batch_id, [(row.day, -row.events) for row in removed])
        connection.execute(
            text("update batches set status = 'retracted', message = :reason where batch_id = :id"),
            {"id": batch_id, "reason": reason},
        )
    report = RemovalReport(sum(row.events for row in removed), len(removed))
    log.info("Retracted batch %s: %s", batch_id, report)
    return report


@raises_unavailable
def forget(engine: Engine, user_ids: Sequence[str]) -> RemovalReport:
    """Removes all rows of users; their events up to now are quarantined if ingested again.

    Keeps only a one-way digest of each user id.
    """
    with engine.begin() as connection:
        lock_changes(connection)
        users = {"user_ids": list(user_ids)}
        connection.execute(statement("ingestion/insert_forgotten_user"), users)
        removed = connection.execute(statement("ingestion/forget_events"), users).all()
        connection.execute(text("delete from user_versions where user_id = any(:user_ids)"), users)
        visitors = {"visitors": [f"u:{user_id}" for user_id in user_ids]}
        for table in ("request_outcomes", "bot_visitors"):
            connection.execute(text(f"delete from {table} where visitor = any(:visitors)"), visitors)  # noqa: S608
        connection.execute(statement("ingestion/forget_quarantine"), users)
        _reset_unloaded_batches(connection)
        record_change_without_batch(
            connection, "forget", f"{len(user_ids)} users", [(row.day, -row.events) for row in removed]
        )
    report = RemovalReport(sum(row.events for row in removed), len(removed))
    log.info("Forgot %d users: %s", len(user_ids), report)
    return report


def _reset_unloaded_batches(connection: Connection) -> None:
    """Resets validated batches to `landed` and drops rejected landings: they may hold rows of forgotten users."""
    connection.execute(text("update batches set status = 'landed' where status = 'validated'"))
    for number in connection.scalars(text("select number from batches where status = 'rejected'")).all():
        drop_landing_schema(connection, number)
