"""Erases users from the warehouse, the snapshots and the endpoints."""

from typing import Any

from airflow.sdk import Param, task

from recsys_tasks import orchestration as loop

DOC = """
### What it does
Erases the users whose ids are in a file of `RECSYS_STORE/forget`, one per line, from warehouse, quarantine, snapshots
and endpoints. Announces the change, so that the next model is trained without them, and then deletes the file. The ids
are in a file, not in `params`, because Airflow keeps the parameters of its runs.

**Reads** the file that `params` name. **Writes** the warehouse, the snapshots, the endpoints, and the asset `events`.

### Run it again
Always safe: erasing a user twice changes nothing. A run that failed kept the file.

### When it fails
* `InputError`: the file does not exist, has no id, or is in another folder.
* `UnavailableError`: an endpoint or the warehouse does not answer. Airflow retries the task.
* `ConfigurationError`: `RECSYS_ADMIN_TOKEN` is not set or differs from the endpoint's.
"""


@loop.recsys_dag(
    DOC,
    schedule=None,
    params={"file": Param(type="string", minLength=1, description="name of a file in RECSYS_STORE/forget")},
    tags=["warehouse", "serving", "tier:3"],
)
def forget_users() -> None:
    @task(outlets=loop.EVENTS_OUTLETS, **loop.WAREHOUSE_TASK)
    @loop.step
    def forget(params: Any = None, outlet_events: Any = None) -> None:
        from recsys_tasks.steps import erasure

        report = erasure.erase_users_in_file(params["file"])
        loop.add_note(", ".join(f"{name} {value}" for name, value in vars(report).items()))
        loop.announce_events(outlet_events, {"forgotten": True})

    @task
    @loop.step
    def delete_file(params: Any = None) -> None:
        """A separate task: Airflow announces the change only after `forget` has succeeded."""
        from recsys_tasks.steps import erasure

        erasure.delete_erasure_file(params["file"])

    forget() >> delete_file()


forget_users()
