"""Replay of quarantined rows: builds new batches from rows whose cause was fixed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import pyarrow as pa
from sqlalchemy import Engine, Row, text

from recsys_tasks.ingestion.batch import REPLAY_ORIGIN, SourceBatch, to_record_batches
from recsys_tasks.ingestion.contract import Contract
from recsys_tasks.ingestion.quarantine import ALL_ROWS, QuarantineFilter, RowKey
from recsys_tasks.names import COLUMNS_BY_KIND
from recsys_tasks.warehouse import statement


@dataclass(frozen=True)
class ReplayBatch:
    """A new batch of quarantined rows; `origin` is their original batch id, `row_numbers` are theirs by kind."""

    batch: SourceBatch
    origin: str
    row_numbers: dict[str, list[int]]


def build_replay_batches(
    engine: Engine, selected: QuarantineFilter = ALL_ROWS, keys: Collection[RowKey] | None = None
) -> list[ReplayBatch]:
    """Builds a new batch of the unresolved quarantined rows for each original batch.

    Excludes rows of forgotten users and unparseable lines. Before replaying, correct a row, or ingest what it lacked,
    for example its item.

    Args:
        engine: the warehouse.
        selected: which rows.
        keys: only these of them; None for all.
    """
    with engine.connect() as connection:
        rows = connection.execute(statement("ingestion/open_quarantine"), vars(selected)).all()
    if keys is not None:
        rows = [row for row in rows if (row.batch_id, row.kind, row.row_number) in keys]
    rows_by_batch: dict[str, list[Row[tuple[object, ...]]]] = {}
    for row in rows:
        rows_by_batch.setdefault(row.batch_id, []).append(row)
    return [_build_replay_batch(origin, batch_rows) for origin, batch_rows in rows_by_batch.items()]


def mark_resolved(engine: Engine, replay: ReplayBatch) -> int:
    """Marks the rows of a loaded replay as resolved; rows that still fail are quarantined under the new batch id.

    Held copies of replayed conflicts stay hidden, as the replay's batch has these events now.
    """
    with engine.begin() as connection:
        connection.execute(
            text(
                "update held_events set superseded_by = replayed.number from batches as origin, batches as replayed"
                " where held_events.batch = origin.number and origin.batch_id = :origin"
                " and replayed.batch_id = :replay and held_events.reason = 'conflict'"
                " and held_events.row_number = any(:numbers)"
            ),
            {
                "origin": replay.origin,
                "replay": replay.batch.batch_id,
                "numbers": replay.row_numbers.get("events", []),
            },
        )
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


def _build_replay_batch(origin: str, rows: list[Row[tuple[object, ...]]]) -> ReplayBatch:
    rows_by_kind = {kind: [row for row in rows if row.kind == kind] for kind in COLUMNS_BY_KIND}
    rows_by_kind = {kind: kind_rows for kind, kind_rows in rows_by_kind.items() if kind_rows}
    first = rows[0]
    # The digest covers the rows and the number of earlier replays, so that a restarted run continues the same batch.
    digest = hashlib.sha256(repr([(origin, row.kind, row.row_number, row.raw) for row in rows]).encode())
    digest.update(str(first.replays).encode())
    batch = SourceBatch(
        source=first.source,
        origin=f"{REPLAY_ORIGIN}{origin}",
        digest=digest.hexdigest(),
        rows={kind: _to_landing_rows(kind, kind_rows) for kind, kind_rows in rows_by_kind.items()},
        implies_items=first.implies_items,
        implies_users=first.implies_users,
        on_conflict=first.on_conflict,
        contract=first.contract and (first.contract["kind"], Contract.model_validate(first.contract["contract"])),
    )
    return ReplayBatch(
        batch, origin, {kind: [row.row_number for row in kind_rows] for kind, kind_rows in rows_by_kind.items()}
    )


def _to_landing_rows(kind: str, rows: list[Row[tuple[object, ...]]]) -> Iterator[pa.RecordBatch]:
    return to_record_batches(kind, ({"row_number": row.row_number, **row.raw} for row in rows))
