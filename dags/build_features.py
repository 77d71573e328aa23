"""The warehouse's events into an immutable feature snapshot."""

from typing import Any

from airflow.sdk import Param, task

from recsys_tasks import orchestration as loop

DOC = """
### What it does
Cuts the events before a cut-off time into timelines and sessions by the SQL in `sql/features/`, and keeps them as
Parquet files with the vocabulary and the times where the validation and the test part begin.

**Reads** `events`, `items`. **Writes** a folder under `RECSYS_HOME/snapshots`, a row of `snapshots`, and the asset
`snapshot`.

### Run it again
Always safe: the same events and cut-off give the same snapshot. As of a past time: trigger it with
`{"cutoff": "2017-12-11T00:00:00+00:00"}`.

### When it fails
* `NotEnoughData`: the warehouse has no events, or too few sessions for a validation and a test part; ingest more.
* `UnavailableError`: the warehouse does not answer; the task is tried again.
"""


@loop.recsys_dag(
    DOC,
    schedule=[loop.EVENTS],
    params={"cutoff": Param(None, type=["null", "string"], format="date-time", description="as of when")},
    tags=["warehouse", "model", "tier:2"],
)
def build_features() -> None:
    @task(outlets=[loop.SNAPSHOT], pool=loop.POOL)
    @loop.step
    def snapshot(params: Any = None, outlet_events: Any = None) -> str:
        from datetime import datetime

        from recsys_tasks.steps import features

        cutoff = params["cutoff"] and datetime.fromisoformat(params["cutoff"])
        built = features.build_features(cutoff)
        loop.note(
            f"{built.snapshot_id}: {built.events:,} events, {built.sessions:,} sessions, {len(built.files)} days,"
            f" {built.items:,} items, {built.feedback_events:,} events of feedback"
        )
        outlet_events[loop.SNAPSHOT].extra = {"snapshot_id": built.snapshot_id}
        return built.snapshot_id

    snapshot()


build_features()
