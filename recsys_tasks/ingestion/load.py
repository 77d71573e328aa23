"""Loading: moves a validated batch from its landing schema into items, users, item vectors and events."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.exc import IntegrityError

from recsys_tasks.errors import BatchRejected, InvariantError
from recsys_tasks.ingestion.batch import is_replay
from recsys_tasks.ingestion.changes import lock_changes, record_change
from recsys_tasks.ingestion.landing_schema import drop_landing_schema, find_batch, use_landing_schema
from recsys_tasks.ingestion.month_partitions import list_months, partition_bounds, partition_name
from recsys_tasks.warehouse import raises_unavailable, run_script, statement

log = logging.getLogger(__name__)

# Events of a source with the same id are duplicates only within this distance of the batch's time range.
IDENTITY_WINDOW = timedelta(days=31)
_MIN_EVENTS_TO_ANALYZE = 10_000
# Columns whose statistics the planner needs. Stale statistics of `request_id` (all null before the first feedback)
# lead to the worst plans.
_ANALYZED_COLUMNS = "event_time, event_key, batch, event_type, user_id, session_id, item_id, request_id, position"


@dataclass(frozen=True)
class LoadReport:
    """Row counts of a loaded batch: `read == inserted + duplicates + quarantined + forgotten`.

    `conflicts` counts the quarantined events whose id another event with different content has, `forgotten` the rows of
    users who were erased. `ignored` events, of types that the mapping leaves out, are not among those read.
    """

    batch_id: str
    read: int
    inserted: int
    duplicates: int
    quarantined: int
    conflicts: int
    forgotten: int
    ignored: int
    already_loaded: bool


def sum_counts(reports: Iterable[LoadReport]) -> dict[str, int]:
    """Returns the summed row counts of several batches."""
    names = ("read", "inserted", "duplicates", "quarantined", "conflicts", "forgotten", "ignored")
    reports = list(reports)
    return {name: sum(getattr(report, name) for report in reports) for name in names}


@raises_unavailable
def load_batch(engine: Engine, batch_id: str) -> LoadReport:
    """Loads a validated batch in one transaction and drops its landing schema; does nothing if already loaded.

    Raises:
        BatchRejected: too many of its events have the ids of other events. Nothing of the batch is loaded.
        InvariantError: the batch is unknown or not validated.
        UnavailableError: the warehouse is unreachable or its disk is full. Nothing of the batch is loaded.
    """
    with engine.begin() as connection:
        # Loads are serialized, so that two overlapping batches cannot both insert the same event.
        lock_changes(connection)
        batch = find_batch(connection, batch_id)
        if batch is None or batch.status not in ("validated", "loaded"):
            state = "unknown" if batch is None else batch.status
            raise InvariantError(
                f"Batch {batch_id} is {state}; only a validated batch can be loaded. Validate it first"
            )
        if batch.status == "loaded":
            quarantined, forgotten = batch.quarantined_rows, batch.forgotten_rows
            duplicates = batch.read_rows - quarantined - forgotten
            counts = batch.read_rows, 0, duplicates, quarantined, 0, forgotten, batch.ignored_rows
            return LoadReport(batch_id, *counts, already_loaded=True)
        use_landing_schema(connection, batch.number)
        conflicts = _find_conflicts(connection, batch)
        # With `replace`, the conflicts are earlier revisions in the same file.
        is_conflict = conflicts and batch.on_conflict != "replace"
        problem = _describe_conflicts(batch, conflicts) if is_conflict else None
        is_rejected = problem is not None and _exceeds_bad_share(batch, conflicts)
        mixed = _describe_mixed_dimensions(connection)
        if mixed:
            problem, is_rejected = mixed, True
        if problem is not None:
            _record_problem(connection, batch, problem, is_rejected)
        if not is_rejected:
            inserted = _load_content(connection, batch)
            events, days = _load_events(connection, batch)
            record_change(connection, batch_id, days.items())
            report = _mark_loaded(connection, batch, inserted + events, conflicts)
            drop_landing_schema(connection, batch.number)
    if is_rejected:
        raise BatchRejected(f"Batch {batch_id} ({batch.origin}) was rejected: {problem}. Nothing of it was loaded")
    if problem is not None:
        log.warning("Batch %s: %s", batch_id, problem)
    if events >= _MIN_EVENTS_TO_ANALYZE:
        _refresh_statistics(engine, list_months(days))
    log.info("Loaded %s", report)
    return report


def _load_content(connection: Connection, batch: Row[tuple[object, ...]]) -> int:
    """Loads items, users and item vectors; returns the number of inserted rows."""
    values = {"batch": batch.number, "source": batch.source, "landed_at": batch.landed_at}
    inserted = 0
    for kind in ("items", "users"):
        if _table_exists(connection, f"staged_{kind}"):
            connection.execute(statement(f"ingestion/out_of_order_{kind}"), {"landed_at": batch.landed_at})
            inserted += connection.execute(statement(f"ingestion/load_{kind}"), values).rowcount
            run_script(connection, f"ingestion/restate_{kind}")
    if _table_exists(connection, "staged_vectors"):
        inserted += connection.execute(statement("ingestion/load_vectors"), {"batch": batch.number}).rowcount
    return inserted


def _find_conflicts(connection: Connection, batch: Row[tuple[object, ...]]) -> int:
    """Quarantines events with the id of another event of the source but different content; returns their number."""
    if batch.first_event is None:
        return 0
    replace = batch.on_conflict == "replace"
    known_from, known_until = batch.first_event - IDENTITY_WINDOW, batch.last_event + IDENTITY_WINDOW
    known = {"source": batch.source, "known_from": known_from, "known_until": known_until}
    connection.execute(statement("ingestion/find_known"), known)
    _find_repeated_events(connection, replace)
    connection.execute(statement("ingestion/skip_events"), {"replace": replace})
    return connection.execute(statement("ingestion/quarantine_conflicts"), {"batch_id": batch.batch_id}).rowcount


def _describe_conflicts(batch: Row[tuple[object, ...]], conflicts: int) -> str:
    return (
        f"{conflicts:,} of its {batch.read_rows:,} rows have the id of another event of source {batch.source!r} with"
        " different content, which is kept (event_id_conflict). If they correct it, set on_conflict = 'replace'; if"
        " they are other events, their ids need another source or an id_prefix"
    )


def _describe_mixed_dimensions(connection: Connection) -> str | None:
    """Says which vectors differ in dimension from those that another batch loaded since the validation."""
    if not _table_exists(connection, "staged_vectors"):
        return None
    mixed = connection.execute(statement("ingestion/mixed_dimensions")).first()
    if mixed is None:
        return None
    return (
        f"its vectors of the space {mixed.space!r} and version {mixed.version!r} have {mixed.staged} numbers, those of"
        f" another batch {mixed.stored}. Give one of them another version, and ingest it again"
    )


def _exceeds_bad_share(batch: Row[tuple[object, ...]], conflicts: int) -> bool:
    limit = 1.0 if batch.max_bad_share is None else batch.max_bad_share
    return bool((batch.quarantined_rows + conflicts) / batch.read_rows > limit)


def _record_problem(connection: Connection, batch: Row[tuple[object, ...]], problem: str, is_rejected: bool) -> None:
    """Adds a problem to a batch: as the reason of its rejection, or as a warning."""
    assignment = (
        "status = 'rejected', message = :problem" if is_rejected else "warnings = array_append(warnings, :problem)"
    )
    connection.execute(
        text(f"update batches set {assignment} where batch_id = :id"),  # noqa: S608
        {"problem": problem, "id": batch.batch_id},
    )


def _load_events(connection: Connection, batch: Row[tuple[object, ...]]) -> tuple[int, dict[date, int]]:
    """Loads events; returns the inserted count and the added events per changed day."""
    if batch.first_event is None:
        return 0, {}
    batch_values = {"batch": batch.number, "source": batch.source}
    for kind in ("items", "users"):
        if getattr(batch, f"implies_{kind}"):
            connection.execute(statement(f"ingestion/find_implied_{kind}"))
            connection.execute(statement(f"ingestion/imply_{kind}"), batch_values)
    connection.execute(statement("ingestion/hold_skipped"), batch_values)
    if batch.on_conflict == "replace":
        connection.execute(statement("ingestion/remove_corrected"))
    run_script(connection, "ingestion/arriving_events")
    days = {row.day: int(row.events) for row in connection.execute(statement("ingestion/find_changed_days"))}
    months = list_months(day for day, events in days.items() if events)
    return _insert_events(connection, batch_values, months), days


def _find_repeated_events(connection: Connection, last_wins: bool) -> None:
    """Finds event ids repeated within a batch. A unique index is the fastest proof that there are none."""
    try:
        with connection.begin_nested():
            connection.execute(statement("ingestion/create_unique_index"))
    except IntegrityError:
        connection.execute(statement("ingestion/find_repeated"), {"last_wins": last_wins})


def _insert_events(connection: Connection, batch_values: dict[str, object], months: Sequence[date]) -> int:
    existing = [month for month in months if _table_exists(connection, f"public.{partition_name(month)}")]
    new_months = [month for month in months if month not in existing]
    batch_values |= {"all_months": not (existing and new_months)}
    inserted = 0
    if existing:
        inserted += connection.execute(statement("ingestion/load_events"), batch_values | {"months": existing}).rowcount
    if new_months:
        inserted += _insert_new_months(connection, batch_values | {"months": new_months}, new_months)
    return inserted


def _insert_new_months(connection: Connection, values: dict[str, object], months: Sequence[date]) -> int:
    """Fills and indexes new partitions separately, then attaches them without blocking readers of `events`."""
    # Created in the landing schema, which is first in the search path: `load_events.sql` inserts into this table.
    connection.execute(
        text(
            "create table events (like public.events including defaults including constraints)"
            " partition by range (event_time)"
        )
    )
    for month in months:
        start, end = partition_bounds(month)
        # The check constraint lets PostgreSQL attach the partition without scanning it.
        connection.execute(
            text(
                f"create table public.{partition_name(month)} partition of events"
                f" (check (event_time is not null and event_time >= '{start}' and event_time < '{end}'))"
                f" for values from ('{start}') to ('{end}')"
            )
        )
    inserted = connection.execute(statement("ingestion/load_events"), values).rowcount
    for month in months:
        name, (start, end) = f"public.{partition_name(month)}", partition_bounds(month)
        connection.execute(text(f"alter table events detach partition {name}"))
        connection.execute(text(f"alter table {name} add primary key (event_time, event_key)"))
        connection.execute(text(f"create index on {name} (event_key)"))
        connection.execute(
            text(f"alter table public.events attach partition {name} for values from ('{start}') to ('{end}')")
        )
    connection.execute(text("drop table events"))
    return inserted


def _mark_loaded(connection: Connection, batch: Row[tuple[object, ...]], inserted: int, conflicts: int) -> LoadReport:
    quarantined = batch.quarantined_rows + conflicts
    forgotten = batch.forgotten_rows
    duplicates = batch.read_rows - inserted - quarantined - forgotten
    connection.execute(
        text(
            "update batches set status = 'loaded', inserted_rows = :inserted, duplicate_rows = :duplicates,"
            " conflicting_rows = :conflicts, quarantined_rows = :quarantined, finished_at = now() where batch_id = :id"
        ),
        {
            "id": batch.batch_id,
            "inserted": inserted,
            "duplicates": duplicates,
            "conflicts": conflicts,
            "quarantined": quarantined,
        },
    )
    if not is_replay(batch.origin):
        connection.execute(
            text("update sources set alerted_at = null where source = :source"), {"source": batch.source}
        )
    counts = batch.read_rows, inserted, duplicates, quarantined, conflicts, forgotten, batch.ignored_rows
    return LoadReport(batch.batch_id, *counts, already_loaded=False)


def _table_exists(connection: Connection, table: str) -> bool:
    return connection.scalar(text("select to_regclass(:name) is not null"), {"name": table}) is True


def _refresh_statistics(engine: Engine, months: Sequence[date]) -> None:
    with engine.begin() as connection:
        # Coarse and fast; the nightly maintenance refreshes the statistics in full.
        connection.execute(text("set local default_statistics_target = 25"))
        for month in months:
            connection.execute(text(f"analyze {partition_name(month)} ({_ANALYZED_COLUMNS})"))
