"""Failures, missed deadlines and alarms about what serves, as JSON to `RECSYS_ALERT_URL`, and always to the log."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx

from recsys_tasks.settings import settings

if TYPE_CHECKING:
    from recsys_tasks.monitoring.alarms import Alarm

log = logging.getLogger(__name__)
_SECONDS = 5.0
_LONGEST = 2_000


def on_failure(context: Any) -> None:
    """The `on_failure_callback` of tasks (after their last try) and of DAGs."""
    try:
        from airflow.sdk.log import redact

        task, run, error = context.get("ti"), context.get("dag_run"), context.get("exception")
        _send(
            {
                "kind": "run_failed" if "reason" in context else "task_failed",
                "dag_id": getattr(task, "dag_id", None) or context["dag"].dag_id,
                "run_id": getattr(run, "run_id", None) or context.get("run_id"),
                "task_id": getattr(task, "task_id", None),
                "map_index": getattr(task, "map_index", None),
                "error": redact(f"{type(error).__name__}: {error}")[:_LONGEST] if error else context.get("reason"),
                "log_url": getattr(task, "log_url", None),
            }
        )
    except Exception as failure:  # an alert that fails must not hide what it is about
        log.warning("No alert: %s: %s", type(failure).__name__, failure)


def on_missed_deadline(text: str, context: Any = None) -> None:
    """The callback of a deadline: a run takes longer than such runs do."""
    run = (context or {}).get("dag_run", {})
    if run.get("state") not in (None, "queued", "running"):
        return  # it failed, which was told
    _send({"kind": "deadline_missed", "dag_id": run.get("dag_id"), "run_id": run.get("dag_run_id"), "error": text})


def on_alarm(alarm: Alarm) -> bool:
    """Something is wrong with what serves, or the world has changed; whether that came through.

    Its `alarm_id` tells whoever hears of it twice.
    """
    found = {name: getattr(alarm, name) for name in ("alarm_id", "rule", "model_version", "action")}
    return _send({"kind": "alarm", **found, "error": alarm.explanation[:_LONGEST]})


def deadline(dag_id: str, longer: timedelta) -> Any:
    """A deadline for a DAG's runs: so much longer than the last ones took. None where no webhook is set.

    Airflow 3.3.2 cannot run `airflow dags test` on a DAG that has a deadline (apache/airflow issue 73428).
    """
    if settings().alert_url is None:
        return None
    from airflow.sdk import DeadlineAlert, DeadlineReference, SyncCallback  # type: ignore[attr-defined]

    text = f"a run of {dag_id} takes more than {longer} longer than the last ones"
    return DeadlineAlert(
        reference=DeadlineReference.AVERAGE_RUNTIME(max_runs=10, min_runs=3),
        interval=longer,
        name="late",
        callback=SyncCallback(f"{__name__}.{on_missed_deadline.__name__}", kwargs={"text": text}),
    )


def _send(alert: dict[str, Any]) -> bool:
    """Whether it came through; where no webhook is set, the log is all that is asked for."""
    log.warning("Alert: %s", alert)
    url = settings().alert_url
    if url is None:
        return True
    try:
        httpx.post(url.get_secret_value(), json=alert, timeout=_SECONDS).raise_for_status()
    except httpx.HTTPError as error:  # what it says may hold the address, and that a secret
        log.warning("The alert did not reach RECSYS_ALERT_URL: %s", type(error).__name__)
        return False
    return True
