"""Maintenance of the warehouse: retention and planner statistics."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from recsys_tasks.features.retention import drop_snapshots
from recsys_tasks.ingestion.retention import RetentionReport, drop_expired, refresh_statistics
from recsys_tasks.settings import settings
from recsys_tasks.warehouse import engine

_MAX_WRITING = timedelta(days=1)


@dataclass(frozen=True)
class MaintenanceReport(RetentionReport):
    """Dropped parts of the warehouse and number of dropped snapshots; in a dry run, what would be dropped."""

    snapshots: int


def maintain(*, dry_run: bool = False) -> MaintenanceReport:
    """Drops data past its retention (settings `…_retention_…`), and refreshes the planner statistics."""
    configured = settings()
    dropped = drop_expired(
        engine(),
        configured.earliest_event_time,
        timedelta(days=configured.quarantine_retention_days),
        timedelta(hours=configured.shared_state_retention_hours),
        dry_run=dry_run,
    )
    keep = timedelta(days=configured.snapshot_retention_days)
    snapshots = drop_snapshots(engine(), configured.snapshots, keep, dry_run=dry_run)
    if not dry_run:
        from recsys_tasks.validation.expectations import delete_old_results  # slow import (seconds)

        delete_old_results(
            configured.validation_home, datetime.now(UTC) - timedelta(days=configured.quarantine_retention_days)
        )
        for folder in (
            *(configured.snapshots, configured.checkpoints, configured.text_vectors),
            *(configured.validation_home, configured.fetched_feedback),
        ):
            folder.remove_unfinished(datetime.now(UTC) - _MAX_WRITING)
        refresh_statistics(engine())
    return MaintenanceReport(**asdict(dropped), snapshots=snapshots)
