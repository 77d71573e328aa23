"""Retention: drops expired warehouse data and refreshes planner statistics."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, text

from recsys_tasks.ingestion.landing_schema import drop_landing_schema
from recsys_tasks.ingestion.month_partitions import partition_name
from recsys_tasks.warehouse import statement

log = logging.getLogger(__name__)
_DAILY_TABLES = ("batch_days", "feature_partitions", "request_outcomes", "outcome_days", "bot_visitors")
_MAX_LANDING_AGE = timedelta(days=7)  # landings that were not loaded by then are stale


@dataclass(frozen=True)
class RetentionReport:
    """What retention dropped: monthly partitions, and counts of quarantined rows, stale landing schemas and
    `live_events` rows (user actions shared between endpoints)."""

    months: list[str]
    quarantined: int
    landing_schemas: int
    live_events: int


def drop_expired(
    engine: Engine,
    retention_start: datetime,
    quarantine_retention: timedelta,
    live_event_retention: timedelta,
    *,
    dry_run: bool = False,
) -> RetentionReport:
    """Drops months of events before `retention_start`, expired quarantine rows and shared actions, and stale landings.

    Drops only whole months, each as one partition with its rows in the daily tables. `dry_run` rolls everything back.
    """
    with engine.begin() as connection:
        months = _list_expired_months(connection, retention_start)
        quarantined = connection.execute(
            statement("maintenance/drop_quarantine"), {"keep": quarantine_retention}
        ).rowcount
        live_events = connection.execute(
            statement("maintenance/drop_live_events"), {"keep": live_event_retention}
        ).rowcount
        landing_schemas = _drop_stale_landing_schemas(connection)
        connection.execute(
            text("delete from held_events where event_time < date_trunc('month', cast(:start as timestamptz), 'UTC')"),
            {"start": retention_start},
        )
        for month in months:
            connection.execute(text(f"drop table {month}"))
            first = f"{month.removeprefix('events_').replace('_', '-')}-01"
            for table in _DAILY_TABLES:
                connection.execute(
                    text(
                        f"delete from {table} where day >= cast(:first as date)"  # noqa: S608
                        " and day < cast(:first as date) + interval '1 month'"
                    ),
                    {"first": first},
                )
        if dry_run:
            connection.rollback()
    report = RetentionReport(months, quarantined, landing_schemas, live_events)
    log.info("%s %s", "Would drop" if dry_run else "Dropped", report)
    return report


def refresh_statistics(engine: Engine) -> None:
    """Vacuums and analyzes the main tables; autovacuum never analyzes a partitioned table as a whole."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in (
            "events",
            "held_events",
            "batches",
            "batch_days",
            "item_versions",
            "user_versions",
            "quarantine",
            "feature_partitions",
            "request_outcomes",
        ):
            connection.execute(text(f"vacuum (analyze) {table}"))


def _list_expired_months(connection: Connection, retention_start: datetime) -> list[str]:
    """Returns the names of the monthly partitions that end before a time."""
    names = connection.scalars(
        text("select relid::regclass::text from pg_partition_tree('events') where isleaf order by 1")
    ).all()
    return [name for name in names if name < partition_name(retention_start)]


def _drop_stale_landing_schemas(connection: Connection) -> int:
    numbers = connection.scalars(statement("maintenance/stale_landing_schemas"), {"waiting": _MAX_LANDING_AGE}).all()
    for number in numbers:
        drop_landing_schema(connection, number)
    return len(numbers)
