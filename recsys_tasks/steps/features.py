"""The warehouse's events into snapshots."""

from __future__ import annotations

from datetime import datetime

from recsys_tasks.features.snapshot import (
    Snapshot,
    SnapshotParameters,
    build_snapshot,
    find_snapshot,
)
from recsys_tasks.settings import settings
from recsys_tasks.warehouse import engine, statement


def build_features(cutoff: datetime | None = None, as_of_change: int | None = None) -> Snapshot:
    """Builds the snapshot as of a cut-off (default: now) and a change of the warehouse (default: the latest)."""
    chosen = settings()
    parameters = SnapshotParameters(
        chosen.validation_share, chosen.test_share, chosen.min_item_events, chosen.max_held_out_sessions
    )
    return build_snapshot(engine(), chosen.snapshots, parameters, cutoff, as_of_change)


def has_unbuilt_changes() -> bool:
    """Whether the warehouse has changes that no snapshot includes."""
    with engine().connect() as connection:
        return bool(connection.scalar(statement("features/unbuilt_changes")))


def snapshot(snapshot_id: str | None = None) -> Snapshot:
    """Returns the snapshot of that id, by default the latest."""
    return find_snapshot(engine(), settings().snapshots, snapshot_id)
