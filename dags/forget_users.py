"""Erases users from the warehouse, the snapshots and the endpoints."""

from typing import Any

from airflow.sdk import Param, task

from recsys_tasks import orchestration as loop

DOC = """
### What it does
Erases the users whose ids are in a file, one per line, from warehouse, quarantine, snapshots and endpoints. Deletes the
file afterwards, and announces the change, so that the next model is trained without them. The ids are in a file, not in
`params`, because Airflow keeps the parameters of its runs.

**Reads** the file in `params`, on a folder that all workers share. **Writes** the warehouse, the snapshots, the
endpoints, and the asset `events`.

### Run it again
Always safe: erasing a user twice changes nothing. A run that failed kept the file.

### When it fails
* `InputError`: the file does not exist or has no id.
* `UnavailableError`: an endpoint or the warehouse does not answer. Airflow retries the task.
* `ConfigurationError`: `RECSYS_ADMIN_TOKEN` is not set or differs from the endpoint's.
"""


@loop.recsys_dag(
    DOC,
    schedule=None,
    params={"path": Param(type="string", minLength=1, description="file with one user id per line")},
    tags=["warehouse", "serving", "tier:3"],
)
def forget_users() -> None:
    @task(outlets=[loop.EVENTS], pool=loop.POOL)
    @loop.step
    def forget(params: Any = None, outlet_events: Any = None) -> None:
        from pathlib import Path

        from recsys_tasks.steps import erasure

        report = erasure.erase_users_in_file(Path(params["path"]))
        loop.add_note(", ".join(f"{name} {value}" for name, value in vars(report).items()))
        outlet_events[loop.EVENTS].extra = {"forgotten": True}

    forget()


forget_users()
