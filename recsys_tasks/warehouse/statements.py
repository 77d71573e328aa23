"""SQL of the `sql/` folder as SQLAlchemy executes it."""

from __future__ import annotations

from sqlalchemy import Connection, TextClause, text

from recsys_tasks.sql_files import source


def statement(name: str) -> TextClause:
    """`sql/<name>.sql` as an executable statement; its `:names` are bound parameters."""
    return text(source(name))


def run_script(connection: Connection, name: str) -> None:
    """Executes every statement of `sql/<name>.sql`, which has no parameters."""
    connection.connection.cursor().execute(source(name))
