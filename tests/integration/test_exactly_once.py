"""Exactly-once loading under kills, crashes, full disks and concurrent runs."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil
import pytest
import sqlalchemy
from sqlalchemy import Engine

from recsys_tasks.errors import UnavailableError
from recsys_tasks.warehouse import embedded, migrate
from tests.conftest import fresh_warehouse
from tests.integration.ingesting import count, csv_line, dump_contents, ingest, write_csv, write_mapping

KILLS = 50
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.integration.ingesting"])


def _files(folder: Path, rows: int = 3_000) -> list[Path]:
    """Writes overlapping files with a bad row and a conflicting event."""
    first = [csv_line(n) for n in range(rows)]
    second = [csv_line(n) for n in range(rows // 2, 2 * rows)]
    first[7] = csv_line(7, price="-1")
    second[9] = csv_line(rows // 2 + 9, price="9.99")
    return [
        write_csv(folder / "a.csv", first),
        write_csv(folder / "b.csv", second),
        write_csv(folder / "c.csv", first[::-1]),
    ]


def _ingest_all(url: str, home: str, source: str, paths: list[str]) -> None:
    engine = sqlalchemy.create_engine(url, connect_args={"options": "-c timezone=UTC"})
    ingest(engine, Path(home), source, *(Path(path) for path in paths))
    engine.dispose()


def _start(warehouse: Engine, home: Path, source: str, paths: list[Path]) -> ForkServerProcess:
    url = warehouse.url.render_as_string(hide_password=False)
    process = _processes.Process(target=_ingest_all, args=(url, str(home), source, [str(path) for path in paths]))
    process.start()
    return process


def test_fifty_random_kills_leave_the_same_warehouse_as_an_undisturbed_run(postgres: str, tmp_path: Path) -> None:
    source, files = write_mapping(tmp_path), _files(tmp_path)
    with fresh_warehouse(postgres) as undisturbed, fresh_warehouse(postgres) as killed_runs:
        began = time.monotonic()
        ingest(undisturbed, tmp_path / "calm", source, *files)
        longest = time.monotonic() - began
        moments = random.Random(0)  # noqa: S311
        killed = 0
        for attempt in range(3 * KILLS):
            process = _start(killed_runs, tmp_path / "hunted", source, files)
            # Later attempts run longer, so that kills hit every stage.
            process.join(moments.uniform(0, longest * min(1.0, (attempt + 1) / KILLS)))
            if process.is_alive():
                os.kill(process.pid or 0, signal.SIGKILL)
                killed += 1
            process.join()
            assert count(killed_runs, "select count(*) - count(distinct event_id) from events") == 0
            if killed == KILLS:
                break
        assert killed == KILLS
        ingest(killed_runs, tmp_path / "hunted", source, *files)
        assert dump_contents(killed_runs) == dump_contents(undisturbed)
        assert count(killed_runs, "select count(*) from pg_namespace where nspname like 'landing_%'") == 0


def test_concurrent_runs_load_each_event_once(postgres: str, tmp_path: Path) -> None:
    source, files = write_mapping(tmp_path), _files(tmp_path, rows=2_000)
    with fresh_warehouse(postgres) as one, fresh_warehouse(postgres) as many:
        ingest(one, tmp_path / "one", source, *files)
        started = [_start(many, tmp_path / "many", source, order) for order in (files, files[::-1], files[1:])]
        for process in started:
            process.join()
            assert process.exitcode == 0
        ids = "select event_id from events order by 1"
        with one.connect() as undisturbed, many.connect() as busy:
            assert undisturbed.exec_driver_sql(ids).all() == busy.exec_driver_sql(ids).all()
        assert count(many, "select count(*) from batches where status <> 'loaded'") == 0


@contextmanager
def _server(home: Path) -> Iterator[tuple[Engine, int]]:
    """A separate PostgreSQL server: its engine and process id."""
    server = embedded.start(home)
    engine = sqlalchemy.create_engine(embedded.url(server, "warehouse"), connect_args={"options": "-c timezone=UTC"})
    try:
        migrate(engine)
        yield engine, int(server.get_postmaster_info().pid)
    finally:
        engine.dispose()
        server.cleanup()


def test_a_database_crash_neither_loses_nor_duplicates_events(postgres: str, tmp_path: Path) -> None:
    source, files = write_mapping(tmp_path), _files(tmp_path)
    with fresh_warehouse(postgres) as undisturbed:
        ingest(undisturbed, tmp_path / "calm", source, *files)
        expected = dump_contents(undisturbed)
    failed = 0
    for pause in (0.3, 0.9):
        with _server(tmp_path / "server") as (engine, postmaster), ThreadPoolExecutor(1) as threads:
            running = threads.submit(ingest, engine, tmp_path / "gx", source, *files)
            try:
                running.result(pause)
            except TimeoutError:
                os.kill(postmaster, signal.SIGQUIT)  # immediate shutdown, without a checkpoint
                with pytest.raises(UnavailableError, match="The transaction was rolled back"):
                    running.result(60)
                failed += 1
                psutil.wait_procs([psutil.Process(postmaster)] if psutil.pid_exists(postmaster) else [], timeout=20)
    with _server(tmp_path / "server") as (engine, _):
        ingest(engine, tmp_path / "gx", source, *files)
        assert dump_contents(engine) == expected
    assert failed


@contextmanager
def _mount_small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _move_tables_to(engine: Engine, folder: Path, postmaster: int) -> None:
    """Creates new tables on another disk; the write-ahead log stays in place."""
    os.chown(folder, psutil.Process(postmaster).uids().real, -1)
    folder.chmod(0o700)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"create tablespace small location '{folder}'")
        connection.exec_driver_sql("alter database warehouse set default_tablespace = small")
    engine.dispose()


def test_a_full_disk_is_reported_and_the_file_loads_once_there_is_space(postgres: str, tmp_path: Path) -> None:
    source, (file, *_) = write_mapping(tmp_path), _files(tmp_path, rows=200_000)
    disk = tmp_path / "disk"
    with _server(tmp_path / "server") as (engine, postmaster), _mount_small_disk(disk, 40):
        _move_tables_to(engine, disk, postmaster)
        with pytest.raises(UnavailableError, match=r"No space left on device.*run this again"):
            ingest(engine, tmp_path / "gx", source, file)
        assert count(engine, "select count(*) from events") == 0
        subprocess.run(["mount", "-o", "remount,size=900m", str(disk)], check=True)
        (report,) = ingest(engine, tmp_path / "gx", source, file)
    assert (report.read, report.inserted, report.quarantined) == (200_000, 199_999, 1)
