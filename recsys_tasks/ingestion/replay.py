"""Quarantined rows once more through validation, after what was wrong has been mended."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
from sqlalchemy import Engine, Row, text

from recsys_tasks.ingestion.batch import SourceBatch, to_record_batches
from recsys_tasks.names import KINDS
from recsys_tasks.warehouse import statement


@dataclass(frozen=True)
class Replay:
    """Quarantined rows of a batch, their numbers by kind, and the new batch that is made of them."""

    batch: SourceBatch
    origin: str
    row_numbers: dict[str, list[int]]


def quarantined_rows(
    engine: Engine, *, source: str | None = None, batch_id: str | None = None, rule: str | None = None
) -> list[Replay]:
    """The open rows of quarantine, as a new batch for each one they came in.

    Rows of forgotten users, and lines that could not be read at all, are not among them: there is nothing to replay.
    Mend a row by updating its `raw` in the table `quarantine`, or what it lacked (an item, say) by ingesting that.
    """
    chosen = {"source": source, "batch_id": batch_id, "rule": rule}
    with engine.connect() as connection:
        rows = connection.execute(statement("ingestion/open_quarantine"), chosen).all()
    of_batch: dict[str, list[Row[tuple[object, ...]]]] = {}
    for row in rows:
        of_batch.setdefault(row.batch_id, []).append(row)
    return [_replay(origin, found) for origin, found in of_batch.items()]


def resolve(engine: Engine, replay: Replay) -> int:
    """Closes the rows of a replay that was loaded; those still bad are open under its own batch's id."""
    with engine.begin() as connection:
        return sum(
            connection.execute(
                text(
                    "update quarantine set resolved_at = now() where batch_id = :origin and resolved_at is null"
                    " and kind = :kind and row_number = any(:numbers)"
                ),
                {"origin": replay.origin, "kind": kind, "numbers": numbers},
            ).rowcount
            for kind, numbers in replay.row_numbers.items()
        )


def _replay(origin: str, rows: list[Row[tuple[object, ...]]]) -> Replay:
    of_kind = {kind: [row for row in rows if row.kind == kind] for kind in KINDS}
    of_kind = {kind: found for kind, found in of_kind.items() if found}
    first = rows[0]
    # Known by what is replayed and how often that was tried, so that a run that was killed goes on with its batch.
    digest = hashlib.sha256(repr([(origin, row.kind, row.row_number, row.raw) for row in rows]).encode())
    digest.update(str(first.replays).encode())
    batch = SourceBatch(
        source=first.source,
        origin=f"quarantine of {origin}",
        digest=digest.hexdigest(),
        rows={kind: _landed(kind, found) for kind, found in of_kind.items()},
        implies_items=first.implies_items,
        implies_users=first.implies_users,
        on_conflict=first.on_conflict,
    )
    return Replay(batch, origin, {kind: [row.row_number for row in found] for kind, found in of_kind.items()})


def _landed(kind: str, rows: list[Row[tuple[object, ...]]]) -> Iterator[pa.RecordBatch]:
    return to_record_batches(kind, ({"row_number": row.row_number, **row.raw} for row in rows))
