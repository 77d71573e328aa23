"""Bundles of registered versions: built, shared with other machines, found again, removed when nothing needs them."""

from __future__ import annotations

import shutil
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from recsys_tasks.engine.bundle import Bundle, bundle_digest, pack, unpack
from recsys_tasks.errors import InputError
from recsys_tasks.features.snapshot import open_snapshot
from recsys_tasks.features.text_encoder import load_text_encoder
from recsys_tasks.names import CHALLENGER
from recsys_tasks.promotion.build import build_bundle
from recsys_tasks.promotion.deployment import Deployment
from recsys_tasks.promotion.deployment_record import DeployedVersion, DeploymentState
from recsys_tasks.registry import versions


def build_version(deployment: Deployment, number: str | None = None) -> tuple[str, Path]:
    """Builds the bundle of a version, by default the challenger; returns the version's number and the bundle's folder.

    Raises:
        InputError: there is no challenger.
    """
    version = versions.version_by_number(number) if number else versions.version_by_alias(CHALLENGER)
    if version is None:
        raise InputError("There is no challenger; train a model first")
    snapshot = open_snapshot(deployment.snapshots, version.snapshot_id)
    chosen = deployment.settings
    encoder = load_text_encoder(chosen.text_encoder, chosen.text_encoders)
    folder = build_bundle(version, snapshot, deployment.bundles, encoder, chosen.text_vectors)
    if deployment.shared_bundles is not None and not deployment.shared_bundles.exists(_archive(folder.name)):
        deployment.shared_bundles.write(_archive(folder.name), pack(folder))
    return version.number, folder


def find_bundle(deployment: Deployment, number: str, digest: str) -> Path:
    """Returns the folder of a version's bundle on this machine; builds it again if it is gone everywhere.

    Raises:
        InputError: the run or snapshot is gone, too, or gives another bundle today.
    """
    folder = fetch_bundle(deployment, digest)
    if folder is None:
        _, folder = build_version(deployment, number)
    if bundle_digest(folder) != digest:
        raise InputError(
            f"The bundle of version {number} is gone, and its snapshot gives another one today"
            f" ({bundle_digest(folder)}); promote the version again"
        )
    return folder


def fetch_bundle(deployment: Deployment, digest: str) -> Path | None:
    """Returns the folder of a bundle; fetches it from the store if another machine built it; None if nobody has it."""
    folder, shared = deployment.bundles / digest, deployment.shared_bundles
    if digest and folder.is_dir():
        return folder
    if not digest or shared is None or not shared.exists(_archive(digest)):
        return None
    deployment.bundles.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=deployment.bundles) as temporary:
        archive, fetched = Path(temporary) / "archive", Path(temporary) / "bundle"
        archive.write_bytes(shared.read(_archive(digest)))
        unpack(archive, fetched)
        try:
            fetched.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    return folder


def _archive(digest: str) -> str:
    return f"{digest}.tar"


def version_of_bundle(bundle: Bundle) -> DeployedVersion:
    """Returns the version that a bundle was built from, with its run, snapshot and the bundle's digest."""
    lineage = bundle.manifest
    return DeployedVersion(bundle.model_version, lineage["run_id"], lineage["snapshot_id"], bundle.digest)


def remove_unused_bundles(deployment: Deployment, state: DeploymentState, grace: timedelta) -> None:
    """Removes bundles that neither serve, nor served before, nor are in a rollout.

    Args:
        deployment: whose bundles.
        state: deployed versions and the rollout in progress.
        grace: younger bundles stay, since they may be waiting for an approval.
    """
    kept = {version.bundle_digest for version in state.served[-2:]}
    if state.rollout is not None:
        kept.add(state.rollout.version.bundle_digest)
    oldest = time.time() - grace.total_seconds()
    for path in deployment.bundles.iterdir() if deployment.bundles.is_dir() else ():
        if path.is_dir() and path.name not in kept and path.stat().st_mtime < oldest:
            shutil.rmtree(path, ignore_errors=True)
    if deployment.shared_bundles is not None:
        for name, modified in deployment.shared_bundles.modified(".tar").items():
            if name.removesuffix(".tar") not in kept and modified.timestamp() < oldest:
                deployment.shared_bundles.remove(name)
