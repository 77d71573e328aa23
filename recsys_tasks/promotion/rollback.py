"""Rollback: ends a rollout, or activates the previous version at every endpoint."""

from __future__ import annotations

from collections.abc import Mapping

from recsys_tasks.client.fleet import Fleet
from recsys_tasks.errors import InputError, RecsysError, UnavailableError
from recsys_tasks.promotion import deployment_record
from recsys_tasks.promotion.activation import update_registry, utc_now
from recsys_tasks.promotion.bundle_store import find_bundle
from recsys_tasks.promotion.deployment import Deployment
from recsys_tasks.promotion.deployment_record import DeployedVersion
from recsys_tasks.registry import runs, versions


def roll_back(deployment: Deployment, reason: str, by: str | None = None, bad_version: str | None = None) -> str:
    """Ends the rollout, or puts the previous version back at every endpoint; returns the version that serves now.

    Args:
        deployment: what to roll back.
        reason: for the record.
        by: who asked for it.
        bad_version: the version to take back. If it serves, a rollout beside it ends, too, since it was measured
            against the bad version; if it is gone already, nothing changes. Default: the version in a rollout or, if
            there is none, the version that serves.

    Raises:
        InputError: no version was promoted before the one that serves.
        UnavailableError: an endpoint or the registry does not answer. All others have gone back; `reconcile` puts the
            rest right.
    """
    with deployment_record.deployment_lock(deployment.warehouse):
        state, fleet = deployment_record.read_state(deployment.warehouse), deployment.fleet
        if not state.served:
            raise InputError("Nothing was promoted so far, so there is nothing to go back to")
        current, rollout = state.served[-1], state.rollout
        if rollout is not None and bad_version in (None, rollout.version.model_version):
            _withdraw(deployment, rollout.version, fleet, reason, by)
            return current.model_version
        if bad_version not in (None, current.model_version):
            return current.model_version
        if len(state.served) < 2:
            raise InputError(f"No version was promoted before {current.model_version}")
        if rollout is not None:
            ended = f"the champion of its rollout, version {current.model_version}, is rolled back: {reason}"
            _withdraw(deployment, rollout.version, fleet, ended, by)
        previous = state.served[-2]
        digest = previous.bundle_digest or ""
        response = fleet.restore(digest, lambda: find_bundle(deployment, previous.model_version, digest))
        reasons = [reason, *_describe(response.problems)]
        deployment_record.insert_decision(deployment.warehouse, previous, deployment_record.ROLLED_BACK, reasons, by)
        update_registry(deployment, f"champion again since {utc_now()}: {reason}")
        left = versions.version_by_number(current.model_version)
        runs.tag(left, serving=f"rolled back at {utc_now()}: {reason}")
    if response.problems:
        raise UnavailableError(
            f"Version {previous.model_version} serves again, but not everywhere:"
            f" {'; '.join(_describe(response.problems))}. `python -m recsys_tasks reconcile` puts the rest right"
        )
    return previous.model_version


def _withdraw(deployment: Deployment, version: DeployedVersion, fleet: Fleet, reason: str, by: str | None) -> None:
    fleet.discard()
    deployment_record.insert_decision(deployment.warehouse, version, deployment_record.WITHDRAWN, [reason], by)


def _describe(problems: Mapping[str, RecsysError]) -> list[str]:
    return [f"{url}: {error}" for url, error in problems.items()]
