"""The PostgreSQL warehouse: its engine, migrations, bulk copies in and Arrow out."""

from recsys_tasks.warehouse.bulk import copy_in, read_arrow
from recsys_tasks.warehouse.engine import database_url, engine
from recsys_tasks.warehouse.migrations import migrate
from recsys_tasks.warehouse.statements import statement

__all__ = ["copy_in", "database_url", "engine", "migrate", "read_arrow", "statement"]
