"""Actions that follow from alarms: notification, rollback, and a request to retrain from scratch.

An effect comes first and is recorded afterwards; effects are idempotent, so a process that is killed loses none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sqlalchemy import Engine

from recsys_tasks.monitoring.alarms import (
    Alarm,
    mark_acted,
    mark_notified,
    read_open_alarms,
    read_unnotified_alarms,
)
from recsys_tasks.monitoring.rules import RETRAIN, ROLL_BACK

log = logging.getLogger(__name__)
_RETRAINED, _NOT_SERVING = "retraining from scratch", "the version does not serve any more"


class Reaction(NamedTuple):
    """The version that serves again after a rollback, and the alarms that ask for a retraining."""

    rolled_back_to: str | None
    retrain: list[Alarm]

    @property
    def retrain_reason(self) -> str:
        """Why a retraining is asked for, in words."""
        return "; ".join(f"{alarm.rule}: {alarm.explanation}" for alarm in self.retrain)

    @property
    def summary(self) -> str:
        """The reaction in words."""
        rollback = f"version {self.rolled_back_to} serves again" if self.rolled_back_to else ""
        return rollback or self.retrain_reason or "no action needed"

    @property
    def alarm_ids(self) -> list[int]:
        """Ids of the alarms that ask for a retraining."""
        return [alarm.alarm_id for alarm in self.retrain]


def notify(warehouse: Engine, send: Callable[[Alarm], bool]) -> int:
    """Sends each alarm that nobody was notified of, at least once; returns how many were sent.

    Args:
        warehouse: holds the alarms.
        send: sends one alarm; returns whether it was delivered.
    """
    with warehouse.connect() as connection:
        alarms = read_unnotified_alarms(connection)
    for sent, alarm in enumerate(alarms):
        if not send(alarm):
            return sent  # the others would not be delivered either; the next run begins here
        with warehouse.begin() as connection:
            mark_notified(connection, alarm.alarm_id)
    return len(alarms)


def react(
    warehouse: Engine, read_served: Callable[[], Sequence[str]], roll_back: Callable[[str, str], str]
) -> Reaction:
    """Rolls back the served version if open alarms ask for it, and finds the alarms that ask for a retraining.

    An alarm about a version that does not serve any more has no effect: a version that is rolled back says nothing
    about drift. The caller starts the retraining, then calls `mark_retraining`; until then the alarm is returned again.

    Args:
        warehouse: holds the alarms.
        read_served: returns the model versions of the deployment state; the last one serves.
        roll_back: rolls back from a bad version, given the reason and the version; returns the one that serves then.

    Raises:
        UnavailableError: an endpoint or the registry does not answer.
    """
    with warehouse.connect() as connection:
        pending = [alarm for alarm in read_open_alarms(connection) if alarm.acted_at is None]
    rollback_alarms = [alarm for alarm in pending if alarm.action == ROLL_BACK]
    rolled_back_to = _roll_back(warehouse, rollback_alarms, read_served(), roll_back)
    served = read_served()
    retrain = []
    for alarm in pending:
        if alarm.action != RETRAIN:
            continue
        if served and alarm.model_version == served[-1]:
            retrain.append(alarm)
        else:
            _mark(warehouse, alarm, _NOT_SERVING)
    return Reaction(rolled_back_to, retrain)


def mark_retraining(warehouse: Engine, alarm_ids: Sequence[int]) -> None:
    """Records that the retraining which alarms asked for was started."""
    with warehouse.begin() as connection:
        for alarm_id in alarm_ids:
            mark_acted(connection, alarm_id, _RETRAINED)


def _roll_back(
    warehouse: Engine, alarms: Sequence[Alarm], served: Sequence[str], roll_back: Callable[[str, str], str]
) -> str | None:
    current = served[-1] if served else None
    for alarm in alarms:
        if alarm.model_version != current:
            _mark(warehouse, alarm, _NOT_SERVING)
    about_current = [alarm for alarm in alarms if alarm.model_version == current]
    if current is None or not about_current:
        return None
    reason = "; ".join(f"{alarm.rule}: {alarm.explanation}" for alarm in about_current)
    back = roll_back(reason, current) if len(served) > 1 else None
    for alarm in about_current:
        _mark(warehouse, alarm, f"rolled back to version {back}" if back else "there is no previous version")
    return back


def _mark(warehouse: Engine, alarm: Alarm, outcome: str) -> None:
    log.warning("%s: %s", alarm.rule, outcome)
    with warehouse.begin() as connection:
        mark_acted(connection, alarm.alarm_id, outcome)
