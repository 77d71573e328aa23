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
from recsys_tasks.warehouse import engine


def build_features(cutoff: datetime | None = None, known: int | None = None) -> Snapshot:
    """Builds the snapshot as of `cutoff`, or of everything there is, by what was `known` then, or all that is now."""
    chosen = settings()
    parameters = SnapshotParameters(
        chosen.validation_share, chosen.test_share, chosen.min_item_events, chosen.max_held_out_sessions
    )
    return build_snapshot(engine(), chosen.snapshots, parameters, cutoff, known)


def snapshot(snapshot_id: str | None = None) -> Snapshot:
    """The snapshot of that id, or the latest."""
    return find_snapshot(engine(), settings().snapshots, snapshot_id)
