"""Notes in Airflow's page: one line about a task's result, on its task instance and its DAG run.

A task has no access to Airflow's database, so notes go through Airflow's REST API: at `RECSYS_AIRFLOW_URL`, or at the
connection `recsys_airflow` (host, port, login, password). Without either, the line is only logged.
"""

from __future__ import annotations

import logging
from urllib.parse import quote

import httpx

from recsys_tasks.settings import settings

log = logging.getLogger(__name__)
CONNECTION = "recsys_airflow"
_TIMEOUT_SECONDS = 5.0
_MAX_NOTE_LENGTH = 1_000  # limit of the REST API


def add_note(text: str, *, on_run: bool = True) -> None:
    """Logs a line and adds it as a note to the current task, and to its DAG run. A failure is only logged."""
    log.info("%s", text)
    try:
        from airflow.sdk import get_current_context

        api = _find_api()
        if api is None:
            return
        url, login, password = api
        task = get_current_context()["ti"]
        run = f"/api/v2/dags/{quote(task.dag_id, safe='')}/dagRuns/{quote(task.run_id, safe='')}"
        instance = f"{run}/taskInstances/{quote(task.task_id, safe='')}"
        if task.map_index is not None and task.map_index >= 0:
            instance += f"/{task.map_index}"
        with httpx.Client(base_url=url, timeout=_TIMEOUT_SECONDS) as http:
            http.headers["Authorization"] = f"Bearer {_request_token(http, login, password)}"
            for path in (instance, run) if on_run else (instance,):
                response = http.patch(path, params={"update_mask": "note"}, json={"note": text[:_MAX_NOTE_LENGTH]})
                response.raise_for_status()
    except Exception as error:  # a missing note must not fail a task
        log.warning("The note was not added in Airflow's page (%s: %s)", type(error).__name__, error)


def _find_api() -> tuple[str, str | None, str | None] | None:
    """Returns URL, login and password of the REST API; None if not configured."""
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    configured = settings().airflow_url
    if configured:
        return configured, None, None
    try:
        connection = Connection.get(CONNECTION)
    except AirflowNotFoundException:
        return None
    scheme = connection.extra_dejson.get("scheme", "http")
    host = connection.host if "://" in (connection.host or "") else f"{scheme}://{connection.host}"
    return (f"{host}:{connection.port}" if connection.port else host), connection.login, connection.password


def _request_token(http: httpx.Client, login: str | None, password: str | None) -> str:
    """Returns a token of Airflow's auth manager; without a login, one of the simple auth manager with all as admin."""
    if login:
        response = http.post("/auth/token", json={"username": login, "password": password})
    else:
        response = http.get("/auth/token")
    response.raise_for_status()
    return str(response.json()["access_token"])
