"""Aliases, endpoints and the record of promotions are made to agree."""

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowSkipException

from recsys_tasks import orchestration as loop
from recsys_tasks.settings import settings

DOC = """
### What it does
Compares what every endpoint serves and where the aliases `champion` and `previous` point with the table `promotions`,
which says what is to serve. What differs is put right and written down: an endpoint that was away and came back with
an old model, an alias somebody moved by hand, a promotion that was killed half way, a trial nobody looks after.

**Reads** `promotions`. **Writes** the endpoints, the aliases, a row of `promotions` where something was put right.

### Run it again
Always safe. By hand: `python -m recsys_tasks reconcile`.

### When it fails
* `UnavailableError`: an endpoint or MLflow does not answer, or a promotion is under way; the next run tries again. If
  it says that the bundle that is to serve is gone and cannot be built again, promote a version.
* `ConfigurationError`: `RECSYS_ADMIN_TOKEN` is not set.
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

        found = promotion.reconcile()
        loop.note("; ".join([*found.changes, *found.problems]) or f"version {found.version} serves everywhere")
        found.raise_problems()
        if not found.changes:
            raise AirflowSkipException("Nothing to put right")

    reconcile()


reconcile_champion()
