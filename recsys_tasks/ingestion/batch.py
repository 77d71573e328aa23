"""`SourceBatch`: the output of every source adapter, text rows in canonical columns with a batch id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import pyarrow as pa

from recsys_tasks.ingestion.contract import Contract
from recsys_tasks.interval import Interval
from recsys_tasks.names import COLUMNS_BY_KIND

REPLAY_ORIGIN: Final = "quarantine of "
_ROWS_PER_BATCH = 50_000


@dataclass(frozen=True)
class BadLine:
    """A line or record that cannot be parsed as a row; `number` is its line (1-based)."""

    number: int
    reason: str
    raw: str


@dataclass
class SourceBatch:
    """One unit of ingestion: the content of a file, or of a source's interval.

    Attributes:
        source: name of the source.
        origin: file path or other description of where the rows come from.
        digest: hash of the content; identifies the batch.
        rows: Arrow batches by kind (items, users, events): `row_number` and the kind's columns as text.
        interval: time range the batch covers, if known.
        implies_items, implies_users: events may create unknown items or users.
        on_conflict: `keep` the stored event or `replace` it when another event has the same id.
        live: the source delivers events as they happen.
        expected_every_hours: hours within which the source delivers again; None for no promise.
        contract: constraints on the rows of a kind, with that kind; None for none.
        columns: column names of the file; filled while `rows` is read.
        bad_lines: unparseable lines; filled while `rows` is read.
        warnings: what a person should look at; filled while `rows` is read.
        ignored_rows: number of events of types that the mapping ignores; counted while `rows` is read.
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
    expected_every_hours: float | None = None
    contract: tuple[str, Contract] | None = None
    columns: list[str] = field(default_factory=list)
    bad_lines: list[BadLine] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    ignored_rows: int = 0

    @property
    def is_replay(self) -> bool:
        """Whether the rows come from quarantine, not from the source."""
        return is_replay(self.origin)

    @property
    def batch_id(self) -> str:
        """Content-addressed id: independent of the file's name."""
        return f"{self.source}-{self.digest[:20]}"


def is_replay(origin: str) -> bool:
    """Whether a batch of that origin has rows of quarantine."""
    return origin.startswith(REPLAY_ORIGIN)


def landing_arrow_schema(kind: str) -> pa.Schema:
    """Arrow schema of the landing rows of a kind."""
    return pa.schema([("row_number", pa.int64()), *((name, pa.string()) for name in COLUMNS_BY_KIND[kind])])


def to_record_batches(kind: str, rows: Iterator[dict[str, object]]) -> Iterator[pa.RecordBatch]:
    """Collects row dictionaries into Arrow batches; missing columns are null."""
    arrow_schema = landing_arrow_schema(kind)
    while chunk := list(islice(rows, _ROWS_PER_BATCH)):
        yield pa.RecordBatch.from_pylist(chunk, schema=arrow_schema)
