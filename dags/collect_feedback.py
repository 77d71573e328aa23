"""Collects the endpoints' event logs into the warehouse."""

from typing import Any

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowSkipException

from recsys_tasks import orchestration as loop
from recsys_tasks.settings import settings

DOC = """
### What it does
Fetches the new part of every endpoint's event log (impressions, views, carts, purchases) and lands, validates and
loads it like any source. The cursors advance only after the load.

**Reads** the endpoints' event logs. **Writes** `RECSYS_STORE/feedback`, the warehouse, and the asset `events` if any
event is new.

### Run it again
Always safe: the same bytes give the same batch, and events are deduplicated by id.

### When it fails
* `UnavailableError`: an endpoint or the warehouse does not answer. The event logs keep everything; the next run
  fetches it.
* `ConfigurationError`: `RECSYS_ADMIN_TOKEN` is not set or differs from the endpoint's.
* `BatchRejected`: one of your own expectation suites in `RECSYS_EXPECTATION_SUITES` rejected the feedback. The message
  has the URL of the data docs.
"""


@loop.recsys_dag(
    DOC,
    schedule=settings().feedback_schedule,
    tags=["warehouse", "serving", "tier:1"],
)
def collect_feedback() -> None:
    @task(multiple_outputs=False)
    @loop.step
    def fetch() -> list[dict[str, Any]]:
        from dataclasses import asdict

        from recsys_tasks.steps import ingestion

        portions = ingestion.fetch_feedback()
        if not portions:
            raise AirflowSkipException("No event log has new lines")
        return [asdict(portion) for portion in portions]

    @task(outlets=loop.EVENTS_OUTLETS, **loop.WAREHOUSE_TASK)
    @loop.step
    def load(portions: list[dict[str, Any]], outlet_events: Any = None) -> int:
        from recsys_tasks.feedback import EventLogChunk
        from recsys_tasks.steps import ingestion

        reports = ingestion.load_feedback([EventLogChunk(**portion) for portion in portions])
        inserted = loop.report_batches(reports)
        if inserted == 0:
            raise AirflowSkipException("All events are already loaded")
        loop.announce_events(outlet_events, {"inserted": inserted})
        return inserted

    load(fetch())


collect_feedback()
