"""Change log of the warehouse: numbers each change in commit order and records the days it touched.

A daily partition stays valid until a later change touches its day. A snapshot built as of a change number is
reproducible.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from sqlalchemy import Connection, text

from recsys_tasks.warehouse import statement

_LOCK = 7_236_102  # arbitrary advisory lock key, the same in every process


def lock_changes(connection: Connection) -> None:
    """Serializes changes until the end of the transaction, so that numbers follow commit order."""
    connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


def record_change(connection: Connection, batch_id: str, days: Iterable[tuple[date, int]]) -> int:
    """Assigns the next change number to the batch and records the touched days; returns the number.

    Call `lock_changes` first. `days` are pairs of a day (UTC) and the change in its event count.
    """
    number = int(connection.execute(text("select nextval('change_numbers')")).scalar_one())
    connection.execute(
        text("update batches set change_number = :number where batch_id = :id"), {"number": number, "id": batch_id}
    )
    touched = [{"day": day, "number": number, "events": events} for day, events in days]
    if touched:
        connection.execute(statement("ingestion/record_day"), touched)
    return number


def record_change_without_batch(
    connection: Connection, kind: str, origin: str, days: Iterable[tuple[date, int]]
) -> int:
    """Records a change that no source batch caused (forgotten users, a retracted batch); returns its number."""
    batch_id = connection.execute(statement("ingestion/register_change"), {"kind": kind, "origin": origin}).scalar_one()
    return record_change(connection, str(batch_id), days)
