"""The PostgreSQL warehouse: its engine, migrations, bulk copies in and Arrow out."""

from recsys_tasks.warehouse.bulk import ArrowReader, copy_in
from recsys_tasks.warehouse.engine import answering, database_url, engine
from recsys_tasks.warehouse.migrations import migrate
from recsys_tasks.warehouse.statements import run_script, statement

__all__ = ["ArrowReader", "answering", "copy_in", "database_url", "engine", "migrate", "run_script", "statement"]
