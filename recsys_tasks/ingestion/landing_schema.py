"""The landing schema of a batch: one PostgreSQL schema per batch, selected by search path."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, text

from recsys_tasks.names import COLUMNS_BY_KIND
from recsys_tasks.warehouse import run_script

# For large parallel scans and sorts. Casting a row costs more than passing it between workers, and the leader is busy
# gathering rows.
_TUNING = {
    "parallel_tuple_cost": "0.01",
    "parallel_leader_participation": "off",
    "work_mem": "'128MB'",
    "maintenance_work_mem": "'256MB'",
}


def create_landing_schema(connection: Connection, number: int) -> None:
    """Creates an empty landing schema for a batch number and selects it."""
    drop_landing_schema(connection, number)
    connection.execute(text(f"create schema {landing_schema_name(number)}"))
    use_landing_schema(connection, number)
    run_script(connection, "ingestion/create_landing")


def use_landing_schema(connection: Connection, number: int) -> None:
    """Sets the search path and planner settings for the rest of the transaction."""
    connection.execute(text(f"set local search_path = {landing_schema_name(number)}, public"))
    for name, value in _TUNING.items():
        connection.execute(text(f"set local {name} = {value}"))


def drop_landing_schema(connection: Connection, number: int) -> None:
    """Drops the landing schema with its tables, if it exists."""
    connection.execute(text(f"drop schema if exists {landing_schema_name(number)} cascade"))


def drop_staging_tables(connection: Connection) -> None:
    """Drops the tables of an earlier validation, and of a load that it led to, from the selected landing schema."""
    staged = ", ".join(f"staged_{kind}" for kind in COLUMNS_BY_KIND)
    connection.execute(text(f"drop table if exists {staged}, broken_rows, known_events, skipped_events cascade"))
    connection.execute(text("truncate repeated_events"))


def create_landing_views(connection: Connection, kind: str) -> None:
    """Creates the views `staged` and `landed` over a kind's tables, for SQL shared by all kinds."""
    views = {
        "staged": f"select row_number, broken_rules from staged_{kind}",  # noqa: S608
        "landed": f"select row_number, to_jsonb(l) - 'row_number' as raw from landed_{kind} as l",  # noqa: S608
    }
    for name, query in views.items():
        connection.execute(text(f"create or replace view {name} as {query}"))


def find_batch(connection: Connection, batch_id: str) -> Row[Any] | None:
    """Returns the row of `batches` with that id, or None."""
    return connection.execute(text("select * from batches where batch_id = :id"), {"id": batch_id}).one_or_none()


def lock_batch(connection: Connection, batch_id: str) -> None:
    """Serializes transactions on the same batch by an advisory lock."""
    connection.execute(text("select pg_advisory_xact_lock(hashtextextended(:id, 0))"), {"id": batch_id})


def landing_schema_name(number: int) -> str:
    """Returns the name of the landing schema of a batch number."""
    return f"landing_{int(number)}"
