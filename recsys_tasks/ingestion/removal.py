"""Removal from the warehouse: retracts a loaded batch, or erases users who ask to be forgotten.

What other loaded batches delivered, too, stays or becomes visible: the warehouse is as if the removed rows had never
come.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text

from recsys_tasks.errors import InputError
from recsys_tasks.ingestion.changes import lock_changes, record_change_without_batch
from recsys_tasks.ingestion.landing_schema import drop_landing_schema, find_batch, lock_batch
from recsys_tasks.warehouse import raises_unavailable, run_script, statement

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemovalReport:
    """Counts of removed events, of those that other batches delivered with the same ids and that took their place, and
    of affected days, whose daily partitions are rebuilt."""

    events: int
    restored: int
    days: int


@raises_unavailable
def retract(engine: Engine, batch_id: str, reason: str) -> RemovalReport:
    """Removes the rows of a loaded batch in one transaction; the same batch cannot be landed again.

    A row that another loaded batch holds, too, stays; one that the batch had replaced comes back. After fixing a wrong
    mapping, ingest the file again: the new mapping makes it a new batch. Retracting a batch twice changes nothing.

    Raises:
        InputError: the batch does not exist or was never loaded.
    """
    with engine.begin() as connection:
        lock_changes(connection)
        batch = find_batch(connection, batch_id)
        if batch is not None and batch.status == "retracted":
            return RemovalReport(0, 0, 0)
        if batch is None or batch.status != "loaded":
            raise InputError(
                f"Batch {batch_id} is {batch.status if batch else 'unknown'}; only a loaded batch can be retracted"
            )
        connection.execute(
            text("update batches set status = 'retracted', message = :reason where batch_id = :id"),
            {"id": batch_id, "reason": reason},
        )
        run_script(connection, "ingestion/create_removed")
        values = {"batch": batch.number, "first_event": batch.first_event, "last_event": batch.last_event}
        if batch.first_event is not None:
            connection.execute(statement("ingestion/vacate_batch"), values)
        connection.execute(text("delete from held_events where batch = :batch"), values)
        connection.execute(statement("ingestion/unhide_replayed"), values)
        report = _restore_events(connection, "retract", batch_id)
        _remove_versions(connection, batch.number)
        connection.execute(text("delete from item_vectors where batch = :batch"), values)
    log.info("Retracted batch %s: %s", batch_id, report)
    return report


@raises_unavailable
def forget(engine: Engine, user_ids: Sequence[str]) -> RemovalReport:
    """Removes all rows of users. Their rows up to now are left out (counted as `forgotten`) if they are ingested again.

    Keeps only a one-way digest of each user id.
    """
    users = {"user_ids": list(user_ids)}
    with engine.begin() as connection:  # known to every validation from now on
        connection.execute(statement("ingestion/insert_forgotten_user"), users)
    with engine.begin() as connection:
        lock_changes(connection)
        _wait_for_validations(connection)
        run_script(connection, "ingestion/create_removed")
        connection.execute(statement("ingestion/vacate_users"), users)
        for table in ("user_versions", "held_user_versions"):
            connection.execute(text(f"delete from {table} where user_id = any(:user_ids)"), users)  # noqa: S608
        visitors = {"visitors": [f"u:{user_id}" for user_id in user_ids]}
        for table in ("request_outcomes", "bot_visitors"):
            connection.execute(text(f"delete from {table} where visitor = any(:visitors)"), visitors)  # noqa: S608
        connection.execute(statement("ingestion/forget_quarantine"), users)
        _reset_unloaded_batches(connection)
        report = _restore_events(connection, "forget", f"{len(user_ids)} users")
    log.info("Forgot %d users: %s", len(user_ids), report)
    return report


def _restore_events(connection: Connection, kind: str, origin: str) -> RemovalReport:
    """Makes held events visible in the place of removed ones, and records the change of both."""
    connection.execute(statement("ingestion/create_held_months"))
    connection.execute(statement("ingestion/restore_held"))
    run_script(connection, "ingestion/credit_restored")
    days = connection.execute(statement("ingestion/removed_days")).all()
    record_change_without_batch(connection, kind, origin, [(row.day, int(row.events)) for row in days])
    removed, restored = (
        int(connection.scalar(text(f"select count(*) from {table}")) or 0)  # noqa: S608
        for table in ("vacated_events", "restored_events")
    )
    return RemovalReport(removed, restored, len(days))


def _remove_versions(connection: Connection, batch: int) -> None:
    """Removes the items and users that a batch delivered. Equal ones of other batches become versions, and those that
    events of other batches name stay known by their ids."""
    for kind, key in (("items", "item_id"), ("users", "user_id")):
        connection.execute(statement(f"ingestion/remove_{kind}"), {"batch": batch})
        connection.execute(
            text(f"create temporary table orphaned_{kind} on commit drop as select {key} from affected_{kind}")  # noqa: S608
        )
        for table in (f"{kind[:-1]}_versions", f"held_{kind[:-1]}_versions"):
            connection.execute(text(f"delete from {table} where batch = :batch"), {"batch": batch})  # noqa: S608
        run_script(connection, f"ingestion/restate_{kind}")
        connection.execute(
            text(
                f"delete from orphaned_{kind} where {key} in (select {key} from {kind[:-1]}_versions"  # noqa: S608
                f" where {key} in (select {key} from orphaned_{kind}))"
            )
        )
        connection.execute(statement(f"ingestion/imply_orphaned_{kind}"))


def _wait_for_validations(connection: Connection) -> None:
    """Waits for the validations that began before a user was erased, and keeps others from beginning meanwhile."""
    unloaded = text("select batch_id from batches where status in ('landed', 'validated', 'rejected') order by number")
    for batch_id in connection.scalars(unloaded).all():
        lock_batch(connection, batch_id)


def _reset_unloaded_batches(connection: Connection) -> None:
    """Resets validated batches to `landed` and drops rejected landings: they may hold rows of forgotten users."""
    connection.execute(text("update batches set status = 'landed' where status = 'validated'"))
    for number in connection.scalars(text("select number from batches where status = 'rejected'")).all():
        drop_landing_schema(connection, number)
