"""Manual approval in Airflow's page, between the promotion gate and activation."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator

from recsys_tasks.settings import settings

_APPROVE, _REJECT = "Approve", "Reject"


def create_approval_task() -> HITLOperator:
    """Returns the task that waits for an answer under *Required actions* and shows the gate's decision.

    It reads the result of `check_gate`. Without an answer in time, `RECSYS_APPROVAL_DEFAULT` is the answer.
    """
    configured = settings()
    return HITLOperator(
        task_id="approve",
        subject="May version {{ ti.xcom_pull(task_ids='check_gate')['version'] }} of session-recommender serve?",
        body="{{ ti.xcom_pull(task_ids='check_gate')['shown'] }}",
        options=[_APPROVE, _REJECT],
        defaults=configured.approval_default,
        response_timeout=timedelta(hours=configured.approval_hours),
    )


def read_approval(answer: Mapping[str, Any]) -> tuple[bool, str]:
    """Returns whether the task's output is an approval, and who answered."""
    user = answer.get("responded_by_user")
    responder = f"{user['name']} ({user['id']})" if user else f"nobody within {settings().approval_hours:g} hours"
    return answer["chosen_options"] == [_APPROVE], responder
