"""The schema a batch lands in: its tables are found by search path, so that the SQL names them without it."""

from __future__ import annotations

from sqlalchemy import Connection, text

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
    connection.execute(text(f"create schema {_schema(number)}"))
    enter_landing(connection, number)
    run_script(connection, "ingestion/create_landing")


def enter_landing(connection: Connection, number: int) -> None:
    """For the rest of the transaction, unqualified names are the batch's own tables first."""
    connection.execute(text(f"set local search_path = {_schema(number)}, public"))
    for name, value in _TUNING.items():
        connection.execute(text(f"set local {name} = {value}"))


def drop_landing(connection: Connection, number: int) -> None:
    """Removes the schema and what is in it, if it is there."""
    connection.execute(text(f"drop schema if exists {_schema(number)} cascade"))


def drop_staged(connection: Connection) -> None:
    """Empties the entered schema of what an earlier validation left."""
    names = [*(f"staged_{kind}" for kind in KINDS), "broken_rows"]
    connection.execute(text(f"drop table if exists {', '.join(names)}"))


def lock_batch(connection: Connection, batch_id: str) -> None:
    """Two runs that work on the same batch at the same moment: the second waits for the first one's transaction."""
    connection.execute(text("select pg_advisory_xact_lock(hashtextextended(:id, 0))"), {"id": batch_id})


def _schema(number: int) -> str:
    return f"landing_{int(number)}"
