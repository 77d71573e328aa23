"""Checks that this Airflow has all that the other DAGs need."""

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowFailException

from recsys_tasks import orchestration as loop

DOC = """
### What it does
Checks the versions of Python, Airflow and PostgreSQL, rights in the warehouse, that `RECSYS_HOME` and `RECSYS_STORE`
can be written, and that MLflow and the endpoints answer, and names everything that is missing. It runs once when it is
enabled; trigger it after a change of the installation.

**Reads** all of them. **Writes** `RECSYS_HOME` if the folder is missing.

### Run it again
Always safe. On the command line: `python -m recsys_tasks check`.

### When it fails
* `AirflowFailException`: the message has one line per missing part.
"""


@loop.recsys_dag(
    DOC,
    schedule="@once",
    tags=["warehouse", "model", "serving", "tier:3"],
)
def check_installation() -> None:
    @task
    @loop.step
    def check() -> None:
        from recsys_tasks.steps import installation

        checks = installation.check_installation()
        missing = [f"{found.part}: {found.finding}" for found in checks if not found.is_ok]
        if missing:
            loop.add_note("\n".join(missing))
            raise AirflowFailException("\n".join(missing))
        loop.add_note("\n".join(f"{found.part}: {found.finding}" for found in checks))

    check()


check_installation()
