"""Validates and loads quarantined rows again."""

from typing import Any

from airflow.sdk import Param, task
from airflow.sdk.exceptions import AirflowSkipException

from recsys_tasks import orchestration as loop

DOC = """
### What it does
Validates and loads quarantined rows again, after what they lacked has arrived (such as their items), or after somebody
corrected them. Rows that are still bad return to quarantine. Then announces the new events.

**Reads** `quarantine`: all open rows of loaded batches, or those that `params` select. **Writes** the warehouse, the
data docs, and the asset `events` if any row is new.

### Run it again
Always safe: a row that was loaded is resolved.

### When it fails
* `UnavailableError`: the warehouse does not answer. Airflow retries the task.
"""


def _selector(description: str) -> Param:
    return Param(None, type=["null", "string"], description=f"{description}; default: all")


@loop.recsys_dag(
    DOC,
    schedule=None,
    params={
        "source": _selector("only rows of this source"),
        "batch_id": _selector("only rows of this batch"),
        "rule": _selector("only rows that broke this rule"),
    },
    tags=["warehouse", "tier:3"],
)
def replay_quarantine() -> None:
    @task(outlets=loop.EVENTS_OUTLETS, **loop.WAREHOUSE_TASK)
    @loop.step
    def replay(params: Any = None, outlet_events: Any = None) -> int:
        from recsys_tasks.ingestion.quarantine import QuarantineFilter
        from recsys_tasks.steps import features, ingestion

        reports = ingestion.replay_quarantine(QuarantineFilter(params["source"], params["batch_id"], params["rule"]))
        inserted = loop.report_batches(reports)
        # A task that was killed after its load finds no open row, but nobody has announced the events.
        if not inserted and not features.has_unbuilt_changes():
            raise AirflowSkipException("No quarantined row could be loaded")
        loop.announce_events(outlet_events, {"inserted": inserted})
        return inserted

    replay()


replay_quarantine()
