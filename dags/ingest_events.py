"""Source files, or a week of the default source, into the warehouse's events."""

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import CronDataIntervalTimetable, Param, task
from airflow.sdk.exceptions import AirflowSkipException

from recsys_tasks import orchestration as loop

DOC = """
### What it does
Lands a source's rows as text, checks each row by SQL, quarantines bad ones with their reason, lets Great Expectations
judge the batch by its profile, and loads the rest into `items`, `users` and `events`.

**Reads** the source in `params` (by default The Complete Journey, a week per data interval; the first interval
takes the year before it along). **Writes** the warehouse, the data docs, and the asset `events`, once nothing
later is due.

### Run it again
Always safe: a batch is known by its content. Backfill with
`airflow backfill create --dag-id ingest_events --from-date 2017-12-04 --to-date 2017-12-18 --max-active-runs 1`
(both dates included; existing runs are left alone unless `--reprocess-behavior` says otherwise).
For files: trigger it with `{"source": "retailrocket", "paths": ["/path/to/file.tsv"]}`.

### When it fails
* `BatchRejected`: too many bad rows or an unusual volume. Nothing was loaded; the message has the address of the
  data docs. Mend the source, or raise `RECSYS_MAX_BAD_SHARE`, and clear the task.
* `MalformedFile`: the message names file and line. Nothing of that file was loaded.
* `ConfigurationError`: an unknown source, or a wrong mapping or suite; the message names the key.
* `UnavailableError`: the warehouse does not answer; the task is tried again.
"""


@loop.recsys_dag(
    DOC,
    schedule=CronDataIntervalTimetable("0 0 * * 1", timezone="UTC"),
    end_date=loop.ingestion_end() - loop.WEEK,
    catchup=True,
    params={
        "source": Param("complete_journey", type="string", description="a source's name, or a mapping file"),
        "paths": Param([], type="array", items={"type": "string"}, description="files, for sources that read files"),
    },
    tags=["warehouse", "tier:2"],
)
def ingest_events() -> None:
    @task(pool=loop.POOL)
    @loop.step
    def land(params: Any = None, data_interval_start: Any = None, data_interval_end: Any = None) -> list[str]:
        from recsys_tasks.steps import ingestion

        interval = loop.interval_to_ingest(data_interval_start, data_interval_end)
        return ingestion.land_source(params["source"], params["paths"], interval)

    @task(pool=loop.POOL)
    @loop.step
    def validate(batch_ids: list[str]) -> list[str]:
        from recsys_tasks.steps import ingestion

        reports = ingestion.validate_batches(batch_ids)
        loop.note("\n".join(report.summary for report in reports))
        return [report.batch_id for report in reports]

    @task(pool=loop.POOL)
    @loop.step
    def load(batch_ids: list[str]) -> int:
        from recsys_tasks.steps import ingestion

        reports = ingestion.load_batches(batch_ids)
        loop.note(loop.counts(reports))
        return sum(report.inserted for report in reports)

    @task(outlets=[loop.EVENTS])
    def announce(inserted: int, data_interval_end: Any = None, outlet_events: Any = None) -> None:
        if not loop.is_latest(data_interval_end, datetime.now(UTC)):
            raise AirflowSkipException("A later interval is due: its run announces the events of both")
        outlet_events[loop.EVENTS].extra = {"inserted": inserted}

    announce(load(validate(land())))


ingest_events()
