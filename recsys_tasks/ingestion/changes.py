"""The order of all that changed the warehouse, and the days each change touched.

What was built of a day stays valid until a later change touches it; a snapshot that knows the changes up to some
number is the same whenever it is built.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from sqlalchemy import Connection, text

from recsys_tasks.warehouse import statement

_LOCK = 7_236_102  # any number, the same in every process


def lock_changes(connection: Connection) -> None:
    """One change at a time, until the end of its transaction: numbers come in the order of commits."""
    connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


def record_change(connection: Connection, batch_id: str, days: Iterable[tuple[date, int]]) -> int:
    """Gives the batch the next number among the changes and notes the days it touched; the number.

    Must be called under `lock_changes`.
    """
    number = int(connection.execute(text("select nextval('loaded_numbers')")).scalar_one())
    connection.execute(
        text("update batches set loaded_number = :number where batch_id = :id"), {"number": number, "id": batch_id}
    )
    touched = [{"day": day, "number": number, "events": events} for day, events in days]
    if touched:
        connection.execute(statement("ingestion/record_day"), touched)
    return number


def record_removal(connection: Connection, kind: str, origin: str, days: Iterable[tuple[date, int]]) -> int:
    """Notes a change that is no batch of a source (a forgotten user, a retracted batch); its number."""
    batch_id = connection.execute(statement("ingestion/register_change"), {"kind": kind, "origin": origin}).scalar_one()
    return record_change(connection, str(batch_id), days)
