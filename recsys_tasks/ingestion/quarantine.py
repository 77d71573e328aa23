"""Summary, export and correction of quarantined rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import Engine

from recsys_tasks.errors import InputError
from recsys_tasks.ingestion.flat_files import as_text
from recsys_tasks.names import COLUMNS_BY_KIND, UNREADABLE_LINES
from recsys_tasks.warehouse import raises_unavailable, statement

RowKey = tuple[str, str, int]
"""Batch id, kind and row number of a quarantined row."""


@dataclass(frozen=True)
class QuarantineFilter:
    """Selects open quarantined rows; None selects all."""

    source: str | None = None
    batch_id: str | None = None
    rule: str | None = None


ALL_ROWS: Final = QuarantineFilter()


class QuarantinedRow(msgspec.Struct, omit_defaults=True):
    """A quarantined row, as exported: correct `row`, leave the other fields.

    Attributes:
        batch_id, kind, row_number: which row it is.
        row: text values of the canonical columns; of a line that is no row, its text.
        rules, reasons: what was wrong.
        origin: file of the row.
    """

    batch_id: str
    kind: str
    row_number: int
    row: dict[str, Any] | str
    rules: list[str] = []
    reasons: list[str] = []
    origin: str = ""

    @property
    def key(self) -> RowKey:
        """Identifies the row."""
        return self.batch_id, self.kind, self.row_number


@raises_unavailable
def summarize(engine: Engine, selected: QuarantineFilter) -> list[dict[str, Any]]:
    """Returns the number of open rows by source, status of their batches, and rule, with an example value."""
    with engine.connect() as connection:
        rows = connection.execute(statement("ingestion/quarantine_summary"), vars(selected)).mappings()
        return [dict(row) for row in rows]


@raises_unavailable
def read_rows(
    engine: Engine, selected: QuarantineFilter, limit: int | None = None, only_replayable: bool = False
) -> list[QuarantinedRow]:
    """Returns open rows, at most `limit`; only those that a replay loads if asked."""
    values = {**vars(selected), "row_limit": limit, "only_replayable": only_replayable}
    with engine.connect() as connection:
        rows = connection.execute(statement("ingestion/read_quarantine"), values)
        return [
            QuarantinedRow(
                row.batch_id, row.kind, row.row_number, _without_nulls(row.raw), row.rules, row.reasons, row.origin
            )
            for row in rows
        ]


def write_rows(rows: list[QuarantinedRow], path: Path) -> None:
    """Writes rows to a JSONL file."""
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def read_corrections(path: Path) -> list[QuarantinedRow]:
    """Reads a file of `write_rows` that a person corrected.

    Raises:
        InputError: the file cannot be read, or a line is no corrected row; names the line. A line that was no row
            cannot be corrected here.
    """
    try:
        return list(_decode(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


@raises_unavailable
def correct(engine: Engine, rows: list[QuarantinedRow]) -> None:
    """Replaces quarantined rows by corrected ones, all or none. They stay in quarantine until a replay.

    Raises:
        InputError: a row is not, or no longer, in quarantine.
    """
    with engine.begin() as connection:
        for row in rows:
            values = {"batch_id": row.batch_id, "kind": row.kind, "row_number": row.row_number}
            raw = msgspec.json.encode(row.row).decode()
            if not connection.execute(statement("ingestion/correct_quarantined"), {**values, "raw": raw}).rowcount:
                raise InputError(
                    f"Row {row.row_number} ({row.kind}) of batch {row.batch_id} is not in quarantine, was resolved, or"
                    " its batch is not loaded. Nothing was imported; export again"
                )


def _decode(path: Path) -> Iterator[QuarantinedRow]:
    decode = msgspec.json.Decoder(QuarantinedRow).decode
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = decode(line)
        except msgspec.MsgspecError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
        if row.kind == UNREADABLE_LINES:
            raise InputError(
                f"{path}, line {number}: the quarantined line is no row; correct it in its file and ingest that again"
            )
        columns = COLUMNS_BY_KIND.get(row.kind, ())
        if not isinstance(row.row, dict):
            raise InputError(f"{path}, line {number}: `row` is not an object")
        unknown = sorted(set(row.row) - set(columns))
        if unknown:
            raise InputError(f"{path}, line {number}: {', '.join(unknown)} is not a column of {row.kind}")
        yield msgspec.structs.replace(row, row={name: as_text(row.row.get(name)) for name in columns})


def _without_nulls(raw: Any) -> Any:
    if not isinstance(raw, Mapping):
        return raw
    return {name: value for name, value in raw.items() if value is not None}
