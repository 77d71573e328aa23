"""The truth about what serves: the record of promotions; aliases and endpoints that say otherwise are put right."""

from __future__ import annotations

import logging
import shutil
import time
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from recsys_tasks.client.fleet import Fleet
from recsys_tasks.errors import RecsysError, UnavailableError
from recsys_tasks.promotion import deployment_record
from recsys_tasks.registry import versions
from recsys_tasks.settings import settings
from recsys_tasks.steps.promotion import bundles_folder, endpoints, find_bundle
from recsys_tasks.steps.rollout import phases
from recsys_tasks.warehouse import engine

log = logging.getLogger(__name__)
_NO_WAIT = 0
_PATIENCE = timedelta(hours=24)


class Reconciled(NamedTuple):
    """What is to serve, what was put right, and what could not be."""

    version: str | None
    changes: list[str]
    problems: list[str]


def reconcile() -> Reconciled:
    """Compares aliases and endpoints with the record, puts right what differs, and writes that down.

    Raises:
        UnavailableError: a promotion is under way, which knows better.
    """
    with deployment_record.one_at_a_time(engine(), wait_seconds=_NO_WAIT):
        standing = deployment_record.standing(engine())
        fleet = endpoints()
        if not standing.served:
            fleet.discard()
            return Reconciled(None, [], [])
        serving = standing.served[-1]
        standing = _without_forsaken_trial(standing, fleet)
        changes, problems = _endpoints(standing, fleet)
        try:
            before = standing.served[-2].model_version if standing.served[1:] else None
            changes += versions.point_aliases(serving.model_version, before)
        except RecsysError as error:
            problems.append(f"aliases: {error}")
        if changes:
            deployment_record.record(engine(), serving, deployment_record.RECONCILED, changes)
        _drop_bundles(standing)
    for change in changes:
        log.warning("Put right: %s", change)
    return Reconciled(serving.model_version, changes, problems)


def insist(found: Reconciled) -> None:
    """Raises `UnavailableError` if something could not be put right."""
    if found.problems:
        raise UnavailableError(f"Version {found.version} is to serve, but: {'; '.join(found.problems)}")


def _without_forsaken_trial(standing: deployment_record.Standing, fleet: Fleet) -> deployment_record.Standing:
    """Ends a trial that should have ended long ago, because nobody looks after it any more."""
    trial = standing.trial
    if (
        trial is None
        or datetime.now(UTC)
        < max((phase.ends for phase in phases(trial.decided_at)), default=trial.decided_at) + _PATIENCE
    ):
        return standing
    fleet.discard(trial.subject.bundle_digest)
    deployment_record.record(
        engine(), trial.subject, deployment_record.WITHDRAWN, ["nobody looked after its trial any more"]
    )
    return standing._replace(trial=None)


def _endpoints(standing: deployment_record.Standing, fleet: Fleet) -> tuple[list[str], list[str]]:
    serving = standing.served[-1]
    changes, on_trial = [], standing.trial.subject.bundle_digest if standing.trial else None
    for url, models in fleet.models().found.items():
        staged = models["staged"]
        if staged is not None and staged["bundle"] not in (on_trial, serving.bundle_digest):
            fleet.discard(staged["bundle"])
            changes.append(f"{url} kept version {staged['model_version']} of a promotion that came to nothing")
    try:
        brought = fleet.bring(serving.bundle_digest or "", lambda: find_bundle(serving))
    except RecsysError as error:  # the bundle is neither there nor to be built
        return changes, [str(error)]
    changes += [
        f"{url} served {f'version {version}' if version else 'nothing'}" for url, version in brought.found.items()
    ]
    return changes, [f"{url}: {error}" for url, error in brought.problems.items()]


def _drop_bundles(standing: deployment_record.Standing) -> None:
    """Bundles that neither serve, nor served before, nor are on trial, nor may still wait for somebody's approval."""
    kept = {subject.bundle_digest for subject in standing.served[-2:]}
    if standing.trial is not None:
        kept.add(standing.trial.subject.bundle_digest)
    oldest = time.time() - (timedelta(hours=settings().approval_hours) + _PATIENCE).total_seconds()
    folder = bundles_folder()
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and path.name not in kept and path.stat().st_mtime < oldest:
            shutil.rmtree(path, ignore_errors=True)
