"""Bulk transfer of Arrow data: COPY into a table, and query results as Arrow tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
from pyarrow import csv
from sqlalchemy import Connection, Engine, make_url
from sqlalchemy.dialects import postgresql

from recsys_tasks.warehouse.statements import statement

# Quotes only where a value needs them: COPY then reads empty text as null, as ingestion does.
_CSV = csv.WriteOptions(include_header=False, quoting_style="needed")


def copy_rows(connection: Connection, table: str, rows: Iterable[pa.RecordBatch]) -> int:
    """Appends rows to a table by COPY, inside the connection's transaction; returns the number of rows.

    A thread encodes the next batch while the server receives the current one.
    """
    num_rows = 0
    cursor = connection.connection.cursor()
    batches = iter(rows)
    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(_encode_next_batch, batches)
        while (encoded := pending.result()) is not None:
            pending = reader.submit(_encode_next_batch, batches)
            names, count, text = encoded
            with cursor.copy(f"copy {table} ({', '.join(names)}) from stdin (format csv)") as copy:
                copy.write(text)
            num_rows += count
    return num_rows


def _encode_next_batch(rows: Iterator[pa.RecordBatch]) -> tuple[list[str], int, bytes] | None:
    batch = next(rows, None)
    if batch is None:
        return None
    text = pa.BufferOutputStream()
    csv.write_csv(batch, text, _CSV)
    return batch.schema.names, batch.num_rows, text.getvalue().to_pybytes()


class ArrowReader:
    """Context manager that returns query results as Arrow tables, over its own connection."""

    def __init__(self, engine: Engine) -> None:
        self._url = make_url(engine.url).set(drivername="postgresql").render_as_string(hide_password=False)

    def __enter__(self) -> ArrowReader:
        self._connection = adbc.connect(self._url, autocommit=True)
        with self._connection.cursor() as cursor:
            cursor.execute("set timezone to 'UTC'")
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def create_temporary_table(self, table: str, rows: pa.Table) -> None:
        """Creates or replaces a temporary table that later queries of this reader can read."""
        with self._connection.cursor() as cursor:
            cursor.execute(f"drop table if exists {table}")
            cursor.adbc_ingest(table, rows, mode="create", temporary=True)

    def read(self, name: str, parameters: Mapping[str, object]) -> pa.Table:
        """The result of the query `sql/<name>.sql`, with its `:names` bound."""
        # ADBC binds by position only, so SQLAlchemy renders the named parameters as quoted literals.
        query = statement(name).bindparams(**parameters)
        rendered = query.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
        return self.read_sql(str(rendered).replace("%%", "%"))

    def read_sql(self, query: str) -> pa.Table:
        """The result of a query."""
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetch_arrow_table()
