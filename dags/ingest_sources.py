"""Fetches the files of sources with a delivery by date: one DAG per mapping file in `RECSYS_SOURCES_PATH`."""

import re
from typing import Any

from airflow.sdk import CronDataIntervalTimetable, task
from airflow.sdk.exceptions import AirflowSkipException

from recsys_tasks import orchestration as loop
from recsys_tasks.errors import ConfigurationError, UnavailableError
from recsys_tasks.ingestion.delivery import Delivery
from recsys_tasks.ingestion.mapping import load_mapping
from recsys_tasks.interval import Interval
from recsys_tasks.settings import settings

DOC = """
### What it does
Waits for the files that the source delivers for the run's data interval, then lands, validates and loads them. The
table `[delivery]` of the mapping names the files and the schedule (`docs/mappings.md`). The files may be in a remote
store, such as `s3://`, `sftp://` or `https://`.

**Reads** `{path}`. **Writes** the warehouse, the data docs, and the asset `events` if any row is new.

### Run it again
Always safe: a file is identified by its content and an event by its id. Backfill with
`airflow backfill create --dag-id {dag_id} --from-date 2026-11-01 --to-date 2026-11-03`: the days of these dates,
both included, if the schedule is at midnight.

### When it fails
* `wait` timed out: the source has not delivered within {wait_hours} hours. Clear it when the files are there.
* `BatchRejected`: too many bad rows or an unusual profile. The message has the URL of the data docs. Fix the source or
  its mapping and clear `ingest`.
* `MalformedFile`: a line cannot be parsed; the message names file and line.
* `ConfigurationError`: the mapping is invalid, or a store lacks credentials. The message says what to do.
* `UnavailableError`: the warehouse or the store does not answer. Airflow retries the task.
"""
INVALID_DOC = """
### The mapping of this source is invalid
Its only task fails with the reason. After you fix the mapping file, the DAG fetches the files.
"""


def create_dag(dag_id: str, mapping_path: str, delivery: Delivery) -> None:
    """Creates the DAG that loads the deliveries of a source."""
    timeout = delivery.wait_hours * 3600

    def ingest_source() -> None:
        @task.sensor(poke_interval=min(60, timeout), timeout=timeout, mode="reschedule")
        @loop.step
        def wait(data_interval_start: Any = None, data_interval_end: Any = None) -> bool:
            from recsys_tasks.steps import ingestion

            interval = loop.require_interval(data_interval_start, data_interval_end)
            try:
                missing = ingestion.find_missing_files(delivery, interval)
            except UnavailableError as error:  # the store may come back while there is time
                missing = [str(error)]
            if missing:
                loop.add_note(f"waiting for {', '.join(missing)}", on_run=False)
            return not missing

        @task(outlets=loop.EVENTS_OUTLETS, **loop.WAREHOUSE_TASK)
        @loop.step
        def ingest(data_interval_start: Any = None, data_interval_end: Any = None, outlet_events: Any = None) -> int:
            from recsys_tasks.steps import features, ingestion

            interval = loop.require_interval(data_interval_start, data_interval_end)
            reports = ingestion.ingest_delivery(mapping_path, delivery, interval)
            inserted = loop.report_batches(reports)
            if not inserted and not features.has_unbuilt_changes():
                raise AirflowSkipException("There are no new rows")
            loop.announce_events(outlet_events, {"inserted": inserted})
            return inserted

        wait() >> ingest()

    timetable = CronDataIntervalTimetable(delivery.schedule, timezone="UTC")
    timetable.validate()
    ingest_source.__name__ = dag_id
    loop.recsys_dag(
        DOC.format(path=delivery.shown_path, dag_id=dag_id, wait_hours=delivery.wait_hours),
        schedule=timetable,
        tags=["warehouse", "tier:2"],
        start_date=Interval.of_day(delivery.catchup_from).start if delivery.catchup_from else loop.LONG_AGO,
        catchup=delivery.catchup_from is not None,
    )(ingest_source)()


def create_failing_dag(dag_id: str, error: str) -> None:
    """Creates the DAG of a source whose mapping is invalid: its only task fails with the reason."""

    def invalid_source() -> None:
        @task
        @loop.step
        def read_mapping() -> None:
            raise ConfigurationError(error)

        read_mapping()

    invalid_source.__name__ = dag_id
    loop.recsys_dag(INVALID_DOC, schedule="@once", tags=["warehouse", "tier:2"])(invalid_source)()


for path in sorted(settings().sources_folder.glob("*.toml")):
    dag_id = f"ingest_source_{re.sub(r'[^A-Za-z0-9_.-]', '_', path.stem)[:200]}"
    try:
        delivery = load_mapping(str(path)).delivery
        if delivery is None:
            raise ConfigurationError(f"{path} has no table [delivery]. Add one with the path of its files")
        create_dag(dag_id, str(path), delivery)
    except Exception as error:  # whatever is wrong with one source, the others go on
        create_failing_dag(dag_id, f"{path}: {error}")
