"""Text of the SQL files: in `sql/` beside the package in a checkout, inside the package when installed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent
SQL_ROOT = next(folder for folder in (_PACKAGE.parent / "sql", _PACKAGE / "sql") if folder.is_dir())


@cache
def load_sql(name: str) -> str:
    """Returns the text of `sql/<name>.sql`."""
    return (SQL_ROOT / f"{name}.sql").read_text(encoding="utf-8")
