"""Status of the pipeline, and lineage of a recommendation."""

from __future__ import annotations

from typing import Any

from recsys_tasks.errors import InputError
from recsys_tasks.warehouse import engine, statement


def status() -> dict[str, Any]:
    """Returns counts of events, items, users and quarantine, last snapshot, champion, feedback lag and sources."""
    with engine().connect() as connection:
        row = connection.execute(statement("status/status")).one()
        sources = [dict(source._mapping) for source in connection.execute(statement("status/sources"))]
    lag = row.feedback_lag_seconds
    return {
        **row._asdict(),
        "feedback_lag_seconds": None if lag is None else round(float(lag), 1),
        "sources": sources,
    }


def lineage(request_id: str) -> dict[str, object]:
    """Returns the lineage of a served list: its items, model version, run, snapshot, and batches with their files.

    Raises:
        InputError: the warehouse has no impression of the request, perhaps because it is not collected yet.
    """
    with engine().connect() as connection:
        impressions = connection.execute(statement("status/lineage"), {"request_id": request_id}).all()
        if not impressions:
            raise InputError(
                f"The warehouse has no impression of request {request_id!r}; collect feedback, or check the id"
            )
        first = impressions[0]
        batches = connection.execute(statement("status/snapshot_batches"), {"snapshot_id": first.snapshot_id}).all()
    return {
        "request_id": request_id,
        "shown_at": first.shown_at,
        "items": [row.item_id for row in impressions],
        "model_version": first.model_version,
        "run_id": first.run_id,
        "snapshot_id": first.snapshot_id,
        "cutoff": first.cutoff,
        "batches": [
            {"batch_id": row.batch_id, "source": row.source, "origin": row.origin, "inserted": row.inserted_rows}
            for row in batches
        ],
    }
