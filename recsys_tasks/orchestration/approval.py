"""A person's yes or no in Airflow's page, between the gate and the endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator

from recsys_tasks.settings import settings

_APPROVE, _REJECT = "Approve", "Reject"


def asked_person() -> HITLOperator:
    """The task that waits for somebody under *Required actions*, with the gate's findings before them.

    Downstream of `judge`. Whoever does not answer in time has answered what `RECSYS_APPROVAL_DEFAULT` says.
    """
    chosen = settings()
    return HITLOperator(
        task_id="approve",
        subject="May version {{ ti.xcom_pull(task_ids='judge')['version'] }} of session-recommender serve?",
        body="{{ ti.xcom_pull(task_ids='judge')['shown'] }}",
        options=[_APPROVE, _REJECT],
        defaults=chosen.approval_default,
        response_timeout=timedelta(hours=chosen.approval_hours),
    )


def read_answer(answer: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the task's output is a yes, and whose answer it is."""
    user = answer.get("responded_by_user")
    who = f"{user['name']} ({user['id']})" if user else f"nobody within {settings().approval_hours:g} hours"
    return answer["chosen_options"] == [_APPROVE], who
