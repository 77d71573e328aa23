"""SQLAlchemy statements from the files of the `sql/` folder."""

from __future__ import annotations

from sqlalchemy import Connection, TextClause, text

from recsys_tasks.sql_files import load_sql


def statement(name: str) -> TextClause:
    """`sql/<name>.sql` as an executable statement; its `:names` are bound parameters."""
    return text(load_sql(name))


def run_script(connection: Connection, name: str) -> None:
    """Executes all statements of `sql/<name>.sql`; the file must have no parameters."""
    connection.connection.cursor().execute(load_sql(name))
