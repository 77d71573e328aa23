"""Activation of a version at every endpoint: staged within the limits, activated, recorded, and made the champion."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from recsys_tasks.client.fleet import Fleet, PushFailed
from recsys_tasks.engine.bundle import Bundle, read_bundle
from recsys_tasks.errors import InputError, UnavailableError
from recsys_tasks.evaluation.gate import check_limits
from recsys_tasks.promotion import deployment_record
from recsys_tasks.promotion.bundle_store import version_of_bundle
from recsys_tasks.promotion.deployment import Deployment
from recsys_tasks.promotion.deployment_record import DeployedVersion
from recsys_tasks.registry import runs, versions

log = logging.getLogger(__name__)
AUTOMATIC = "automatic"


def activate(
    deployment: Deployment,
    number: str,
    folder: Path,
    reasons: Sequence[str] = (),
    approved_by: str = AUTOMATIC,
    evidence: object = None,
) -> None:
    """Activates a version's bundle at every endpoint, records the promotion, and moves the alias `champion`.

    Steps that are done are not repeated, so a retry continues where the process was killed. The old version counts as
    deployed until every endpoint serves the bundle and the promotion is recorded.

    Raises:
        InputError: the version was not trained, and a trained one serves.
        PushFailed: an endpoint refused the bundle or answers wrongly; the old version serves everywhere.
        UnavailableError: an endpoint, the registry, or another promotion under way; likewise, unless the message says
            that only the alias is missing.
    """
    bundle = read_bundle(folder)
    with deployment_record.deployment_lock(deployment.warehouse):
        with record_failure(deployment, bundle, approved_by, evidence):
            versions.version_by_number(number)  # finds out that the registry is away before anything changes
            fleet, served = deployment.fleet, deployment_record.read_state(deployment.warehouse).served
            active_digest = served[-1].bundle_digest if served else None
            require_trained(number, bundle, served)
            stage_within_limits(deployment, fleet, bundle, active_digest)
            fleet.activate(bundle, active_digest)
        if active_digest != bundle.digest:
            deployment_record.insert_decision(
                deployment.warehouse,
                version_of_bundle(bundle),
                deployment_record.PROMOTED,
                reasons,
                approved_by,
                evidence,
            )
        update_registry(deployment, f"champion since {utc_now()}", approved_by=approved_by)


def require_trained(number: str, bundle: Bundle, served: Sequence[DeployedVersion]) -> None:
    """Refuses an untrained version in place of a trained one, which may have been promoted since the gate.

    Raises:
        InputError: the version was not trained, and the one that serves was.
    """
    if served and not bundle.is_trained and runs.is_trained(served[-1].run_id):
        raise InputError(f"Version {number} was not trained, and a trained version serves. Train a version first")


def reject(
    deployment: Deployment, number: str, reasons: Sequence[str], rejected_by: str, evidence: object = None
) -> None:
    """Records that a person rejected a version which had passed the gate; not if it was promoted meanwhile."""
    served = deployment_record.read_state(deployment.warehouse).served
    if any(version.model_version == number for version in served):
        log.warning("Version %s was promoted already; its rejection by %s is ignored", number, rejected_by)
        return
    version = versions.version_by_number(number)
    deployment_record.insert_decision(
        deployment.warehouse,
        DeployedVersion(version.number, version.run_id, version.snapshot_id, None),
        deployment_record.REFUSED,
        [f"rejected by {rejected_by}", *reasons],
        None,
        evidence,
    )


def stage_within_limits(deployment: Deployment, fleet: Fleet, bundle: Bundle, active_digest: str | None) -> None:
    """Stages a bundle at every endpoint, if its measurements are within the gate's limits at each of them.

    Raises:
        PushFailed: an endpoint refused it, or it exceeds a limit there; it is staged nowhere.
    """
    limits = deployment.gate_rules.limits
    for url, measured in fleet.stage(bundle.folder, bundle.digest, active_digest).items():
        here = {name: limit for name, limit in limits.items() if name in measured}
        broken = [f"{result.rule}: {result.found}" for result in check_limits(here, measured) if not result.passed]
        if broken:
            fleet.discard(bundle.digest)
            raise PushFailed(f"At {url}: {'; '.join(broken)}")


@contextmanager
def record_failure(deployment: Deployment, bundle: Bundle, approved_by: str, evidence: object) -> Iterator[None]:
    """Records why something failed, then raises the error again."""
    try:
        yield
    except Exception as error:
        deployment_record.insert_decision(
            deployment.warehouse,
            version_of_bundle(bundle),
            deployment_record.FAILED,
            [str(error)],
            approved_by,
            evidence,
        )
        raise


def update_registry(deployment: Deployment, serving: str, **tags: str) -> None:
    """Points the aliases `champion` and `previous` where the record says, and tags the champion.

    Raises:
        UnavailableError: the registry does not answer; the endpoints serve the version all the same.
    """
    served = deployment_record.read_state(deployment.warehouse).served
    try:
        versions.set_aliases(served[-1].model_version, served[-2].model_version if served[1:] else None)
        runs.tag(versions.version_by_number(served[-1].model_version), serving=serving, **tags)
    except UnavailableError as error:
        raise UnavailableError(
            f"Version {served[-1].model_version} serves everywhere, only the registry does not know yet: {error}."
            " Try again, or let `python -m recsys_tasks reconcile` put it right"
        ) from error


def utc_now() -> str:
    """Returns the present time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
