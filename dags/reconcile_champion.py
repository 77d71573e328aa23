"""Reconciles the endpoints and the registry aliases with the record of promotions."""

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowSkipException

from recsys_tasks import orchestration as loop
from recsys_tasks.settings import settings

DOC = """
### What it does
Compares the active bundle of every endpoint and the aliases `champion` and `previous` with the table `promotions`,
which records the deployed versions. Corrects and records every difference: an endpoint that returned with an old model,
an alias moved by hand, an interrupted promotion, a rollout that no task checks any more.

**Reads** `promotions`. **Writes** the endpoints, the aliases, and a row of `promotions` if it corrected something.

### Run it again
Always safe. By hand: `python -m recsys_tasks reconcile`.

### When it fails
* `UnavailableError`: an endpoint or MLflow does not answer, or a promotion is in progress. The next run tries again. If
  the message says that the bundle is gone and cannot be built again, promote a version.
* `ConfigurationError`: `RECSYS_ADMIN_TOKEN` is not set or differs from the endpoint's.
"""


@loop.recsys_dag(
    DOC,
    schedule=settings().reconcile_schedule,
    tags=["model", "serving", "tier:1"],
)
def reconcile_champion() -> None:
    @task(multiple_outputs=False)
    @loop.step
    def reconcile() -> None:
        from recsys_tasks.steps import promotion

        report = promotion.reconcile()
        loop.add_note("; ".join([*report.changes, *report.problems]) or f"version {report.version} serves everywhere")
        report.raise_problems()
        if not report.changes:
            raise AirflowSkipException("Nothing to correct")

    reconcile()


reconcile_champion()
