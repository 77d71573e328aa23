"""Rebuilds the snapshots of days in the past: for backfills, and by hand with a day as partition key."""

from typing import Any

from airflow.sdk import CronPartitionTimetable, task
from airflow.sdk.exceptions import AirflowSkipException

from recsys_tasks import orchestration as loop

DOC = """
### What it does
Builds the snapshot as of the end of a day (UTC), with all that the warehouse has now about the time up to then. Daily
partitions that no later change touched are reused. Its daily runs skip, as `build_features` follows the events.

**Reads** `events`, `items`. **Writes** files in `RECSYS_STORE/snapshots`, a row of `snapshots`, and the day's
partition of the asset `snapshot`, which starts no training.

### Run it again
Always safe: the same events and day give the same snapshot. Unpause the DAG first. For three days:
`airflow backfill create --dag-id rebuild_days --from-date 2017-12-04 --to-date 2017-12-06` (both are included); for one
day, trigger it with the partition key `2017-12-04`.

### When it fails
* `ConfigurationError`: it was triggered without a partition key.
* `NotEnoughData`: the warehouse has neither events nor items of that time.
* `UnavailableError`: the warehouse does not answer. Airflow retries the task.
"""


@loop.recsys_dag(
    DOC,
    schedule=CronPartitionTimetable("0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"),
    start_date=loop.LONG_AGO,
    tags=["warehouse", "tier:3"],
)
def rebuild_days() -> None:
    @task(inlets=[loop.EVENTS], outlets=loop.SNAPSHOT_OUTLETS, **loop.WAREHOUSE_TASK)
    @loop.step
    def rebuild(
        dag_run: Any = None, partition_date: Any = None, logical_date: Any = None, outlet_events: Any = None
    ) -> str:
        from recsys_tasks.errors import ConfigurationError
        from recsys_tasks.steps import features

        if dag_run.run_type == "scheduled":  # Airflow backfills only what has a schedule
            raise AirflowSkipException("Only backfills and runs by hand rebuild days")
        time = partition_date or logical_date  # `airflow dags test` gives the latter
        if time is None:
            raise ConfigurationError("The run has no day. Give it a partition key, such as 2017-12-04")
        day = time.date()
        result = features.rebuild_day(day)
        loop.add_note(f"{result.snapshot_id}: {result.events:,} events, {result.sessions:,} sessions up to {day}")
        loop.announce_days(outlet_events, loop.SNAPSHOT_OUTLETS, {"snapshot_id": result.snapshot_id}, [day])
        return result.snapshot_id

    rebuild()


rebuild_days()
