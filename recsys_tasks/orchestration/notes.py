"""What a task reports to Airflow: notes in its page, one line about a result, on the task instance and its DAG run;
and the batches that it loaded, for lineage.

A task has no access to Airflow's database, so notes go through Airflow's REST API: at `RECSYS_AIRFLOW_URL`, or at the
connection `recsys_airflow` (host, port, login, password). Without either, the line is only logged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

import httpx

from recsys_tasks.settings import settings

log = logging.getLogger(__name__)
CONNECTION = "recsys_airflow"
_TIMEOUT_SECONDS = 5.0
_MAX_NOTE_LENGTH = 1_000  # limit of the REST API
_BATCHES = "recsys_batches"  # in the context of a task


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


def report_batches(reports: Iterable[Any], *, on_run: bool = True) -> int:
    """Adds the row counts of load reports as a note, and records their batches; returns the number of inserted rows."""
    from airflow.sdk import get_current_context

    from recsys_tasks.ingestion.load import sum_counts

    reports = list(reports)
    counts = sum_counts(reports)
    add_note(", ".join(f"{name} {count:,}" for name, count in counts.items()), on_run=on_run)
    context: dict[str, Any] = get_current_context()
    context.setdefault(_BATCHES, []).extend(asdict(report) for report in reports)
    return counts["inserted"]


def get_recorded_batches(context: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the batches that a task recorded in its context."""
    return list(context.get(_BATCHES, ()))


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
