"""The table `promotions`: every decision about a version, and by them, what is to serve."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from recsys_tasks.errors import UnavailableError
from recsys_tasks.warehouse import statement

PROMOTED, REFUSED, FAILED, ROLLED_BACK = "promoted", "refused", "failed", "rolled_back"
TRIAL, WITHDRAWN, RECONCILED = "trial", "withdrawn", "reconciled"
_LOCK = 0x70726F6D  # "prom"
_WAIT_SECONDS = 120


class Subject(NamedTuple):
    """What a decision is about: a version, where it comes from, and its bundle."""

    model_version: str
    run_id: str
    snapshot_id: str
    bundle_digest: str | None


class Decided(NamedTuple):
    """A decision of the table."""

    subject: Subject
    decision: str
    decided_at: datetime


class Standing(NamedTuple):
    """What the decisions come to.

    Attributes:
        served: what served, oldest first; the last is to serve now, a rollback goes to the one before it.
        trial: what is on trial beside it, if anything.
    """

    served: list[Subject]
    trial: Decided | None


def standing(warehouse: Engine) -> Standing:
    """What is to serve, and what is on trial."""
    with warehouse.connect() as connection:
        rows = connection.execute(statement("promotion/decisions")).all()
    return follow(Decided(Subject(*row[:4]), row.decision, row.decided_at) for row in rows)


def follow(decisions: Iterable[Decided]) -> Standing:
    """What decisions come to, oldest first: a promotion comes on top, a rollback takes the top away."""
    served: list[Subject] = []
    trial: Decided | None = None
    for decided in decisions:
        if decided.decision == PROMOTED:
            served.append(decided.subject)
        elif decided.decision == ROLLED_BACK:
            served[-2:] = [decided.subject]
        elif decided.decision == RECONCILED:
            served[-1:] = [decided.subject]
        if decided.decision == TRIAL:
            trial = decided
        elif trial is not None and _ends(trial, decided):
            trial = None
    return Standing(served, trial)


def _ends(trial: Decided, later: Decided) -> bool:
    same = later.subject.model_version == trial.subject.model_version
    return later.decision == ROLLED_BACK or (same and later.decision in (PROMOTED, FAILED, WITHDRAWN))


def record(
    warehouse: Engine,
    subject: Subject,
    decision: str,
    reasons: Sequence[str],
    approved_by: str | None = None,
    evidence: Any = None,
) -> None:
    """Writes a decision down, with every reason; a refusal of the same bundle for the same reasons once only."""
    row = {
        **subject._asdict(),
        "decision": decision,
        "reasons": json.dumps(list(reasons)),
        "approved_by": approved_by,
        "evidence": None if evidence is None else json.dumps(evidence),
    }
    with warehouse.begin() as connection:
        connection.execute(statement("promotion/insert_decision"), row)


@contextmanager
def one_at_a_time(warehouse: Engine, wait_seconds: int = _WAIT_SECONDS) -> Iterator[None]:
    """Whoever changes what serves holds this; a process that dies lets go of it.

    Raises:
        UnavailableError: another one holds it, and did not let go in time.
    """
    with warehouse.begin() as connection:
        connection.execute(text(f"set local lock_timeout = '{max(1000 * wait_seconds, 1)}ms'"))
        try:
            connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != "55P03":
                raise
            raise UnavailableError("Another promotion or rollback is under way; try again when it has ended") from error
        yield
