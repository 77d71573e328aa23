"""Retention, statistics, and files that nothing needs any more."""

from typing import Any

from airflow.sdk import Param, task

from recsys_tasks import orchestration as loop

DOC = """
### What it does
Drops whole months of events older than `RECSYS_EVENT_RETENTION_DAYS` (default: keep all), quarantine older than
`RECSYS_QUARANTINE_RETENTION_DAYS`, landed rows of batches that were never loaded, and snapshots older than
`RECSYS_SNAPSHOT_RETENTION_DAYS` that no recent champion was trained on. Then it refreshes the statistics that queries are
planned by.

**Reads** the warehouse, the folder of snapshots. **Writes** the same.

### Run it again
Always safe. To see what would go: trigger it with `{"dry_run": true}`.

### When it fails
* `UnavailableError`: the warehouse does not answer; the task is tried again.
"""


@loop.recsys_dag(
    DOC,
    schedule="30 3 * * *",
    params={"dry_run": Param(False, type="boolean", description="only say what would go")},
    tags=["warehouse", "tier:3"],
)
def maintain_warehouse() -> None:
    @task(pool=loop.POOL)
    @loop.step
    def maintain(params: Any = None) -> None:
        from recsys_tasks.steps import maintenance

        done = maintenance.maintain(dry_run=params["dry_run"])
        would = "would drop" if params["dry_run"] else "dropped"
        loop.note(
            f"{would} months {', '.join(done.months) or 'none'}, {done.quarantined} rows of quarantine,"
            f" {done.landings} landings, {done.snapshots} snapshots"
        )

    maintain()


maintain_warehouse()
