"""Reconciliation: endpoints and registry aliases that differ from the deployment record are put right."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from recsys_tasks.client.fleet import Fleet
from recsys_tasks.errors import RecsysError, UnavailableError
from recsys_tasks.promotion import deployment_record
from recsys_tasks.promotion.bundle_store import find_bundle, remove_unused_bundles
from recsys_tasks.promotion.deployment import Deployment
from recsys_tasks.promotion.deployment_record import DeploymentState
from recsys_tasks.promotion.rollout import rollout_phases
from recsys_tasks.registry import versions

log = logging.getLogger(__name__)
_NO_WAIT = 0
_ROLLOUT_GRACE = timedelta(hours=24)


class ReconciliationReport(NamedTuple):
    """The version that the record says is deployed, what was put right, and what could not be."""

    version: str | None
    changes: list[str]
    problems: list[str]

    def raise_problems(self) -> None:
        """Raises `UnavailableError` if something could not be put right."""
        if self.problems:
            raise UnavailableError(f"Version {self.version} is to serve, but: {'; '.join(self.problems)}")


def reconcile(deployment: Deployment) -> ReconciliationReport:
    """Compares endpoints and aliases with the record, puts right what differs, and records the changes.

    Raises:
        UnavailableError: a promotion or rollback is under way.
    """
    with deployment_record.deployment_lock(deployment.warehouse, wait_seconds=_NO_WAIT):
        state, fleet = deployment_record.read_state(deployment.warehouse), deployment.fleet
        if not state.served:
            fleet.discard()
            return ReconciliationReport(None, [], [])
        current = state.served[-1]
        state = _end_stale_rollout(deployment, state, fleet)
        changes, problems = _reconcile_endpoints(deployment, state, fleet)
        try:
            previous = state.served[-2].model_version if state.served[1:] else None
            changes += versions.set_aliases(current.model_version, previous)
        except RecsysError as error:
            problems.append(f"aliases: {error}")
        if changes:
            deployment_record.insert_decision(deployment.warehouse, current, deployment_record.RECONCILED, changes)
        approval_wait = timedelta(hours=deployment.settings.approval_hours)
        remove_unused_bundles(deployment, state, approval_wait + _ROLLOUT_GRACE)
    for change in changes:
        log.warning("Put right: %s", change)
    return ReconciliationReport(current.model_version, changes, problems)


def _end_stale_rollout(deployment: Deployment, state: DeploymentState, fleet: Fleet) -> DeploymentState:
    """Ends a rollout that is long over its time because no task checks it any more."""
    rollout = state.rollout
    if rollout is None or state.paused_at is not None:
        return state
    started_at = rollout.decided_at + state.paused_for
    phases = rollout_phases(deployment.rollout_plan, started_at)
    ends_at = max((phase.ends_at for phase in phases), default=started_at)
    if datetime.now(UTC) < ends_at + _ROLLOUT_GRACE:
        return state
    fleet.discard(rollout.version.bundle_digest)
    reasons = ["no task checked its rollout any more"]
    deployment_record.insert_decision(deployment.warehouse, rollout.version, deployment_record.WITHDRAWN, reasons)
    return state._replace(rollout=None)


def _reconcile_endpoints(deployment: Deployment, state: DeploymentState, fleet: Fleet) -> tuple[list[str], list[str]]:
    current = state.served[-1]
    digest = current.bundle_digest or ""
    in_rollout = state.rollout.version.bundle_digest if state.rollout else None
    changes = []
    for url, models in fleet.models().responses.items():
        staged = models["staged"]
        if staged is not None and staged["bundle"] not in (in_rollout, current.bundle_digest):
            fleet.discard(staged["bundle"])
            changes.append(f"{url} kept version {staged['model_version']} staged from a promotion that did not finish")
    try:
        response = fleet.restore(digest, lambda: find_bundle(deployment, current.model_version, digest))
    except RecsysError as error:  # the bundle is gone and cannot be built again
        return changes, [str(error)]
    changes += [
        f"{url} served {f'version {version}' if version else 'nothing'}" for url, version in response.responses.items()
    ]
    return changes, [f"{url}: {error}" for url, error in response.problems.items()]
