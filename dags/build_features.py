"""Builds an immutable feature snapshot from the events in the warehouse."""

from typing import Any

from airflow.sdk import Param, task

from recsys_tasks import orchestration as loop

DOC = """
### What it does
Builds a feature snapshot from the events before a cutoff: timelines and sessions by the SQL in `sql/features/`, as
Parquet files, with the vocabulary and the start times of the validation and the test part. A snapshot never changes.

**Reads** `events`, `items`. **Writes** files in `RECSYS_STORE/snapshots`, a row of `snapshots`, and the asset
`snapshot`.

### Run it again
Always safe: the same events and cutoff give the same snapshot. For a point in time in the past, trigger it with
`{"cutoff": "2017-12-11T00:00:00+00:00"}`; such a snapshot starts no training.

### When it fails
* `NotEnoughData`: the warehouse has neither events nor items. Ingest some. Without enough sessions for a validation and
  a test part, the snapshot has none.
* `UnavailableError`: the warehouse does not answer. Airflow retries the task.
"""


@loop.recsys_dag(
    DOC,
    schedule=[loop.EVENTS],
    params={"cutoff": Param(None, type=["null", "string"], format="date-time", description="default: now")},
    tags=["warehouse", "model", "tier:2"],
)
def build_features() -> None:
    @task(inlets=[loop.EVENTS], outlets=loop.SNAPSHOT_OUTLETS, **loop.WAREHOUSE_TASK)
    @loop.step
    def snapshot(params: Any = None, outlet_events: Any = None) -> str:
        from datetime import datetime

        from recsys_tasks.steps import features

        cutoff = params["cutoff"] and datetime.fromisoformat(params["cutoff"])
        result = features.build_features(cutoff)
        loop.add_note(
            f"{result.snapshot_id}: {result.events:,} events, {result.sessions:,} sessions, {len(result.files)} days,"
            f" {result.items:,} items, {result.feedback_events:,} feedback events"
        )
        # A snapshot of the past is announced as a partition only: it starts no training.
        announce = loop.announce_days if cutoff else loop.announce
        days = [features.last_day(result)]
        announce(outlet_events, loop.SNAPSHOT_OUTLETS, {"snapshot_id": result.snapshot_id}, days)
        return result.snapshot_id

    snapshot()


build_features()
