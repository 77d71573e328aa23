"""The PostgreSQL warehouse: engine, migrations, bulk COPY and queries as Arrow tables."""

from recsys_tasks.warehouse.bulk import ArrowReader, copy_rows
from recsys_tasks.warehouse.engine import database_url, engine, raises_unavailable
from recsys_tasks.warehouse.migrations import migrate
from recsys_tasks.warehouse.statements import run_script, statement

__all__ = [
    "ArrowReader",
    "copy_rows",
    "database_url",
    "engine",
    "migrate",
    "raises_unavailable",
    "run_script",
    "statement",
]
