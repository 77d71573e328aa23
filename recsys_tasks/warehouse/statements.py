"""Reads SQL from the `sql/` folder: beside the package in a checkout, inside it when installed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sqlalchemy import Connection, TextClause, text

_PACKAGE = Path(__file__).parent.parent
SQL_ROOT = next(folder for folder in (_PACKAGE.parent / "sql", _PACKAGE / "sql") if folder.is_dir())


@cache
def source(name: str) -> str:
    """The text of `sql/<name>.sql`."""
    return (SQL_ROOT / f"{name}.sql").read_text(encoding="utf-8")


def statement(name: str) -> TextClause:
    """`sql/<name>.sql` as an executable statement; its `:names` are bound parameters."""
    return text(source(name))


def run_script(connection: Connection, name: str) -> None:
    """Executes every statement of `sql/<name>.sql`, which has no parameters."""
    connection.connection.cursor().execute(source(name))
