"""Loading: a validated batch from its landing schema into items, users and events."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.exc import IntegrityError

from recsys_tasks.errors import InvariantError
from recsys_tasks.ingestion.changes import lock_changes, record_change
from recsys_tasks.ingestion.landing_schema import drop_landing, enter_landing, find_batch
from recsys_tasks.ingestion.month_partitions import bounds, months_of, partition
from recsys_tasks.warehouse import answering, run_script, statement

log = logging.getLogger(__name__)

# How far in time from where a batch's events are an event of the same id may be and still be found to be the same.
IDENTITY_WINDOW = timedelta(days=31)
_ANALYZE_FROM = 10_000
# By which plans are made; that no event had a request_id before feedback came is what makes the worst of them.
_PLANNED_BY = "event_time, event_key, batch, event_type, user_id, session_id, item_id, request_id, position"


@dataclass(frozen=True)
class LoadReport:
    """What became of a batch's rows: `read == inserted + duplicates + quarantined`.

    `conflicts` of the quarantined have the id of an event that says something else.
    """

    batch_id: str
    read: int
    inserted: int
    duplicates: int
    quarantined: int
    conflicts: int
    loaded_before: bool


def totals(reports: Iterable[LoadReport]) -> dict[str, int]:
    """What became of the rows of several batches."""
    names = ("read", "inserted", "duplicates", "quarantined", "conflicts")
    found = list(reports)
    return {name: sum(getattr(report, name) for report in found) for name in names}


@answering
def load(engine: Engine, batch_id: str) -> LoadReport:
    """Loads one validated batch in one transaction and removes its landing schema; a loaded one stays.

    Raises:
        InvariantError: the batch is unknown, or was not validated.
        UnavailableError: the warehouse went away or its disk is full; nothing of the batch is loaded.
    """
    with engine.begin() as connection:
        # One load at a time decides what is a duplicate, so two that overlap cannot both insert the same event.
        lock_changes(connection)
        batch = find_batch(connection, batch_id)
        if batch is None or batch.status not in ("validated", "loaded"):
            state = "unknown" if batch is None else batch.status
            raise InvariantError(f"Batch {batch_id} is {state}; only a validated batch can be loaded")
        if batch.status == "loaded":
            duplicates = batch.read_rows - batch.quarantined_rows
            return LoadReport(batch_id, batch.read_rows, 0, duplicates, batch.quarantined_rows, 0, True)
        enter_landing(connection, batch.number)
        inserted = _load_catalogue(connection, batch)
        events, conflicts, days = _load_events(connection, batch)
        record_change(connection, batch_id, days.items())
        report = _finish(connection, batch, inserted + events, conflicts)
        drop_landing(connection, batch.number)
    if events >= _ANALYZE_FROM:
        _refresh_statistics(engine, months_of(days))
    log.info("Loaded %s", report)
    return report


def _load_catalogue(connection: Connection, batch: Row[tuple[object, ...]]) -> int:
    values = {"batch": batch.number, "source": batch.source, "landed_at": batch.landed_at}
    inserted = 0
    for kind in ("items", "users"):
        if _exists(connection, f"staged_{kind}"):
            inserted += connection.execute(statement(f"ingestion/load_{kind}"), values).rowcount
    return inserted


def _load_events(connection: Connection, batch: Row[tuple[object, ...]]) -> tuple[int, int, dict[date, int]]:
    """How many events were loaded, how many conflict with others, and how many each changed day got."""
    if batch.first_event is None:
        return 0, 0, {}
    of_batch = {"batch": batch.number, "source": batch.source}
    for kind in ("items", "users"):
        if getattr(batch, f"implies_{kind}"):
            connection.execute(statement(f"ingestion/find_implied_{kind}"))
            connection.execute(statement(f"ingestion/imply_{kind}"), of_batch)
    replace = batch.on_conflict == "replace"
    around = {"known_from": batch.first_event - IDENTITY_WINDOW, "known_until": batch.last_event + IDENTITY_WINDOW}
    connection.execute(statement("ingestion/find_known"), around)
    _find_repeated(connection, replace)
    connection.execute(statement("ingestion/skip_events"), {"replace": replace})
    conflicts = connection.execute(statement("ingestion/quarantine_conflicts"), {"batch_id": batch.batch_id}).rowcount
    if replace:
        connection.execute(statement("ingestion/remove_corrected"))
    run_script(connection, "ingestion/arriving_events")
    days = {row.day: int(row.events) for row in connection.execute(statement("ingestion/find_changed_days"))}
    months = months_of(day for day, events in days.items() if events)
    return _insert(connection, of_batch, months), conflicts, days


def _find_repeated(connection: Connection, last_wins: bool) -> None:
    """Finds ids that a batch has more than once. Most have none, and a unique index is the quickest proof of it."""
    try:
        with connection.begin_nested():
            connection.execute(statement("ingestion/create_unique_index"))
    except IntegrityError:
        connection.execute(statement("ingestion/find_repeated"), {"last_wins": last_wins})


def _insert(connection: Connection, of_batch: dict[str, object], months: Sequence[date]) -> int:
    present = [month for month in months if _exists(connection, f"public.{partition(month)}")]
    missing = [month for month in months if month not in present]
    of_batch |= {"all_months": not (present and missing)}
    inserted = 0
    if present:
        inserted += connection.execute(statement("ingestion/load_events"), of_batch | {"months": present}).rowcount
    if missing:
        inserted += _insert_new_months(connection, of_batch | {"months": missing}, missing)
    return inserted


def _insert_new_months(connection: Connection, values: dict[str, object], months: Sequence[date]) -> int:
    """Fills new partitions apart, indexes them in one go and attaches them, which readers of `events` do not notice."""
    # In the landing schema, which comes first in the search path, this is what `load_events.sql` means by `events`.
    connection.execute(
        text(
            "create table events (like public.events including defaults including constraints)"
            " partition by range (event_time)"
        )
    )
    for month in months:
        first, following = bounds(month)
        # With the bounds as a check, attaching it at the end need not read it through.
        connection.execute(
            text(
                f"create table public.{partition(month)} partition of events"
                f" (check (event_time is not null and event_time >= '{first}' and event_time < '{following}'))"
                f" for values from ('{first}') to ('{following}')"
            )
        )
    inserted = connection.execute(statement("ingestion/load_events"), values).rowcount
    for month in months:
        name, (first, following) = f"public.{partition(month)}", bounds(month)
        connection.execute(text(f"alter table events detach partition {name}"))
        connection.execute(text(f"alter table {name} add primary key (event_time, event_key)"))
        connection.execute(
            text(f"alter table public.events attach partition {name} for values from ('{first}') to ('{following}')")
        )
    connection.execute(text("drop table events"))
    return inserted


def _finish(connection: Connection, batch: Row[tuple[object, ...]], inserted: int, conflicts: int) -> LoadReport:
    quarantined = batch.quarantined_rows + conflicts
    duplicates = batch.read_rows - inserted - quarantined
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
    return LoadReport(batch.batch_id, batch.read_rows, inserted, duplicates, quarantined, conflicts, False)


def _exists(connection: Connection, table: str) -> bool:
    return connection.scalar(text("select to_regclass(:name) is not null"), {"name": table}) is True


def _refresh_statistics(engine: Engine, months: Sequence[date]) -> None:
    with engine.begin() as connection:
        connection.execute(text("set local default_statistics_target = 25"))  # the nightly maintenance takes its time
        for month in months:
            connection.execute(text(f"analyze {partition(month)} ({_PLANNED_BY})"))
