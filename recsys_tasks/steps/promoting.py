"""A challenger through the gate, past whoever approves, and onto the endpoints."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from recsys_tasks.errors import InputError, OtherModelFormat
from recsys_tasks.evaluation.comparison import Comparison
from recsys_tasks.evaluation.gate import Decision, Evidence, GateRules, decide, read_rules
from recsys_tasks.names import CHALLENGER, CHAMPION
from recsys_tasks.promotion.build import build_bundle, measure_bundle
from recsys_tasks.promotion.push import push, roll_back
from recsys_tasks.registry import runs, versions
from recsys_tasks.settings import settings
from recsys_tasks.steps.featuring import snapshot
from recsys_tasks.warehouse import engine, statement

log = logging.getLogger(__name__)
AUTOMATIC = "automatic"


def build(number: str | None = None) -> tuple[str, Path]:
    """Builds the bundle of a version, by default the challenger; its number and the bundle's folder.

    Raises:
        InputError: there is no challenger.
    """
    version = versions.version_by_number(number) if number else versions.version_by_alias(CHALLENGER)
    if version is None:
        raise InputError("There is no challenger; train a model first")
    return version.number, build_bundle(version, snapshot(version.snapshot_id), settings().home / "bundles")


def judge(number: str, folder: Path) -> Decision:
    """The gate's decision about a version and its bundle, recorded in MLflow; a refusal in the warehouse too."""
    version, rules = versions.version_by_number(number), read_rules(settings().gate_rules)
    decision = decide(rules, _evidence(version, rules, folder))
    runs.log_decision(version, decision)
    if not decision.promote:
        _record(version, "refused", decision.reasons, evidence=decision.as_dict())
    for reason in decision.reasons:
        log.info("Version %s: %s", version.number, reason)
    return decision


def activate(
    number: str, folder: Path, reasons: Sequence[str] = (), approved_by: str = AUTOMATIC, evidence: object = None
) -> None:
    """Pushes a version's bundle to every endpoint and, once all serve it, makes it the champion."""
    version = versions.version_by_number(number)
    try:
        push(folder, settings().endpoint_urls, settings().require_admin_token())
    except Exception as error:
        _record(version, "failed", [str(error)], folder.name, approved_by, evidence)
        raise
    versions.move_champion(version)
    runs.log_approval(version, approved_by)
    with engine().connect() as connection:
        latest = connection.execute(statement("promotion/latest")).one_or_none()
    if latest is None or (latest.model_version, latest.bundle_digest) != (version.number, folder.name):
        _record(version, "promoted", reasons, folder.name, approved_by, evidence)


def reject(number: str, reasons: Sequence[str], rejected_by: str, evidence: object = None) -> None:
    """Records that somebody said no to a version that the gate would have let through."""
    version = versions.version_by_number(number)
    _record(version, "refused", [f"rejected by {rejected_by}", *reasons], approved_by=None, evidence=evidence)


def rollback() -> str:
    """Puts the previous model back on every endpoint, and the alias with it; the version that serves now."""
    number = roll_back(settings().endpoint_urls, settings().require_admin_token())
    version = versions.version_by_number(number)
    versions.move_champion(version)
    _record(version, "rolled_back", ["asked for by hand"])
    return number


def _evidence(version: versions.Version, rules: GateRules, folder: Path) -> Evidence:
    from recsys_tasks.steps.training import evaluate_run  # brings torch, which only judging needs

    table = runs.evaluation_of(version.run_id) or evaluate_run(version.run_id)
    comparison, notes, same_schema = None, [], True
    champion = versions.version_by_alias(CHAMPION)
    if champion is None:
        notes.append("there is no champion yet: the baselines decide")
    elif champion.number == version.number:
        notes.append("it is the champion: the baselines decide")
    else:
        comparison, problem = _compared(version, champion, rules.champion.confidence)
        same_schema = versions.signature(version) == versions.signature(champion)
        notes += [problem] if problem else []
    measured = measure_bundle(folder) | {"cutoff_age_days": _cutoff_age(version)}
    return Evidence(table, comparison, measured, same_schema, notes)


def _compared(
    version: versions.Version, champion: versions.Version, confidence: float
) -> tuple[Comparison | None, str | None]:
    """The comparison with the champion on the version's test sessions, or why there is none."""
    from recsys_tasks.steps.training import compare_runs

    try:
        comparison = compare_runs(version.run_id, champion.run_id, confidence)
    except (OtherModelFormat, InputError) as error:
        return None, f"not compared with champion version {champion.number}: {error}"
    runs.log_comparison(version.run_id, champion.number, comparison)
    return comparison, None


def _cutoff_age(version: versions.Version) -> float:
    """How many days the version's snapshot is behind the warehouse's latest event."""
    with engine().connect() as connection:
        last_event = connection.scalar(statement("promotion/last_event"))
    if last_event is None:
        return 0.0
    behind: timedelta = last_event - snapshot(version.snapshot_id).cutoff
    return max(behind / timedelta(days=1), 0.0)


def _record(
    version: versions.Version,
    decision: str,
    reasons: Sequence[str],
    digest: str | None = None,
    approved_by: str | None = None,
    evidence: object = None,
) -> None:
    with engine().begin() as connection:
        connection.execute(
            statement("promotion/record"),
            {
                "model_version": version.number,
                "run_id": version.run_id,
                "snapshot_id": version.snapshot_id,
                "bundle_digest": digest,
                "decision": decision,
                "reasons": json.dumps(list(reasons)),
                "approved_by": approved_by,
                "evidence": None if evidence is None else json.dumps(evidence),
            },
        )
