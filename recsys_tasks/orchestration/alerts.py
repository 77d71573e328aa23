"""Alerts on failures, missed deadlines, alarms, late sources and batch warnings: logged, and sent as JSON to the
webhook `RECSYS_ALERT_URL`."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx

from recsys_tasks.settings import settings

if TYPE_CHECKING:
    from recsys_tasks.ingestion.source_alerts import BatchWarnings, LateSource
    from recsys_tasks.monitoring.alarms import Alarm

log = logging.getLogger(__name__)
_TIMEOUT_SECONDS = 5.0
_MAX_LENGTH = 2_000


def on_failure(context: Any) -> None:
    """Sends an alert: the `on_failure_callback` of tasks (after their last try) and of DAGs."""
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
                "error": redact(f"{type(error).__name__}: {error}")[:_MAX_LENGTH] if error else context.get("reason"),
                "log_url": getattr(task, "log_url", None),
            }
        )
    except Exception as failure:  # a failed alert must not hide the original failure
        log.warning("The alert was not sent: %s: %s", type(failure).__name__, failure)


def on_missed_deadline(text: str, context: Any = None) -> None:
    """Sends an alert: the callback of a deadline."""
    run = (context or {}).get("dag_run", {})
    if run.get("state") not in (None, "queued", "running"):
        return  # the run failed; `on_failure` has sent an alert
    _send({"kind": "deadline_missed", "dag_id": run.get("dag_id"), "run_id": run.get("dag_run_id"), "error": text})


def on_alarm(alarm: Alarm) -> bool:
    """Sends an alarm of the monitors; returns whether it arrived. Receivers deduplicate by `alarm_id`."""
    fields = {name: getattr(alarm, name) for name in ("alarm_id", "rule", "model_version", "action")}
    return _send({"kind": "alarm", **fields, "error": alarm.explanation[:_MAX_LENGTH]})


def on_late_source(source: LateSource) -> bool:
    """Sends an alert of a source that should have delivered; returns whether it arrived."""
    return _send({"kind": "source_late", "source": source.source, "error": str(source)})


def on_batch_warnings(batch: BatchWarnings) -> bool:
    """Sends the warnings of a batch; returns whether they arrived. Receivers deduplicate by `batch_id`."""
    text = "; ".join(batch.warnings)[:_MAX_LENGTH]
    return _send({"kind": "batch_warnings", "batch_id": batch.batch_id, "origin": batch.origin, "error": text})


def create_deadline(dag_id: str, max_extra_time: timedelta) -> Any:
    """Returns a deadline for a DAG's runs: the average of the last runs plus some time. None without a webhook.

    Airflow 3.3.2 cannot run `airflow dags test` on a DAG that has a deadline (apache/airflow issue 73428).
    """
    if settings().alert_url is None:
        return None
    from airflow.sdk import DeadlineAlert, DeadlineReference, SyncCallback  # type: ignore[attr-defined]

    text = f"a run of {dag_id} takes more than {max_extra_time} longer than the average of the last runs"
    return DeadlineAlert(
        reference=DeadlineReference.AVERAGE_RUNTIME(max_runs=10, min_runs=3),
        interval=max_extra_time,
        name="late",
        callback=SyncCallback(f"{__name__}.{on_missed_deadline.__name__}", kwargs={"text": text}),
    )


def _send(alert: dict[str, Any]) -> bool:
    """Logs an alert and sends it to the webhook; returns False only if the webhook cannot be reached."""
    log.warning("Alert: %s", alert)
    url = settings().alert_url
    if url is None:
        return True
    try:
        httpx.post(url.get_secret_value(), json=alert, timeout=_TIMEOUT_SECONDS).raise_for_status()
    except httpx.HTTPError as error:  # its text may contain the URL, which may be a secret
        log.warning("The alert did not reach RECSYS_ALERT_URL: %s", type(error).__name__)
        return False
    return True
