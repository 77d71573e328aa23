"""Files that were dropped in the landing folder into the warehouse's events, items and users."""

from typing import Any

from airflow.sdk import get_current_context, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from recsys_tasks import orchestration as loop
from recsys_tasks.settings import settings

DOC = """
### What it does
Looks into `RECSYS_LANDING_PATH` (default `RECSYS_HOME/landing`) for files it has not seen: a folder per source, with a
`mapping.toml` beside the files unless the source comes along. Each file is landed, validated and loaded in a task of
its own, the older ones first.

**Reads** the landing folder. **Writes** the warehouse, the data docs, and the asset `events` if anything was new.

### Run it again
Always safe: a file is known by its content and an event by its id, whatever the file is called. A file that changed
is read again. To read one once more, clear its task.

### When it fails
The other files are loaded all the same; `summary` names those that failed.
* `BatchRejected`: too many bad rows or something unusual; the message has the address of the data docs.
* `MalformedFile`: the message names file and line. Mend or remove the file: it is tried again at every run.
* `ConfigurationError`: a mapping or a suite is wrong; the message names file and key.
* `UnavailableError`: the warehouse does not answer; the task is tried again.
"""


@loop.recsys_dag(
    DOC,
    schedule=settings().landing_schedule,
    tags=["warehouse", "tier:2"],
)
def ingest_landing() -> None:
    @task
    @loop.step
    def look() -> list[dict[str, Any]]:
        from dataclasses import asdict

        from recsys_tasks.steps import ingestion

        return [asdict(dropped) for dropped in ingestion.dropped_files()]

    @task(pool=loop.POOL, map_index_template="{{ file_name }}", max_active_tis_per_dagrun=1)
    @loop.step
    def ingest(dropped: dict[str, Any]) -> dict[str, Any]:
        from recsys_tasks.ingestion.landing_folder import DroppedFile
        from recsys_tasks.steps import ingestion

        get_current_context()["file_name"] = dropped["path"].rsplit("/", 1)[-1]
        reports = ingestion.ingest_dropped(DroppedFile(**dropped))
        loop.note(loop.counts(reports), on_run=False)
        return {"path": dropped["path"], "inserted": sum(report.inserted for report in reports)}

    @task(trigger_rule="all_done", outlets=[loop.EVENTS])
    def summary(found: list[dict[str, Any]] | None, ingested: Any, outlet_events: Any = None) -> int:
        if found is None:
            raise AirflowFailException("The landing folder could not be listed")
        done = {result["path"]: result["inserted"] for result in ingested}
        failed = sorted({dropped["path"] for dropped in found} - set(done))
        inserted = sum(done.values())
        named = ", ".join(failed) or "none"
        loop.note(f"{len(done)} of {len(found)} files, {inserted:,} rows inserted; failed: {named}")
        if failed:
            raise AirflowFailException(f"{len(failed)} of {len(found)} files failed: {named}")
        if not inserted:
            raise AirflowSkipException("Nothing new in the landing folder")
        outlet_events[loop.EVENTS].extra = {"inserted": inserted}
        return inserted

    found = look()
    summary(found, ingest.expand(dropped=found))


ingest_landing()
