"""What the endpoints saw into the warehouse's events."""

from typing import Any

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowSkipException

from recsys_tasks import orchestration as loop
from recsys_tasks.settings import settings

DOC = """
### What it does
Fetches what is new in every endpoint's journal (impressions, views, carts, purchases), takes it through landing
and validation like any source, and moves the cursor only when it is loaded.

**Reads** the endpoints' journals. **Writes** `RECSYS_HOME/feedback`, the warehouse, and the asset
`events` if there was something new.

### Run it again
Always safe: the same bytes make the same batch, and an event is known by its id.

### When it fails
* `UnavailableError`: an endpoint or the warehouse does not answer. The journals keep everything; the next run takes it.
* `ConfigurationError`: `RECSYS_ADMIN_TOKEN` is not set or differs from the endpoint's.
* `BatchRejected`: a suite of your own in `RECSYS_EXPECTATION_SUITES` stopped the feedback; the message has the address of the data
  docs.
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
            raise AirflowSkipException("Nothing new in any journal")
        return [asdict(portion) for portion in portions]

    @task(outlets=[loop.EVENTS], pool=loop.POOL)
    @loop.step
    def load(portions: list[dict[str, Any]], outlet_events: Any = None) -> int:
        from recsys_tasks.feedback import Portion
        from recsys_tasks.steps import ingestion

        reports = ingestion.load_feedback([Portion(**portion) for portion in portions])
        inserted = sum(report.inserted for report in reports)
        loop.note(loop.counts(reports))
        if inserted == 0:
            raise AirflowSkipException("Every event was known already")
        outlet_events[loop.EVENTS].extra = {"inserted": inserted}
        return inserted

    load(fetch())


collect_feedback()
