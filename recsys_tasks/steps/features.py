"""The warehouse's events into snapshots."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from recsys_tasks.features.event_weights import load_event_weights
from recsys_tasks.features.snapshot import (
    Snapshot,
    SnapshotParameters,
    build_snapshot,
    find_snapshot,
)
from recsys_tasks.interval import Interval
from recsys_tasks.settings import settings
from recsys_tasks.warehouse import engine, statement


def build_features(cutoff: datetime | None = None, as_of_change: int | None = None) -> Snapshot:
    """Builds the snapshot as of a cut-off (default: now) and a change of the warehouse (default: the latest)."""
    chosen = settings()
    parameters = SnapshotParameters(
        chosen.validation_share,
        chosen.test_share,
        chosen.min_item_events,
        chosen.max_held_out_sessions,
        load_event_weights(chosen.event_weights),
    )
    return build_snapshot(engine(), chosen.snapshots, parameters, cutoff, as_of_change)


def rebuild_day(day: date) -> Snapshot:
    """Builds the snapshot as of the end of a day (UTC)."""
    return build_features(Interval.of_day(day).end)


def last_day(snapshot: Snapshot) -> date:
    """Returns the last day (UTC) of which a snapshot has events."""
    return (snapshot.cutoff - timedelta(microseconds=1)).astimezone(UTC).date()


def unbuilt_days() -> list[date]:
    """Returns the days (UTC) with changes that no snapshot without an explicit cutoff includes, sorted."""
    with engine().connect() as connection:
        return list(connection.scalars(statement("features/unbuilt_days")))


def has_unbuilt_changes() -> bool:
    """Whether the warehouse has changes that no snapshot without an explicit cutoff includes."""
    with engine().connect() as connection:
        return bool(connection.scalar(statement("features/unbuilt_changes")))


def snapshot(snapshot_id: str | None = None) -> Snapshot:
    """Returns the snapshot of that id, by default the latest."""
    return find_snapshot(engine(), settings().snapshots, snapshot_id)
