"""Removes the rows of a loaded batch from the warehouse."""

from typing import Any

from airflow.sdk import Param, task

from recsys_tasks import orchestration as loop

DOC = """
### What it does
Removes the rows of a loaded batch, for example after a wrong mapping. Rows that other loaded batches have, too, stay;
replaced ones come back. Then announces the change, so that features are built and a model is trained without them.

**Reads** the batch in `params`. **Writes** the warehouse and the asset `events`.

### Run it again
Always safe: a batch that is retracted stays so.

### When it fails
* `InputError`: there is no loaded batch with that id; `python -m recsys_tasks status` names the latest of each source.
* `UnavailableError`: the warehouse does not answer. Airflow retries the task.
"""


@loop.recsys_dag(
    DOC,
    schedule=None,
    params={
        "batch_id": Param(type="string", minLength=1, description="id of the loaded batch"),
        "reason": Param(type="string", minLength=1, description="stored with the batch"),
    },
    tags=["warehouse", "tier:3"],
)
def retract_batch() -> None:
    @task(outlets=loop.EVENTS_OUTLETS, **loop.WAREHOUSE_TASK)
    @loop.step
    def retract(params: Any = None, outlet_events: Any = None) -> None:
        from recsys_tasks.steps import ingestion

        report = ingestion.retract_batch(params["batch_id"], params["reason"])
        loop.add_note(", ".join(f"{name} {value}" for name, value in vars(report).items()))
        loop.announce_events(outlet_events, {"retracted": params["batch_id"]})

    retract()


retract_batch()
