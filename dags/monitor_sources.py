"""Alerts on sources that did not deliver, and on warnings of loaded batches."""

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowSkipException

from recsys_tasks import orchestration as loop

DOC = """
### What it does
Compares the last delivery of every source with `expected_every_hours` of its mapping, and sends an alert to
`RECSYS_ALERT_URL` for each that is late, once until it delivers again. Sends the warnings of loaded batches, too.

**Reads** `sources`, `batches`. **Writes** when the alerts were sent.

### Run it again
Always safe: an alert that arrived is not sent again.

### When it fails
* `UnavailableError`: the warehouse does not answer. Airflow retries the task. An alert that does not arrive is sent
  again by the next run.
"""


@loop.recsys_dag(
    DOC,
    schedule="*/10 * * * *",
    tags=["warehouse", "tier:2"],
)
def monitor_sources() -> None:
    @task
    @loop.step
    def alert_late_sources() -> list[str]:
        from recsys_tasks.steps import ingestion

        late = ingestion.alert_late_sources(loop.on_late_source)
        if not late:
            raise AirflowSkipException("No source is late, or its alert was already sent")
        loop.add_note("\n".join(late))
        return late

    @task
    @loop.step
    def send_warnings() -> list[str]:
        from recsys_tasks.steps import ingestion

        batch_ids = ingestion.alert_warnings(loop.on_batch_warnings)
        if not batch_ids:
            raise AirflowSkipException("No batch has new warnings")
        return batch_ids

    alert_late_sources()
    send_warnings()


monitor_sources()
