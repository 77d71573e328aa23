"""The table `alarms`: an outbox of what monitors found, notified and acted on at least once each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text

from recsys_tasks.monitoring.monitors import Finding, ServedModel
from recsys_tasks.warehouse import statement


class Alarm(NamedTuple):
    """A row of the table."""

    alarm_id: int
    rule: str
    model_version: str
    action: str
    explanation: str
    raised_at: datetime
    acted_at: datetime | None


def write_alarms(connection: Connection, findings: Sequence[Finding], served: ServedModel) -> None:
    """Opens an alarm for each firing rule, or updates the open one; closes all others but those of failed monitors."""
    firing = [finding for finding in findings if finding.fires]
    for finding in firing:
        row = {
            "rule": finding.rule.name,
            "model_version": served.model_version,
            "action": finding.rule.action,
            "explanation": finding.explanation,
            "evidence": json.dumps(finding.evidence, default=str),
        }
        connection.execute(statement("monitoring/raise_alarm"), row)
    failed = [finding.failed_rule for finding in findings if finding.failed_rule is not None]
    still_open = [*(finding.rule.name for finding in firing), *failed]
    parameters = {"rules": still_open, "model_version": served.model_version}
    connection.execute(statement("monitoring/close_alarms"), parameters)


def read_open_alarms(connection: Connection) -> list[Alarm]:
    """Returns the alarms whose rule still fires, oldest first."""
    return _read(connection, "closed_at is null")


def read_unnotified_alarms(connection: Connection) -> list[Alarm]:
    """Returns the alarms, open or closed, that nobody was notified of, oldest first."""
    return _read(connection, "notified_at is null")


def mark_acted(connection: Connection, alarm_id: int, outcome: str) -> None:
    """Records that an alarm's action was carried out; call it after the effect."""
    connection.execute(
        text("update alarms set acted_at = now(), outcome = :outcome where alarm_id = :alarm"),
        {"outcome": outcome, "alarm": alarm_id},
    )


def mark_notified(connection: Connection, alarm_id: int) -> None:
    """Records that somebody was notified of an alarm; call it after the effect."""
    connection.execute(
        text("update alarms set notified_at = now(), outcome = coalesce(outcome, 'notified') where alarm_id = :alarm"),
        {"alarm": alarm_id},
    )


def _read(connection: Connection, condition: str) -> list[Alarm]:
    columns = ", ".join(Alarm._fields)
    rows = connection.execute(text(f"select {columns} from alarms where {condition} order by alarm_id"))  # noqa: S608
    return [Alarm(*row) for row in rows]
