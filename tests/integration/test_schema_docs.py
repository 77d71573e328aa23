"""The schema page and the comments in the database."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine

from recsys_tasks.warehouse import statement
from recsys_tasks.warehouse.schema_docs import schema_page

PAGE = Path(__file__).parents[2] / "docs" / "schema.md"


def test_the_schema_page_is_what_the_migrations_make(warehouse: Engine) -> None:
    with warehouse.connect() as connection:
        assert PAGE.read_text(encoding="utf-8") == schema_page(connection), (
            "docs/schema.md is out of date: run python -m recsys_tasks.warehouse.schema_docs"
        )


def test_every_table_column_and_function_has_a_comment(warehouse: Engine) -> None:
    with warehouse.connect() as connection:
        columns = connection.execute(statement("warehouse/schema_columns")).all()
        functions = connection.execute(statement("warehouse/schema_functions")).all()
    assert [f"{row.name}.{row.column_name}" for row in columns if not (row.comment and row.column_comment)] == []
    assert [row.signature for row in functions if not row.comment] == []
