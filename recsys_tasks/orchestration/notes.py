"""What a task did, in a line, as a note in Airflow's page: on its task instance and on its DAG run.

A task has no access to Airflow's database, so the note goes through Airflow's REST API: at `RECSYS_AIRFLOW_URL`, or
as the connection `recsys_airflow` says (host, port, login, password). Where neither is there, the line is in the log.
"""

from __future__ import annotations

import logging
from urllib.parse import quote

import httpx

from recsys_tasks.settings import settings

log = logging.getLogger(__name__)
CONNECTION = "recsys_airflow"
_SECONDS = 5.0
_LONGEST = 1_000  # the REST API takes no more


def note(text: str, *, on_run: bool = True) -> None:
    """Notes a line on the task that runs, and on its DAG run; a note that fails is logged and fails nothing."""
    log.info("%s", text)
    try:
        from airflow.sdk import get_current_context

        api = _address()
        if api is None:
            return
        url, login, password = api
        task = get_current_context()["ti"]
        run = f"/api/v2/dags/{quote(task.dag_id, safe='')}/dagRuns/{quote(task.run_id, safe='')}"
        instance = f"{run}/taskInstances/{quote(task.task_id, safe='')}"
        if task.map_index is not None and task.map_index >= 0:
            instance += f"/{task.map_index}"
        with httpx.Client(base_url=url, timeout=_SECONDS) as http:
            http.headers["Authorization"] = f"Bearer {_token(http, login, password)}"
            for path in (instance, run) if on_run else (instance,):
                answer = http.patch(path, params={"update_mask": "note"}, json={"note": text[:_LONGEST]})
                answer.raise_for_status()
    except Exception as error:  # a note is never worth a failed task
        log.warning("No note in Airflow's page (%s: %s)", type(error).__name__, error)


def _address() -> tuple[str, str | None, str | None] | None:
    """Where the REST API is, with login and password; None where nobody said."""
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    configured = settings().airflow_url
    if configured:
        return configured, None, None
    try:
        found = Connection.get(CONNECTION)
    except AirflowNotFoundException:
        return None
    host = found.host if "://" in (found.host or "") else f"{found.extra_dejson.get('scheme', 'http')}://{found.host}"
    return (f"{host}:{found.port}" if found.port else host), found.login, found.password


def _token(http: httpx.Client, login: str | None, password: str | None) -> str:
    """A token of Airflow's auth manager; without a login, as the simple one gives it where everybody is admin."""
    if login:
        answer = http.post("/auth/token", json={"username": login, "password": password})
    else:
        answer = http.get("/auth/token")
    answer.raise_for_status()
    return str(answer.json()["access_token"])
