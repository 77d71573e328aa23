"""Warehouse schema: migrations of a filled database, query plans and retention."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import Connection, Engine, text

from recsys_tasks.features.snapshot import SnapshotParameters, build_snapshot
from recsys_tasks.ingestion.retention import drop_expired, refresh_statistics
from recsys_tasks.sql_files import SQL_ROOT
from recsys_tasks.storage.folder import Folder
from recsys_tasks.warehouse import migrate, run_script, statement
from tests.conftest import database
from tests.integration.ingesting import count, csv_line, ingest, write_csv, write_mapping
from tests.shops import START, add_batch, event, fill


def test_the_migration_merges_repeated_refusals(warehouse: Engine) -> None:
    with warehouse.begin() as connection:
        connection.execute(text("drop index promotions_refused_once"))
        connection.execute(text("delete from schema_migrations where name = '0012_refusals'"))
        connection.execute(
            text(
                "insert into promotions (model_version, run_id, snapshot_id, decision, reasons)"
                " select '1', 'r', 's', decision, jsonb_build_array('too slow')"
                " from generate_series(1, 3), (values ('refused'), ('failed')) as made (decision)"
            )
        )
    assert migrate(warehouse) == ["0012_refusals"]
    assert count(warehouse, "select count(*) from promotions where decision = 'refused'") == 1
    assert count(warehouse, "select count(*) from promotions where decision = 'failed'") == 3


@contextmanager
def _first_version(postgres: str) -> Iterator[Engine]:
    """A filled warehouse with the schema of the first version of this project."""
    with database(postgres, f"old_{uuid.uuid4().hex[:8]}") as engine:
        with engine.begin() as connection:
            connection.execute(text("create table schema_migrations (name text primary key, applied_at timestamptz)"))
            run_script(connection, "schema/0001_warehouse")
            connection.execute(text("insert into schema_migrations values ('0001_warehouse', now())"))
            _fill_first_version(connection)
        yield engine


def _fill_first_version(connection: Connection) -> None:
    connection.execute(
        text(
            "insert into batches (batch_id, source, origin, status, read_rows, finished_at) values"
            " ('a', 'shop', 'a.csv', 'loaded', 600, now() - interval '1 day'),"
            " ('b', 'shop', 'b.csv', 'loaded', 0, now()), ('c', 'shop', 'c.csv', 'validated', 5, null)"
        )
    )
    connection.execute(
        text("insert into items (item_id, title, source) select 'i' || n, 'I', 's' from generate_series(0, 9) n")
    )
    connection.execute(text("insert into users (user_id, source) select 'u' || n, 's' from generate_series(0, 9) n"))
    connection.execute(
        text(
            "insert into events (event_id, user_id, session_id, item_id, event_type, event_time, price, source,"
            " batch_id) select 'e' || n, 'u' || n % 10, 's' || n / 2, 'i' || n % 10, 'view',"
            " timestamptz '2024-01-30 00:00Z' + n * interval '1 hour', 1.50, 'shop', 'a' from generate_series(1, 600) n"
        )
    )


def test_a_filled_warehouse_of_the_first_version_is_migrated(postgres: str, tmp_path: Path) -> None:
    with _first_version(postgres) as engine:
        assert migrate(engine) == sorted(path.stem for path in (SQL_ROOT / "schema").glob("*.sql"))[1:]
        assert migrate(engine) == []
        assert count(engine, "select count(*) from events") == 600
        assert count(engine, "select count(*) from items") == 10
        assert count(engine, "select count(*) from users") == 10
        assert count(engine, "select sum(events) from batch_days") == 600
        assert count(engine, "select change_number from batches where batch_id = 'b'") == 2
        assert count(engine, "select count(*) from pg_partition_tree('events') where isleaf") == 2
        snapshot = build_snapshot(engine, Folder.of(tmp_path), SnapshotParameters(0.1, 0.1, 2))
        assert snapshot.events == 600
        # Events that the first version stored are known by their ids, although it stored no digests.
        rows = [csv_line(n, who=f"u{n % 10}", what=f"i{n % 10}", when=_hour(n)) for n in range(1, 11)]
        (report,) = ingest(engine, tmp_path, write_mapping(tmp_path), write_csv(tmp_path / "f.csv", rows), bad=1.0)
        assert (report.inserted, report.conflicts) == (0, 10)


def _hour(number: int) -> str:
    return f"{datetime(2024, 1, 30, tzinfo=UTC) + timedelta(hours=number):%Y-%m-%dT%H:%M:%SZ}"


def _plan(engine: Engine, query: str, **values: object) -> str:
    with engine.connect() as connection:
        return "\n".join(connection.scalars(text(f"explain {query}"), values))


def test_frequent_queries_use_indexes_and_partition_pruning(warehouse: Engine) -> None:
    """Checks EXPLAIN on a warehouse of one year."""
    with warehouse.begin() as connection:
        for month in range(1, 13):
            connection.execute(text("select create_event_month(make_date(2024, :month, 1))"), {"month": month})
        connection.execute(
            text(
                "insert into events (event_id, event_key, user_id, item_id, event_type, event_time, request_id, source,"
                " batch, content) select n::text, hashtextextended(n::text, 0), 'u' || n % 100, 'i', 'impression',"
                " timestamptz '2024-01-01Z' + n * interval '3 minutes', 'r' || n, 's', 1, 0"
                " from generate_series(1, 170000) n"
            )
        )
        connection.execute(
            text(
                "create table open_sessions (user_key text, session_id text, session_start timestamptz,"
                " last_time timestamptz, events bigint)"
            )
        )
    refresh_statistics(warehouse)
    day = datetime(2024, 7, 15, tzinfo=UTC)
    plan = _plan(
        warehouse, statement("features/day_events").text, day_start=day, until=day + timedelta(days=1), as_of_change=9
    )
    assert "events_2024_07_pkey" in plan
    assert "events_2024_06" not in plan
    plan = _plan(warehouse, statement("status/lineage").text, request_id="r17000")
    assert "request_id_idx" in plan
    assert "Seq Scan on events" not in plan
    plan = _plan(warehouse, statement("features/cutoff").text)
    assert "Index Scan Backward" in plan


def test_expired_months_are_dropped_whole(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    add_batch(warehouse, [event("u1", "old", "i1", START - timedelta(days=400))])
    before = count(warehouse, "select count(*) from events")
    keep = timedelta(days=90)
    retention_start = START - timedelta(days=300)
    assert drop_expired(warehouse, retention_start, keep, keep, dry_run=True).months == ["events_2022_11"]
    assert count(warehouse, "select count(*) from events") == before
    assert drop_expired(warehouse, retention_start, keep, keep).months == ["events_2022_11"]
    assert count(warehouse, "select count(*) from events") == before - 1
    assert count(warehouse, "select count(*) from batch_days where day < '2023-01-01'") == 0
    assert drop_expired(warehouse, retention_start, keep, keep).months == []


def test_events_older_than_the_retention_start_are_quarantined(warehouse: Engine, tmp_path: Path) -> None:
    from recsys_tasks.ingestion.landing import land_batches
    from recsys_tasks.ingestion.sources import read_source
    from recsys_tasks.validation.batch import validate_batch

    file = write_csv(tmp_path / "f.csv", [csv_line(1), csv_line(2, when="2023-01-01T00:00:00Z")])
    (batch_id,) = land_batches(warehouse, read_source(write_mapping(tmp_path), [file]))
    retention_start = datetime(2024, 1, 1, tzinfo=UTC)
    report = validate_batch(
        warehouse, batch_id, Folder.of(tmp_path), max_bad_share=0.5, retention_start=retention_start
    )
    assert report.rules == {"event_time_is_kept": 1}


def test_concurrent_migrations_apply_once(postgres: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with database(postgres, f"twice_{uuid.uuid4().hex[:8]}") as engine, ThreadPoolExecutor(2) as threads:
        applied = [future.result() for future in [threads.submit(migrate, engine) for _ in range(2)]]
    assert min(applied) == []
    assert max(applied)[0].startswith("0001_")


def test_an_unreachable_warehouse_raises_unavailable(tmp_path: Path) -> None:
    from recsys_tasks.errors import UnavailableError
    from recsys_tasks.ingestion.load import load_batch

    engine = sqlalchemy.create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
    with pytest.raises(UnavailableError, match="Check that the server runs"):
        load_batch(engine, "x")
