"""Ingests new files of the landing folder into the warehouse."""

from typing import Any

from airflow.sdk import get_current_context, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from recsys_tasks import orchestration as loop
from recsys_tasks.settings import settings

DOC = """
### What it does
Finds new files in `RECSYS_LANDING_PATH` (default `RECSYS_STORE/landing`): a folder per source, with a `mapping.toml`
beside the files, or above them, unless the source is built in. Folders below, such as `dt=2026-11-01`, belong to the
source. Lands, validates and loads each file in its own task, oldest first. The note of `look` names the files that are
skipped, and why.

**Reads** the landing folder. **Writes** the warehouse, the data docs, and the asset `events` if any row is new.

### Run it again
Always safe: a file is identified by its content and an event by its id; file names do not matter. A changed file is
ingested again. To ingest one file again, clear its task.

### When it fails
The other files are loaded and announced; then `summary` fails and names those that failed.
* `BatchRejected`: too many bad rows or an unusual profile. The message has the URL of the data docs.
* `MalformedFile`: a line cannot be parsed; the message names file and line. Fix or remove the file: every run tries it
  again.
* `ConfigurationError`: an invalid mapping or suite. The message names file and key.
* `UnavailableError`: the warehouse does not answer. Airflow retries the task.
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

        skipped = ingestion.find_skipped_landing_files()
        if skipped:
            loop.add_note("\n".join(f"skipped {path}: {reason}" for path, reason in skipped.items()), on_run=False)
        return [asdict(file) for file in ingestion.find_landing_files()]

    @task(map_index_template="{{ file_name }}", max_active_tis_per_dagrun=1, **loop.WAREHOUSE_TASK)
    @loop.step
    def ingest(file: dict[str, Any]) -> dict[str, Any]:
        from recsys_tasks.ingestion.landing_folder import LandingFile
        from recsys_tasks.steps import features, ingestion

        get_current_context()["file_name"] = file["path"].rsplit("/", 1)[-1]
        reports = ingestion.ingest_landing_file(LandingFile(**file))
        inserted = loop.report_batches(reports, on_run=False)
        # A task that was killed after its load finds the batch loaded, but nobody has announced it.
        was_loaded = any(report.already_loaded for report in reports) and features.has_unbuilt_changes()
        is_new = was_loaded or any(report.inserted for report in reports)
        return {"path": file["path"], "inserted": inserted, "is_new": is_new}

    @task(trigger_rule="all_done", outlets=loop.EVENTS_OUTLETS)
    @loop.step
    def announce(results: Any, outlet_events: Any = None) -> None:
        if not any(result["is_new"] for result in results):
            raise AirflowSkipException("The landing folder has no new rows")
        inserted = sum(result["inserted"] for result in results)
        loop.announce_events(outlet_events, {"inserted": inserted})

    @task(trigger_rule="all_done")
    def summary(files: list[dict[str, Any]] | None, results: Any) -> int:
        if files is None:
            raise AirflowFailException("The landing folder cannot be listed; see the task look")
        inserted_by_path = {result["path"]: result["inserted"] for result in results}
        failed = sorted({file["path"] for file in files} - set(inserted_by_path))
        inserted = sum(inserted_by_path.values())
        failed_paths = ", ".join(failed) or "none"
        num_loaded = len(inserted_by_path)
        loop.add_note(f"{num_loaded} of {len(files)} files, {inserted:,} rows inserted; failed: {failed_paths}")
        if failed:
            raise AirflowFailException(f"{len(failed)} of {len(files)} files failed: {failed_paths}")
        return inserted

    files = look()
    results = ingest.expand(file=files)
    announce(results) >> summary(files, results)


ingest_landing()
