"""What was taken in and must go: a batch that should not have been loaded, a user who asks to be forgotten."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text

from recsys_tasks.errors import InputError
from recsys_tasks.ingestion.changes import lock_changes, record_removal
from recsys_tasks.ingestion.landing_schema import drop_landing, find_batch
from recsys_tasks.warehouse import answering, statement

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemovalReport:
    """How much was removed, and on how many days features are built anew."""

    events: int
    days: int


@answering
def retract(engine: Engine, batch_id: str, reason: str) -> RemovalReport:
    """Removes what a loaded batch brought, in one transaction; the same batch is not taken in again.

    A file that was read by a wrong mapping is loaded rightly after this: with the mended mapping it is another batch.

    Raises:
        InputError: there is no such batch, or it is not loaded.
    """
    with engine.begin() as connection:
        lock_changes(connection)
        batch = find_batch(connection, batch_id)
        if batch is None or batch.status != "loaded":
            raise InputError(f"Batch {batch_id} is {batch.status if batch else 'unknown'}; only a loaded one can go")
        removed = connection.execute(statement("ingestion/retract_events"), {"batch": batch.number}).all()
        for table in ("item_versions", "user_versions"):
            connection.execute(text(f"delete from {table} where batch = :batch"), {"batch": batch.number})  # noqa: S608
        record_removal(connection, "retract", batch_id, [(row.day, -row.events) for row in removed])
        connection.execute(
            text("update batches set status = 'retracted', message = :reason where batch_id = :id"),
            {"id": batch_id, "reason": reason},
        )
    report = RemovalReport(sum(row.events for row in removed), len(removed))
    log.info("Retracted batch %s: %s", batch_id, report)
    return report


@answering
def forget(engine: Engine, user_ids: Sequence[str]) -> RemovalReport:
    """Removes all the warehouse holds of users; what they did until now is not taken in again.

    Only a digest of each id is kept, which tells an id one has but does not tell it to one who has not.
    """
    with engine.begin() as connection:
        lock_changes(connection)
        users = {"user_ids": list(user_ids)}
        connection.execute(statement("ingestion/insert_forgotten_user"), users)
        removed = connection.execute(statement("ingestion/forget_events"), users).all()
        connection.execute(text("delete from user_versions where user_id = any(:user_ids)"), users)
        visitors = {"visitors": [f"u:{user_id}" for user_id in user_ids]}
        for table in ("request_outcomes", "flagged_visitors"):
            connection.execute(text(f"delete from {table} where visitor = any(:visitors)"), visitors)  # noqa: S608
        connection.execute(statement("ingestion/forget_quarantine"), users)
        _drop_waiting(connection)
        record_removal(connection, "forget", f"{len(user_ids)} users", [(row.day, -row.events) for row in removed])
    report = RemovalReport(sum(row.events for row in removed), len(removed))
    log.info("Forgot %d users: %s", len(user_ids), report)
    return report


def _drop_waiting(connection: Connection) -> None:
    """Batches that wait for their loading may hold rows of the forgotten: they are validated once more, or gone."""
    connection.execute(text("update batches set status = 'landed' where status = 'validated'"))
    for number in connection.scalars(text("select number from batches where status = 'rejected'")).all():
        drop_landing(connection, number)
