"""The warehouse schema as a Markdown page, generated from the catalog of a migrated database.

`python -m recsys_tasks.warehouse.schema_docs [FILE]` writes it, by default to `docs/schema.md`.
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from sqlalchemy import Connection

from recsys_tasks.warehouse.engine import engine
from recsys_tasks.warehouse.statements import statement

_DEFAULT = Path("docs/schema.md")
_HEAD = """# Warehouse schema

Generated from the migrations in `sql/schema/` by `python -m recsys_tasks.warehouse.schema_docs`; the comments are in
the database, too (`COMMENT ON`), so that any client shows them. All times are UTC.
"""


def schema_page(connection: Connection) -> str:
    """Returns the page: every table, view and function with its comment, every column with its type and comment."""
    parts = [_HEAD]
    rows = connection.execute(statement("warehouse/schema_columns")).all()
    for (kind, name, comment), columns in groupby(rows, key=lambda row: (row.kind, row.name, row.comment)):
        parts.append(f"## {name}\n\n*{kind}* – {comment}\n\n| Column | Type | Meaning |\n| --- | --- | --- |")
        parts += [f"| `{row.column_name}` | {row.column_type} | {row.column_comment or ''} |" for row in columns]
        parts.append("")
    parts.append("## Functions\n\n| Function | Meaning |\n| --- | --- |")
    functions = connection.execute(statement("warehouse/schema_functions")).all()
    parts += [f"| `{row.signature}` | {row.comment} |" for row in functions]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Writes the page of the configured warehouse."""
    path = Path(sys.argv[1]) if sys.argv[1:] else _DEFAULT
    with engine().connect() as connection:
        path.write_text(schema_page(connection), encoding="utf-8")


if __name__ == "__main__":
    main()
