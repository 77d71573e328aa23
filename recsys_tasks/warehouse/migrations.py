"""Forward-only schema migrations: applies each file of `sql/schema/` once, in the order of its number."""

from __future__ import annotations

import logging

from sqlalchemy import Engine, text

from recsys_tasks.sql_files import SQL_ROOT
from recsys_tasks.warehouse.statements import run_script

log = logging.getLogger(__name__)
_LOCK = 7_236_101  # arbitrary advisory lock key, the same in every process


def migrate(engine: Engine) -> list[str]:
    """Applies pending migrations in one transaction; returns the names of the applied files.

    Concurrent calls wait for each other on an advisory lock.
    """
    applied = []
    with engine.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        connection.execute(
            text(
                "create table if not exists schema_migrations"
                " (name text primary key, applied_at timestamptz not null default now())"
            )
        )
        applied_before = set(connection.scalars(text("select name from schema_migrations")))
        for path in sorted((SQL_ROOT / "schema").glob("*.sql")):
            if path.stem in applied_before:
                continue
            run_script(connection, f"schema/{path.stem}")
            connection.execute(text("insert into schema_migrations (name) values (:name)"), {"name": path.stem})
            applied.append(path.stem)
    if applied:
        log.info("Applied migrations: %s", ", ".join(applied))
    return applied
