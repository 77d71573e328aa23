"""Rows by the million, as Arrow: COPY into a table, and query results out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
from pyarrow import csv
from sqlalchemy import Connection, Engine, make_url
from sqlalchemy.dialects import postgresql

from recsys_tasks.warehouse.statements import statement

# Every value in quotes and nulls without: how COPY tells an empty text from no text.
_CSV = csv.WriteOptions(include_header=False, quoting_style="all_valid")


def copy_in(connection: Connection, table: str, rows: Iterable[pa.RecordBatch]) -> int:
    """Appends rows to a table by COPY, inside the connection's transaction; returns how many."""
    copied = 0
    cursor = connection.connection.cursor()
    for batch in rows:
        columns = ", ".join(batch.schema.names)
        text = pa.BufferOutputStream()
        csv.write_csv(batch, text, _CSV)
        with cursor.copy(f"copy {table} ({columns}) from stdin (format csv)") as copy:
            copy.write(text.getvalue())
        copied += batch.num_rows
    return copied


def read_arrow(engine: Engine, name: str, parameters: Mapping[str, object]) -> pa.Table:
    """The result of the query `sql/<name>.sql`, with its `:names` bound, as an Arrow table."""
    # ADBC binds by position and knows no names: SQLAlchemy renders the values, quoted its own way.
    query = statement(name).bindparams(**parameters)
    rendered = query.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
    url = make_url(engine.url).set(drivername="postgresql").render_as_string(hide_password=False)
    with adbc.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("set timezone to 'UTC'")
        cursor.execute(str(rendered).replace("%%", "%"))
        return cursor.fetch_arrow_table()
