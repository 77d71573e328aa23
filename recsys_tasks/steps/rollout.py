"""A challenger on trial beside the champion: in the shadow, as a canary, and then for everybody or for nobody."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from recsys_tasks.engine.bundle import Bundle, read_bundle
from recsys_tasks.errors import InvariantError
from recsys_tasks.evaluation.gate import TrialRules, read_rules
from recsys_tasks.experiments.sequential_tests import Acting, chance, loses
from recsys_tasks.promotion import deployment_record
from recsys_tasks.registry import versions
from recsys_tasks.serving.rollout import CANARY, SHADOW
from recsys_tasks.settings import settings
from recsys_tasks.steps.promotion import endpoints, failure_on_record, stage, subject_of
from recsys_tasks.warehouse import engine, statement

log = logging.getLogger(__name__)


class TrialLost(InvariantError):
    """A challenger failed beside the champion; it is withdrawn, and the champion serves everybody."""


class Phase(NamedTuple):
    """A part of a trial: how, to what share, and from when until when."""

    mode: str
    share: float
    begins: datetime
    ends: datetime


def begin(number: str, folder: Path, approved_by: str, evidence: object = None) -> datetime | None:
    """Stages a version's bundle everywhere and begins its trial; when that was. A trial that is on goes on.

    None without a champion: there is nothing to try a first model beside, and nobody to answer the others meanwhile.

    Raises:
        PushFailed, UnavailableError: as `promoting.activate`; the champion serves as before.
    """
    bundle = read_bundle(folder)
    with deployment_record.one_at_a_time(engine()), failure_on_record(bundle, approved_by, evidence):
        versions.version_by_number(number)
        served, trial = deployment_record.standing(engine())
        if trial is not None and trial.subject.bundle_digest == bundle.digest:
            return trial.decided_at
        if not served:
            return None
        fleet = endpoints()
        stage(fleet, bundle, served[-1].bundle_digest)
        began = datetime.now(UTC)
        phase = phases(began)[0]
        asked = fleet.begin_trial(bundle.digest, _terms(phase, _rules()))
        if asked.problems:
            fleet.discard(bundle.digest)
            raise next(iter(asked.problems.values()))
        reason = f"{phase.mode} of {phase.share:.1%}"
        deployment_record.record(engine(), subject_of(bundle), deployment_record.TRIAL, [reason], approved_by, evidence)
    return began


def look(folder: Path, began: datetime | None) -> list[str] | None:
    """Looks after a trial: what it came to if it is over and passed, None if it goes on.

    Endpoints that came back meanwhile take part again; one that is away is left out until then.

    Raises:
        TrialLost: the challenger failed, or somebody ended its trial. It is withdrawn everywhere.
    """
    if began is None:
        return ["there was no champion to be tried beside"]
    bundle = read_bundle(folder)
    with deployment_record.one_at_a_time(engine()):
        trial = deployment_record.standing(engine()).trial
        if trial is None or trial.subject.bundle_digest != bundle.digest:
            raise TrialLost(f"Version {bundle.model_version} is not on trial any more; `promotions` says why")
        now = datetime.now(UTC)
        phase = next((phase for phase in phases(began) if now < phase.ends), None)
        problems, findings = _look_at(bundle, phase, began)
        if problems:
            endpoints().discard(bundle.digest)
            deployment_record.record(engine(), subject_of(bundle), deployment_record.WITHDRAWN, problems + findings)
            raise TrialLost(f"Version {bundle.model_version} is withdrawn: {'; '.join(problems)}")
        for finding in findings:
            log.info("Version %s on trial: %s", bundle.model_version, finding)
        return findings if phase is None else None


def phases(began: datetime) -> list[Phase]:
    """The phases of a trial that began at a time, by the settings."""
    chosen, found = settings(), []
    plan = (
        (SHADOW, chosen.shadow_share, timedelta(minutes=chosen.shadow_minutes)),
        (CANARY, chosen.canary_share, timedelta(hours=chosen.canary_hours)),
    )
    for mode, share, length in plan:
        if share:
            found.append(Phase(mode, share, began, began + length))
            began += length
    return found


def _look_at(bundle: Bundle, phase: Phase | None, began: datetime) -> tuple[list[str], list[str]]:
    """What speaks against the challenger, and what else there is to say."""
    fleet, rules = endpoints(), _rules()
    if phase is None:
        asked = fleet.models()
        reports = {url: models["staged"] for url, models in asked.found.items()}
    else:
        fleet.stage_again(bundle.folder, bundle.digest)
        asked = fleet.begin_trial(bundle.digest, _terms(phase, rules))
        reports = asked.found
    problems, findings = [], [f"{url} takes no part: {error}" for url, error in asked.problems.items()]
    for url, report in reports.items():
        if report is None or report["bundle"] != bundle.digest:
            continue
        if report["ended"]:
            problems.append(f"{url}: {report['ended']}")
        findings.append(f"{url}: {_shown(report)}")
    canary = next((phase for phase in phases(began) if phase.mode == CANARY), None)
    if canary is not None and datetime.now(UTC) >= canary.begins:
        lost, finding = _clicks(bundle, canary.begins, rules)
        findings.append(finding)
        problems += [finding] if lost else []
    return problems, findings


def _clicks(bundle: Bundle, since: datetime, rules: TrialRules) -> tuple[bool, str]:
    """Whether fewer people act on what the challenger shows, and the figures."""
    against = deployment_record.standing(engine()).served[-1].model_version
    names = {"since": since, "challenger": bundle.model_version, "champion": against}
    with engine().connect() as connection:
        rows = connection.execute(statement("promotion/rollout_clicks"), names).all()
    found = {row.model_version: Acting(row.people, row.acting) for row in rows}
    nobody = Acting(0, 0)
    ours, theirs = found.get(bundle.model_version, nobody), found.get(against, nobody)
    shown = (
        f"{ours.acting} of {ours.people} people acted on what version {bundle.model_version} showed them,"
        f" {theirs.acting} of {theirs.people} on the champion's (p = {chance(theirs, ours):.3f})"
    )
    if min(ours.people, theirs.people) < rules.least_people:
        shown += f"; fewer than {rules.least_people} people, not judged"
    return loses(theirs, ours, rules.confidence, rules.least_people), shown


def _shown(report: dict[str, Any]) -> str:
    parts = [f"{report['answers']} answers, {report['errors']} failed"]
    if report["milliseconds"] is not None and report["serving_milliseconds"] is not None:
        parts.append(
            f"{report['milliseconds']:.1f} ms against {report['serving_milliseconds']:.1f} ms (95th percentile)"
        )
    if report["overlap"] is not None:
        parts.append(f"{report['overlap']:.0%} of the champion's items")
    return ", ".join(parts)


def _terms(phase: Phase, rules: TrialRules) -> dict[str, Any]:
    return {
        "mode": phase.mode,
        "share": phase.share,
        "error_share": rules.error_share,
        "latency_ratio": rules.latency_ratio,
    }


def _rules() -> TrialRules:
    return read_rules(settings().gate_rules).trial
