"""Rollout of a challenger beside the champion: shadow traffic first, then a canary, then everybody or nobody."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from recsys_tasks.client.fleet import FleetResponse
from recsys_tasks.engine.bundle import Bundle, read_bundle
from recsys_tasks.errors import InputError, InvariantError
from recsys_tasks.evaluation.gate import RolloutRules
from recsys_tasks.experiments.sequential_tests import ActingVisitors, is_significantly_worse, p_value
from recsys_tasks.names import CANARY, SHADOW
from recsys_tasks.promotion import deployment_record
from recsys_tasks.promotion.activation import record_failure, require_trained, stage_within_limits
from recsys_tasks.promotion.bundle_store import version_of_bundle
from recsys_tasks.promotion.deployment import Deployment, RolloutPlan
from recsys_tasks.registry import runs, versions
from recsys_tasks.warehouse import statement

log = logging.getLogger(__name__)
_HELD_TERMS: Mapping[str, Any] = {"mode": "held", "share": 0.0}


class RolloutFailed(InvariantError):
    """A challenger failed beside the champion; it is withdrawn, and the champion serves everybody."""


class Phase(NamedTuple):
    """A phase of a rollout: its mode, the share of requests or users, and when it starts and ends."""

    mode: str
    share: float
    starts_at: datetime
    ends_at: datetime


def start_rollout(
    deployment: Deployment, number: str, folder: Path, approved_by: str, evidence: object = None
) -> datetime | None:
    """Stages a version's bundle at every endpoint and starts its rollout; a rollout under way continues.

    Returns:
        When the rollout started; None without a trained champion, since then there is nothing to compare with.

    Raises:
        InputError, PushFailed, UnavailableError: as `activation.activate`; the champion serves as before.
    """
    bundle = read_bundle(folder)
    with (
        deployment_record.deployment_lock(deployment.warehouse),
        record_failure(deployment, bundle, approved_by, evidence),
    ):
        versions.version_by_number(number)
        state = deployment_record.read_state(deployment.warehouse)
        served, rollout = state.served, state.rollout
        if rollout is not None and rollout.version.bundle_digest == bundle.digest:
            return rollout.decided_at
        if not served or not runs.is_trained(served[-1].run_id):
            return None
        require_trained(number, bundle, served)
        fleet = deployment.fleet
        stage_within_limits(deployment, fleet, bundle, served[-1].bundle_digest)
        started_at = datetime.now(UTC)
        phase = rollout_phases(deployment.rollout_plan, started_at)[0]
        response = fleet.start_rollout(bundle.digest, _terms(phase, deployment.gate_rules.rollout))
        if response.problems:
            fleet.discard(bundle.digest)
            raise next(iter(response.problems.values()))
        deployment_record.insert_decision(
            deployment.warehouse,
            version_of_bundle(bundle),
            deployment_record.ROLLOUT,
            [f"{phase.mode} of {phase.share:.1%}"],
            approved_by,
            evidence,
        )
    return started_at


def check_rollout(deployment: Deployment, folder: Path, started_at: datetime | None) -> list[str] | None:
    """Checks a rollout; returns its findings if it is over and passed, None while it continues.

    Endpoints that came back meanwhile take part again; those that are away are skipped until then.

    Raises:
        RolloutFailed: the challenger failed, or somebody ended its rollout. It is withdrawn everywhere.
    """
    if started_at is None:
        return ["there was no trained champion to compare with"]
    bundle = read_bundle(folder)
    with deployment_record.deployment_lock(deployment.warehouse):
        state = deployment_record.read_state(deployment.warehouse)
        if state.rollout is None or state.rollout.version.bundle_digest != bundle.digest:
            raise RolloutFailed(
                f"The rollout of version {bundle.model_version} has ended; the table promotions says why"
            )
        if state.paused_at is not None:
            deployment.fleet.start_rollout(bundle.digest, _HELD_TERMS)  # endpoints that came back pause, too
            return None
        now = datetime.now(UTC)
        phases = rollout_phases(deployment.rollout_plan, started_at + state.paused_for)
        phase = next((phase for phase in phases if now < phase.ends_at), None)
        problems, findings = _inspect(deployment, bundle, phase, phases)
        if problems:
            deployment.fleet.discard(bundle.digest)
            deployment_record.insert_decision(
                deployment.warehouse, version_of_bundle(bundle), deployment_record.WITHDRAWN, problems + findings
            )
            raise RolloutFailed(f"Version {bundle.model_version} is withdrawn: {'; '.join(problems)}")
        for finding in findings:
            log.info("Rollout of version %s: %s", bundle.model_version, finding)
        return findings if phase is None else None


def pause_rollout(deployment: Deployment, reason: str, by: str) -> str:
    """Pauses the rollout under way: the challenger gets no traffic, and the phase is as much longer.

    Returns:
        The challenger's version.

    Raises:
        InputError: no rollout is under way, or it is paused already.
    """
    with deployment_record.deployment_lock(deployment.warehouse):
        state = deployment_record.read_state(deployment.warehouse)
        if state.rollout is None or state.paused_at is not None:
            raise InputError("No rollout is running. Reload the overview")
        version = state.rollout.version
        deployment_record.insert_decision(deployment.warehouse, version, deployment_record.PAUSED, [reason], by)
        _log_problems(deployment.fleet.start_rollout(version.bundle_digest or "", _HELD_TERMS))
    return version.model_version


def resume_rollout(deployment: Deployment, reason: str, by: str) -> str:
    """Resumes a paused rollout in the phase in which it was paused; returns the challenger's version.

    Raises:
        InputError: no rollout is paused.
    """
    with deployment_record.deployment_lock(deployment.warehouse):
        paused = deployment_record.read_state(deployment.warehouse)
        if paused.rollout is None or paused.paused_at is None:
            raise InputError("No rollout is paused. Reload the overview")
        version = paused.rollout.version
        deployment_record.insert_decision(deployment.warehouse, version, deployment_record.RESUMED, [reason], by)
        state = deployment_record.read_state(deployment.warehouse)
        phases = rollout_phases(deployment.rollout_plan, paused.rollout.decided_at + state.paused_for)
        phase = next((phase for phase in phases if datetime.now(UTC) < phase.ends_at), None)
        if phase is not None:
            terms = _terms(phase, deployment.gate_rules.rollout)
            _log_problems(deployment.fleet.start_rollout(version.bundle_digest or "", terms))
    return version.model_version


def _log_problems(response: FleetResponse) -> None:
    for url, error in response.problems.items():
        log.warning("%s follows at the next check of the rollout: %s", url, error)


def rollout_phases(plan: RolloutPlan, started_at: datetime) -> list[Phase]:
    """Returns the phases of a rollout that started at a time."""
    phases = []
    steps = ((SHADOW, plan.shadow_share, plan.shadow_duration), (CANARY, plan.canary_share, plan.canary_duration))
    for mode, share, duration in steps:
        if share:
            phases.append(Phase(mode, share, started_at, started_at + duration))
            started_at += duration
    return phases


def _inspect(
    deployment: Deployment, bundle: Bundle, phase: Phase | None, phases: list[Phase]
) -> tuple[list[str], list[str]]:
    """Returns the problems, which end the rollout, and all other findings."""
    fleet, rules = deployment.fleet, deployment.gate_rules.rollout
    if phase is None:
        response = fleet.models()
        reports = {url: models["staged"] for url, models in response.responses.items()}
    else:
        fleet.stage_missing(bundle.folder, bundle.digest)
        response = fleet.start_rollout(bundle.digest, _terms(phase, rules))
        reports = response.responses
    problems, findings = [], [f"{url} is skipped: {error}" for url, error in response.problems.items()]
    for url, report in reports.items():
        if report is None or report["bundle"] != bundle.digest:
            continue
        if report["ended"]:
            problems.append(f"{url}: {report['ended']}")
        findings.append(f"{url}: {_describe(report)}")
    canary = next((phase for phase in phases if phase.mode == CANARY), None)
    if canary is not None and datetime.now(UTC) >= canary.starts_at:
        is_worse, finding = _compare_clicks(deployment, bundle, canary.starts_at, rules)
        findings.append(finding)
        problems += [finding] if is_worse else []
    return problems, findings


def _compare_clicks(deployment: Deployment, bundle: Bundle, since: datetime, rules: RolloutRules) -> tuple[bool, str]:
    """Returns whether significantly fewer visitors act on the challenger's lists, and the figures."""
    champion = deployment_record.read_state(deployment.warehouse).served[-1].model_version
    names = {"since": since, "challenger": bundle.model_version, "champion": champion}
    with deployment.warehouse.connect() as connection:
        rows = connection.execute(statement("promotion/rollout_clicks"), names).all()
    found = {row.model_version: ActingVisitors(row.people, row.acting) for row in rows}
    nobody = ActingVisitors(0, 0)
    ours, theirs = found.get(bundle.model_version, nobody), found.get(champion, nobody)
    finding = (
        f"{ours.acting} of {ours.people} visitors acted on lists of version {bundle.model_version},"
        f" {theirs.acting} of {theirs.people} on the champion's (p = {p_value(theirs, ours):.3f})"
    )
    if min(ours.people, theirs.people) < rules.min_visitors:
        finding += f"; not tested with fewer than {rules.min_visitors} visitors"
    return is_significantly_worse(theirs, ours, rules.confidence, rules.min_visitors), finding


def _describe(report: dict[str, Any]) -> str:
    parts = [f"{report['answers']} answers, {report['errors']} failed"]
    if report["milliseconds"] is not None and report["serving_milliseconds"] is not None:
        parts.append(
            f"{report['milliseconds']:.1f} ms against {report['serving_milliseconds']:.1f} ms (95th percentile)"
        )
    if report["overlap"] is not None:
        parts.append(f"{report['overlap']:.0%} of the champion's items")
    return ", ".join(parts)


def _terms(phase: Phase, rules: RolloutRules) -> dict[str, Any]:
    return {
        "mode": phase.mode,
        "share": phase.share,
        "error_share": rules.max_error_share,
        "latency_ratio": rules.max_latency_ratio,
    }
