"""Maintains the warehouse: retention, planner statistics, and unused files."""

from typing import Any

from airflow.sdk import Param, task

from recsys_tasks import orchestration as loop

DOC = """
### What it does
Drops whole months of events older than `RECSYS_EVENT_RETENTION_DAYS` (default: keep all), quarantined rows older than
`RECSYS_QUARANTINE_RETENTION_DAYS`, shared events older than `RECSYS_SHARED_STATE_RETENTION_HOURS`, landing schemas of
batches that were never loaded, and snapshots older than `RECSYS_SNAPSHOT_RETENTION_DAYS` that no recent champion was
trained on. Then refreshes the planner statistics.

**Reads** the warehouse, the snapshot folder. **Writes** the same, and the validation results.

### Run it again
Always safe. For a dry run, trigger it with `{"dry_run": true}`.

### When it fails
* `UnavailableError`: the warehouse does not answer. Airflow retries the task.
"""


@loop.recsys_dag(
    DOC,
    schedule="30 3 * * *",
    params={"dry_run": Param(False, type="boolean", description="only report what would be dropped")},
    tags=["warehouse", "tier:3"],
)
def maintain_warehouse() -> None:
    @task(**loop.WAREHOUSE_TASK)
    @loop.step
    def maintain(params: Any = None) -> None:
        from recsys_tasks.steps import maintenance

        report = maintenance.maintain(dry_run=params["dry_run"])
        verb = "would drop" if params["dry_run"] else "dropped"
        loop.add_note(
            f"{verb} months {', '.join(report.months) or 'none'}, {report.quarantined} quarantined rows,"
            f" {report.landing_schemas} landing schemas, {report.snapshots} snapshots"
        )

    maintain()


maintain_warehouse()
