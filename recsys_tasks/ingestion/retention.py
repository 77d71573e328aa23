"""What the warehouse no longer needs, and its statistics."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, text

from recsys_tasks.ingestion.landing_schema import drop_landing
from recsys_tasks.ingestion.month_partitions import partition
from recsys_tasks.warehouse import statement

log = logging.getLogger(__name__)
_BY_DAY = ("batch_days", "feature_parts", "request_outcomes", "outcome_days", "flagged_visitors")
_WAITING = timedelta(days=7)  # how long the rows of a batch that was never loaded are kept


@dataclass(frozen=True)
class Dropped:
    """What went: partitions of whole months, rows of quarantine, landing schemas of batches that were never loaded, and
    rows by which endpoints share what users did."""

    months: list[str]
    quarantined: int
    landings: int
    live_events: int


def drop_old(
    engine: Engine, kept_from: datetime, keep_quarantine: timedelta, keep_shared: timedelta, *, dry_run: bool = False
) -> Dropped:
    """Drops months of events that lie wholly before `kept_from`, old quarantine, what endpoints shared, and forsaken
    landings.

    A month goes at once, as a table, and with it what is noted of its days. With `dry_run` nothing goes.
    """
    with engine.begin() as connection:
        months = _months_before(connection, kept_from)
        quarantined = connection.execute(statement("maintenance/drop_quarantine"), {"keep": keep_quarantine}).rowcount
        live = connection.execute(statement("maintenance/drop_live_events"), {"keep": keep_shared}).rowcount
        landings = _drop_landings(connection)
        for month in months:
            connection.execute(text(f"drop table {month}"))
            first = f"{month.removeprefix('events_').replace('_', '-')}-01"
            for table in _BY_DAY:
                connection.execute(
                    text(
                        f"delete from {table} where day >= cast(:first as date)"  # noqa: S608
                        " and day < cast(:first as date) + interval '1 month'"
                    ),
                    {"first": first},
                )
        if dry_run:
            connection.rollback()
    dropped = Dropped(months, quarantined, landings, live)
    log.info("%s %s", "Would drop" if dry_run else "Dropped", dropped)
    return dropped


def refresh_statistics(engine: Engine) -> None:
    """Vacuums and analyzes what queries are planned by; the whole of a partitioned table no background process does."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in (
            "events",
            "batches",
            "batch_days",
            "item_versions",
            "user_versions",
            "quarantine",
            "feature_parts",
            "request_outcomes",
        ):
            connection.execute(text(f"vacuum (analyze) {table}"))


def _months_before(connection: Connection, kept_from: datetime) -> list[str]:
    """Names of the partitions whose last day lies before a time."""
    names = connection.scalars(
        text("select relid::regclass::text from pg_partition_tree('events') where isleaf order by 1")
    ).all()
    return [name for name in names if name < partition(kept_from)]


def _drop_landings(connection: Connection) -> int:
    numbers = connection.scalars(statement("maintenance/stale_landing_schemas"), {"waiting": _WAITING}).all()
    for number in numbers:
        drop_landing(connection, number)
    return len(numbers)
