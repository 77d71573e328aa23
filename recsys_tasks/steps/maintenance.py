"""Retention and statistics."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from recsys_tasks.features.retention import drop_snapshots
from recsys_tasks.ingestion.retention import Dropped, drop_old, refresh_statistics
from recsys_tasks.settings import settings
from recsys_tasks.warehouse import engine


@dataclass(frozen=True)
class Maintained(Dropped):
    """What went, or would go: of the warehouse, and how many snapshots."""

    snapshots: int


def maintain(*, dry_run: bool = False) -> Maintained:
    """Drops what the settings `keep_…` no longer keep and refreshes the statistics that queries are planned by."""
    chosen = settings()
    dropped = drop_old(
        engine(),
        chosen.earliest_event_time,
        timedelta(days=chosen.quarantine_retention_days),
        timedelta(hours=chosen.shared_state_retention_hours),
        dry_run=dry_run,
    )
    keep = timedelta(days=chosen.snapshot_retention_days)
    snapshots = drop_snapshots(engine(), chosen.snapshots, keep, dry_run=dry_run)
    if not dry_run:
        from recsys_tasks.validation.expectations import forget_results  # takes seconds to import

        forget_results(chosen.validation_home, datetime.now(UTC) - timedelta(days=chosen.quarantine_retention_days))
        refresh_statistics(engine())
    return Maintained(**asdict(dropped), snapshots=snapshots)
