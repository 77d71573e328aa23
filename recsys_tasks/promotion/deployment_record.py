"""The table `promotions`: every decision about a version, and the deployment state that follows from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from recsys_tasks.errors import UnavailableError
from recsys_tasks.warehouse import statement

PROMOTED, REFUSED, FAILED, ROLLED_BACK = "promoted", "refused", "failed", "rolled_back"
ROLLOUT, WITHDRAWN, RECONCILED = "rollout", "withdrawn", "reconciled"
PAUSED, RESUMED = "paused", "resumed"
_LOCK = 0x70726F6D  # "prom"
_WAIT_SECONDS = 120
_LOCK_NOT_AVAILABLE = "55P03"  # SQLSTATE of PostgreSQL


class DeployedVersion(NamedTuple):
    """A registered version, where it comes from, and the digest of its bundle (None while it has none)."""

    model_version: str
    run_id: str
    snapshot_id: str
    bundle_digest: str | None


class RecordedDecision(NamedTuple):
    """A row of the table."""

    version: DeployedVersion
    decision: str
    decided_at: datetime


class DeploymentState(NamedTuple):
    """What should serve, by the decisions so far.

    Attributes:
        served: versions that serve or served, oldest first; the last should serve now, a rollback returns to the one
            before it.
        rollout: the start of the rollout under way, if there is one.
        paused_at: when somebody paused it; None while it runs.
        paused_for: how long it was paused before.
    """

    served: list[DeployedVersion]
    rollout: RecordedDecision | None
    paused_at: datetime | None = None
    paused_for: timedelta = timedelta(0)


def read_state(warehouse: Engine) -> DeploymentState:
    """Reads the decisions and returns the state they lead to."""
    with warehouse.connect() as connection:
        rows = connection.execute(statement("promotion/decisions")).all()
    return replay_decisions(RecordedDecision(DeployedVersion(*row[:4]), row.decision, row.decided_at) for row in rows)


def replay_decisions(decisions: Iterable[RecordedDecision]) -> DeploymentState:
    """Returns the state that decisions, oldest first, lead to: a promotion is pushed on a stack, a rollback pops it."""
    served: list[DeployedVersion] = []
    rollout: RecordedDecision | None = None
    paused_at: datetime | None = None
    paused_for = timedelta(0)
    for recorded in decisions:
        if recorded.decision == PROMOTED:
            served.append(recorded.version)
        elif recorded.decision == ROLLED_BACK:
            served[-2:] = [recorded.version]
        elif recorded.decision == RECONCILED:
            served[-1:] = [recorded.version]
        if recorded.decision == ROLLOUT:
            rollout, paused_at, paused_for = recorded, None, timedelta(0)
        elif rollout is not None and _ends_rollout(rollout, recorded):
            rollout, paused_at, paused_for = None, None, timedelta(0)
        elif recorded.decision == PAUSED and rollout is not None:
            paused_at = paused_at or recorded.decided_at
        elif recorded.decision == RESUMED and paused_at is not None:
            paused_for += recorded.decided_at - paused_at
            paused_at = None
    return DeploymentState(served, rollout, paused_at, paused_for)


def _ends_rollout(rollout: RecordedDecision, later: RecordedDecision) -> bool:
    same_version = later.version.model_version == rollout.version.model_version
    return later.decision == ROLLED_BACK or (same_version and later.decision in (PROMOTED, FAILED, WITHDRAWN))


def insert_decision(
    warehouse: Engine,
    version: DeployedVersion,
    decision: str,
    reasons: Sequence[str],
    approved_by: str | None = None,
    evidence: Any = None,
) -> None:
    """Inserts a decision with every reason; a refusal of the same bundle for the same reasons is stored once."""
    row = {
        **version._asdict(),
        "decision": decision,
        "reasons": json.dumps(list(reasons)),
        "approved_by": approved_by,
        "evidence": None if evidence is None else json.dumps(evidence),
    }
    with warehouse.begin() as connection:
        connection.execute(statement("promotion/insert_decision"), row)


@contextmanager
def deployment_lock(warehouse: Engine, wait_seconds: int = _WAIT_SECONDS) -> Iterator[None]:
    """Holds the lock that every change of the deployment takes; it is released if the process dies.

    Raises:
        UnavailableError: another process holds the lock and did not release it within `wait_seconds`.
    """
    with warehouse.begin() as connection:
        connection.execute(text(f"set local lock_timeout = '{max(1000 * wait_seconds, 1)}ms'"))
        try:
            connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                raise
            raise UnavailableError("Another promotion or rollback is under way; try again when it has ended") from error
        yield
