"""Rows by the million, as Arrow: COPY into a table, and query results out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
from pyarrow import csv
from sqlalchemy import Connection, Engine, make_url
from sqlalchemy.dialects import postgresql

from recsys_tasks.warehouse.statements import statement

# Quotes only where a value needs them: an empty text and no text are the same to COPY, as they are to ingestion.
_CSV = csv.WriteOptions(include_header=False, quoting_style="needed")


def copy_in(connection: Connection, table: str, rows: Iterable[pa.RecordBatch]) -> int:
    """Appends rows to a table by COPY, inside the connection's transaction; returns how many.

    The next rows are read in a thread while the server takes those before.
    """
    copied = 0
    cursor = connection.connection.cursor()
    coming = iter(rows)
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(_next_text, coming)
        while (found := following.result()) is not None:
            following = reader.submit(_next_text, coming)
            names, count, text = found
            with cursor.copy(f"copy {table} ({', '.join(names)}) from stdin (format csv)") as copy:
                copy.write(text)
            copied += count
    return copied


def _next_text(rows: Iterator[pa.RecordBatch]) -> tuple[list[str], int, bytes] | None:
    batch = next(rows, None)
    if batch is None:
        return None
    text = pa.BufferOutputStream()
    csv.write_csv(batch, text, _CSV)
    return batch.schema.names, batch.num_rows, text.getvalue().to_pybytes()


class ArrowReader:
    """Results of queries as Arrow tables, over one connection of its own; to be used as a context."""

    def __init__(self, engine: Engine) -> None:
        self._url = make_url(engine.url).set(drivername="postgresql").render_as_string(hide_password=False)

    def __enter__(self) -> ArrowReader:
        self._connection = adbc.connect(self._url, autocommit=True)
        with self._connection.cursor() as cursor:
            cursor.execute("set timezone to 'UTC'")
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def provide(self, table: str, rows: pa.Table) -> None:
        """Makes rows a temporary table that the queries of this reader see, in place of an earlier one."""
        with self._connection.cursor() as cursor:
            cursor.execute(f"drop table if exists {table}")
            cursor.adbc_ingest(table, rows, mode="create", temporary=True)

    def read(self, name: str, parameters: Mapping[str, object]) -> pa.Table:
        """The result of the query `sql/<name>.sql`, with its `:names` bound."""
        # ADBC binds by position and knows no names: SQLAlchemy renders the values, quoted its own way.
        query = statement(name).bindparams(**parameters)
        rendered = query.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
        return self.read_sql(str(rendered).replace("%%", "%"))

    def read_sql(self, query: str) -> pa.Table:
        """The result of a query."""
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetch_arrow_table()
