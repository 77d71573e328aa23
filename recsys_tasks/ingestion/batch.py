"""What every source adapter gives: a batch of text rows in canonical columns, and its identity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

import pyarrow as pa

from recsys_tasks.interval import Interval
from recsys_tasks.names import KINDS

_CHUNK = 50_000


@dataclass(frozen=True)
class BadLine:
    """A line or record that could not be turned into a row at all."""

    number: int
    reason: str
    raw: str


@dataclass
class SourceBatch:
    """One unit of ingestion: what a file, or a source's interval, holds.

    `rows` maps a kind (items, users, events) to Arrow batches of `row_number` and that kind's columns as
    text. `columns` (of the file, where it has any) and `bad_lines` are filled while `rows` is read. `on_conflict` says
    whether an event that has the id of another is kept out or replaces it; `live` that the source delivers as things
    happen.
    """

    source: str
    origin: str
    digest: str
    rows: Mapping[str, Iterable[pa.RecordBatch]]
    interval: Interval | None = None
    implies_items: bool = False
    implies_users: bool = False
    on_conflict: str = "keep"
    live: bool = False
    columns: list[str] = field(default_factory=list)
    bad_lines: list[BadLine] = field(default_factory=list)

    @property
    def batch_id(self) -> str:
        """The same for the same content of the same source, whatever the file was called."""
        return f"{self.source}-{self.digest[:20]}"


def schema(kind: str) -> pa.Schema:
    """Arrow schema of a kind's landing rows."""
    return pa.schema([("row_number", pa.int64()), *((name, pa.string()) for name in KINDS[kind])])


def to_record_batches(kind: str, rows: Iterator[dict[str, object]]) -> Iterator[pa.RecordBatch]:
    """Collects row dictionaries into Arrow batches; a column a row lacks is null."""
    wanted = schema(kind)
    while chunk := list(islice(rows, _CHUNK)):
        yield pa.RecordBatch.from_pylist(chunk, schema=wanted)
