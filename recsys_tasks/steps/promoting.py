"""A challenger through the gate and onto the endpoints."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from recsys_tasks.errors import InputError, OtherModelFormat
from recsys_tasks.evaluation.gate import Decision, decide
from recsys_tasks.names import CHALLENGER, CHAMPION, MUST_BEAT
from recsys_tasks.promotion.build import build_bundle
from recsys_tasks.promotion.push import push, roll_back
from recsys_tasks.registry import runs, versions
from recsys_tasks.settings import settings
from recsys_tasks.steps.featuring import snapshot
from recsys_tasks.warehouse import engine, statement

log = logging.getLogger(__name__)


def judge(number: str | None = None) -> tuple[str, Decision]:
    """The gate's decision about a version (by default the challenger), recorded in MLflow.

    A refusal is recorded in the warehouse too.

    Raises:
        InputError: there is no challenger.
    """
    from recsys_tasks.steps.training import evaluate_on, evaluate_run  # brings torch, which only judging needs

    version = versions.version_by_number(number) if number else versions.version_by_alias(CHALLENGER)
    if version is None:
        raise InputError("There is no challenger; train a model first")
    table = runs.evaluation_of(version.run_id) or evaluate_run(version.run_id)
    champion = versions.version_by_alias(CHAMPION)
    rival, notes = champion if champion is not None and champion.number != version.number else None, []
    if rival is not None:
        try:
            table["champion"] = evaluate_on(rival.run_id, version.run_id)
        except OtherModelFormat as error:
            notes, rival = [f"not compared with champion version {rival.number}: {error}"], None
        else:
            runs.log_evaluation(version.run_id, {"champion": table["champion"]})
    decision = decide(table, MUST_BEAT, "champion" if rival else None, settings().champion_margin)
    decision = replace(decision, reasons=decision.reasons + notes)
    runs.tag_decision(version, "promote" if decision.promote else "refuse", decision.reasons)
    if not decision.promote:
        _record(version, "refused", decision.reasons)
    for reason in decision.reasons:
        log.info("Version %s: %s", version.number, reason)
    return version.number, decision


def bundle(number: str) -> Path:
    """Builds the bundle of a version; its folder."""
    version = versions.version_by_number(number)
    return build_bundle(version, snapshot(version.snapshot_id), settings().home / "bundles")


def activate(number: str, folder: Path, reasons: Sequence[str] = ()) -> None:
    """Pushes a version's bundle to every endpoint and, once all serve it, makes it the champion."""
    version = versions.version_by_number(number)
    try:
        push(folder, settings().endpoint_urls, settings().require_admin_token())
    except Exception as error:
        _record(version, "failed", [str(error)], folder.name)
        raise
    versions.move_champion(version)
    with engine().connect() as connection:
        latest = connection.execute(statement("promotion/latest")).one_or_none()
    if latest is None or (latest.model_version, latest.bundle_digest) != (version.number, folder.name):
        _record(version, "promoted", reasons, folder.name)


def rollback() -> str:
    """Puts the previous model back on every endpoint, and the alias with it; the version that serves now."""
    number = roll_back(settings().endpoint_urls, settings().require_admin_token())
    version = versions.version_by_number(number)
    versions.move_champion(version)
    _record(version, "rolled_back", ["asked for by hand"])
    return number


def _record(version: versions.Version, decision: str, reasons: Sequence[str], digest: str | None = None) -> None:
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
            },
        )
