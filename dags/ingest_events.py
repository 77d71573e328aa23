"""Ingests source files, or one week of the default source, into the warehouse."""

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import CronDataIntervalTimetable, Param, task
from airflow.sdk.exceptions import AirflowSkipException

from recsys_tasks import orchestration as loop

DOC = """
### What it does
Lands a source's rows as text, checks each row by SQL, quarantines bad rows with their reason, validates the batch's
profile with Great Expectations, and loads the other rows into `items`, `users`, `item_vectors` and `events`.

**Reads** the source in `params`: by default The Complete Journey, one week per data interval; the first interval
includes the year before it. **Writes** the warehouse, the data docs, and the asset `events` once no later interval is
due.

### Run it again
Always safe: a batch is identified by its content. Backfill with
`airflow backfill create --dag-id ingest_events --from-date 2017-12-04 --to-date 2017-12-18 --max-active-runs 1`
(both dates are included; existing runs are kept unless you set `--reprocess-behavior`).
For files, trigger it with `{"source": "retailrocket", "paths": ["/path/to/file.tsv"]}`.

### When it fails
* `BatchRejected`: too many bad rows or an unusual volume. Nothing was loaded; the message has the URL of the data
  docs. Fix the source or its mapping, or raise `RECSYS_MAX_BAD_SHARE`, and clear `validate`: it lands the source again.
* `MalformedFile`: a line of a file cannot be parsed; the message names file and line. Nothing of that file was loaded.
* `ConfigurationError`: an unknown source, or an invalid mapping or suite. The message names the key.
* `UnavailableError`: the warehouse does not answer. Airflow retries the task.
"""


@loop.recsys_dag(
    DOC,
    schedule=CronDataIntervalTimetable("0 0 * * 1", timezone="UTC"),
    end_date=loop.ingestion_end() - loop.WEEK,
    catchup=True,
    params={
        "source": Param("complete_journey", type="string", description="name of a source, or path of a mapping file"),
        "paths": Param([], type="array", items={"type": "string"}, description="paths, for sources that read files"),
    },
    tags=["warehouse", "tier:2"],
)
def ingest_events() -> None:
    @task(**loop.WAREHOUSE_TASK)
    @loop.step
    def land(params: Any = None, data_interval_start: Any = None, data_interval_end: Any = None) -> list[str]:
        from recsys_tasks.steps import ingestion

        interval = loop.interval_to_ingest(data_interval_start, data_interval_end)
        return ingestion.land_source(params["source"], params["paths"], interval)

    @task(**loop.WAREHOUSE_TASK)
    @loop.step
    def validate(
        batch_ids: list[str], params: Any = None, data_interval_start: Any = None, data_interval_end: Any = None
    ) -> list[str]:
        from recsys_tasks.steps import ingestion

        if ingestion.any_rejected(batch_ids):  # the task was cleared: the source or its mapping was mended
            interval = loop.interval_to_ingest(data_interval_start, data_interval_end)
            batch_ids = ingestion.land_source(params["source"], params["paths"], interval)
        reports = ingestion.validate_batches(batch_ids)
        loop.add_note("\n".join(report.summary for report in reports))
        return [report.batch_id for report in reports]

    @task(**loop.WAREHOUSE_TASK)
    @loop.step
    def load(batch_ids: list[str]) -> int:
        from recsys_tasks.steps import ingestion

        reports = ingestion.load_batches(batch_ids)
        return loop.report_batches(reports)

    @task(outlets=loop.EVENTS_OUTLETS)
    @loop.step
    def announce(inserted: int, data_interval_end: Any = None, outlet_events: Any = None) -> None:
        from recsys_tasks.steps import features

        if not loop.is_latest(data_interval_end, datetime.now(UTC)):
            raise AirflowSkipException("A later interval is due; its run announces the events of both")
        if not inserted and not features.has_unbuilt_changes():
            raise AirflowSkipException("Nothing is new since the latest snapshot")
        loop.announce_events(outlet_events, {"inserted": inserted})

    announce(load(validate(land())))


ingest_events()
