"""The schema a batch lands in: its tables are found by search path, so that the SQL names them without it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, text

from recsys_tasks.names import KINDS
from recsys_tasks.warehouse import run_script

# Big scans and sorts on two cores or more; rows between workers are cheap beside the casts done to them, and the
# process that gathers them has enough to do.
_TUNING = {
    "parallel_tuple_cost": "0.01",
    "parallel_leader_participation": "off",
    "work_mem": "'128MB'",
    "maintenance_work_mem": "'256MB'",
}


def create_landing(connection: Connection, number: int) -> None:
    """Makes an empty landing schema for the batch of that number and enters it."""
    drop_landing(connection, number)
    connection.execute(text(f"create schema {landing_schema(number)}"))
    enter_landing(connection, number)
    run_script(connection, "ingestion/create_landing")


def enter_landing(connection: Connection, number: int) -> None:
    """For the rest of the transaction, unqualified names are the batch's own tables first."""
    connection.execute(text(f"set local search_path = {landing_schema(number)}, public"))
    for name, value in _TUNING.items():
        connection.execute(text(f"set local {name} = {value}"))


def drop_landing(connection: Connection, number: int) -> None:
    """Removes the schema and what is in it, if it is there."""
    connection.execute(text(f"drop schema if exists {landing_schema(number)} cascade"))


def drop_staged(connection: Connection) -> None:
    """Empties the entered schema of what an earlier validation left."""
    staged = ", ".join(f"staged_{kind}" for kind in KINDS)
    connection.execute(text(f"drop table if exists {staged}, broken_rows cascade"))


def take_in_hand(connection: Connection, kind: str) -> None:
    """Lets the views `staged` and `landed` stand for a kind's tables, for SQL that is the same for every kind."""
    views = {
        "staged": f"select row_number, broken_rules from staged_{kind}",  # noqa: S608
        "landed": f"select row_number, to_jsonb(l) - 'row_number' as raw from landed_{kind} as l",  # noqa: S608
    }
    for name, query in views.items():
        connection.execute(text(f"create or replace view {name} as {query}"))


def find_batch(connection: Connection, batch_id: str) -> Row[Any] | None:
    """The batch of that id, if there is one."""
    return connection.execute(text("select * from batches where batch_id = :id"), {"id": batch_id}).one_or_none()


def lock_batch(connection: Connection, batch_id: str) -> None:
    """Two runs that work on the same batch at the same moment: the second waits for the first one's transaction."""
    connection.execute(text("select pg_advisory_xact_lock(hashtextextended(:id, 0))"), {"id": batch_id})


def landing_schema(number: int) -> str:
    """Name of the schema that the batch of that number lands in."""
    return f"landing_{int(number)}"
