"""Promotion of a version: bundle, gate, rollout, activation, rollback, reconciliation; with this process's settings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from recsys_tasks.errors import RecsysError
from recsys_tasks.evaluation.gate import WAIT, Decision
from recsys_tasks.promotion import activation, bundle_store, gate_check, reconciliation, rollback, rollout
from recsys_tasks.promotion.activation import AUTOMATIC
from recsys_tasks.promotion.deployment import Deployment
from recsys_tasks.settings import settings
from recsys_tasks.warehouse import engine

_ROLLOUT_POLL_SECONDS = 10.0

__all__ = [
    "AUTOMATIC",
    "Promotion",
    "PromotionRefused",
    "activate",
    "build",
    "check_rollout",
    "deployment",
    "find_bundle",
    "judge",
    "pause_rollout",
    "promote",
    "reconcile",
    "reject",
    "resume_rollout",
    "roll_back",
    "start_rollout",
]


class PromotionRefused(RecsysError):
    """The gate refused a version, or waits for sessions; the message has the reasons."""


class Promotion(NamedTuple):
    """A promoted version, the digest of its bundle, and the reasons of the gate."""

    version: str
    bundle: str
    reasons: list[str]


def deployment() -> Deployment:
    """The deployment that the settings of this process describe."""
    return Deployment(engine(), settings())


def build(number: str | None = None) -> tuple[str, Path]:
    """Builds a version's bundle, by default the challenger's; returns the version's number and the bundle's folder."""
    return bundle_store.build_version(deployment(), number)


def find_bundle(number: str, digest: str) -> Path:
    """Returns the folder of a version's bundle on this machine; fetches or builds it if another machine built it."""
    return bundle_store.find_bundle(deployment(), number, digest)


def judge(number: str, folder: Path) -> Decision:
    """Applies the gate to a version and its bundle."""
    return gate_check.check_gate(deployment(), number, folder)


def promote(number: str | None, approved_by: str) -> Promotion:
    """Builds and judges a version, rolls it out and activates it.

    Args:
        number: version number; default: the challenger.
        approved_by: who approves it.

    Raises:
        PromotionRefused: the gate refuses the version, or waits for more sessions.
        RolloutFailed: the challenger failed in its rollout, or somebody ended it.
    """
    number, folder = build(number)
    decision = judge(number, folder)
    if not decision.promote:
        verdict = "waits" if decision.verdict == WAIT else "is refused"
        raise PromotionRefused("\n  ".join([f"Version {number} {verdict}", *decision.reasons]))
    if settings().has_rollout:
        started_at = start_rollout(number, folder, approved_by, decision.as_dict())
        while (findings := check_rollout(folder, started_at)) is None:
            time.sleep(_ROLLOUT_POLL_SECONDS)
        decision.notes.extend(findings)
    activate(number, folder, decision.reasons, approved_by, decision.as_dict())
    return Promotion(number, folder.name, decision.reasons)


def reject(number: str, reasons: Sequence[str], rejected_by: str, evidence: object = None) -> None:
    """Records that a person rejected a version."""
    activation.reject(deployment(), number, reasons, rejected_by, evidence)


def start_rollout(number: str, folder: Path, approved_by: str, evidence: object = None) -> datetime | None:
    """Starts the rollout of a version; returns when it started, None if there is nothing to compare with."""
    return rollout.start_rollout(deployment(), number, folder, approved_by, evidence)


def check_rollout(folder: Path, started_at: datetime | None) -> list[str] | None:
    """Checks a rollout; returns its findings once it is over and passed, None before."""
    return rollout.check_rollout(deployment(), folder, started_at)


def pause_rollout(reason: str, by: str) -> str:
    """Pauses the rollout under way; returns the challenger's version."""
    return rollout.pause_rollout(deployment(), reason, by)


def resume_rollout(reason: str, by: str) -> str:
    """Resumes a paused rollout; returns the challenger's version."""
    return rollout.resume_rollout(deployment(), reason, by)


def activate(
    number: str, folder: Path, reasons: Sequence[str] = (), approved_by: str = AUTOMATIC, evidence: object = None
) -> None:
    """Activates a version's bundle at every endpoint and makes the version the champion."""
    activation.activate(deployment(), number, folder, reasons, approved_by, evidence)


def roll_back(reason: str = "asked for by hand", by: str | None = None, bad_version: str | None = None) -> str:
    """Ends the rollout or returns to the previous version; returns the version that serves now."""
    return rollback.roll_back(deployment(), reason, by, bad_version)


def reconcile() -> reconciliation.ReconciliationReport:
    """Puts right what differs from the deployment record."""
    return reconciliation.reconcile(deployment())
