"""The state of the loop, and where a recommendation came from."""

from __future__ import annotations

from typing import Any

from recsys_tasks.errors import InputError
from recsys_tasks.warehouse import engine, statement


def status() -> dict[str, Any]:
    """Counts of events, items, users and quarantine, the last snapshot, the champion, feedback lag, and each source."""
    with engine().connect() as connection:
        row = connection.execute(statement("status/status")).one()
        sources = [dict(found._mapping) for found in connection.execute(statement("status/sources"))]
    lag = row.feedback_lag_seconds
    return {
        **row._asdict(),
        "feedback_lag_seconds": None if lag is None else round(float(lag), 1),
        "sources": sources,
    }


def lineage(request_id: str) -> dict[str, object]:
    """From a served recommendation back: its items, model version, run, snapshot, batches and their files.

    Raises:
        InputError: the warehouse has no impression of such a request (yet: feedback is collected now and then).
    """
    with engine().connect() as connection:
        shown = connection.execute(statement("status/lineage"), {"request_id": request_id}).all()
        if not shown:
            raise InputError(
                f"No impression of request {request_id!r} is in the warehouse; was its feedback collected?"
            )
        first = shown[0]
        batches = connection.execute(statement("status/snapshot_batches"), {"snapshot_id": first.snapshot_id}).all()
    return {
        "request_id": request_id,
        "shown_at": first.shown_at,
        "items": [row.item_id for row in shown],
        "model_version": first.model_version,
        "run_id": first.run_id,
        "snapshot_id": first.snapshot_id,
        "cutoff": first.cutoff,
        "batches": [
            {"batch_id": row.batch_id, "source": row.source, "origin": row.origin, "inserted": row.inserted_rows}
            for row in batches
        ],
    }
