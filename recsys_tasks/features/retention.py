"""Retention of snapshots: removes unused snapshots and the files that only they name."""

from __future__ import annotations

import json
import logging
from datetime import timedelta

from sqlalchemy import Engine, text

from recsys_tasks.features.snapshot import partitions_folder
from recsys_tasks.features.snapshot_lock import exclusive_removal_lock
from recsys_tasks.storage.folder import Folder
from recsys_tasks.warehouse import statement

log = logging.getLogger(__name__)
_MANIFEST = ".json"


def drop_snapshots(engine: Engine, folder: Folder, keep: timedelta, *, dry_run: bool = False) -> int:
    """Removes snapshots older than `keep` that are not among the latest or of a recent champion; returns their number.

    Removes a daily partition when no manifest names it and the warehouse has a later one of its day. Waits for running
    builds. With `dry_run`, only counts.
    """
    if dry_run:
        return len(_removable_manifests(engine, folder, keep))
    with exclusive_removal_lock(engine):
        manifests = _removable_manifests(engine, folder, keep)
        for name in manifests:
            folder.remove(name)
        ids = [name.removesuffix(_MANIFEST) for name in manifests]
        with engine.begin() as connection:
            connection.execute(text("delete from snapshots where snapshot_id = any(:ids)"), {"ids": ids})
        _drop_unused_files(engine, folder)
    log.info("Removed %d snapshots", len(manifests))
    return len(manifests)


def _removable_manifests(engine: Engine, folder: Folder, keep: timedelta) -> list[str]:
    with engine.connect() as connection:
        needed = set(connection.scalars(statement("maintenance/needed_snapshots"), {"keep": keep}))
    return [name for name in folder.names(_MANIFEST) if name.removesuffix(_MANIFEST) not in needed]


def _drop_unused_files(engine: Engine, folder: Folder) -> None:
    with engine.connect() as connection:
        used = set(connection.scalars(statement("maintenance/newest_parts")))
    used |= {name for manifest in folder.names(_MANIFEST) for name in _referenced_files(folder.read(manifest))}
    files = partitions_folder(folder)
    for name in files.names(".parquet"):
        if name not in used:
            files.remove(name)


def _referenced_files(manifest: bytes) -> list[str]:
    content = json.loads(manifest)
    tables = (content.get(f"{name}_file") for name in ("item", "user", "vector"))
    return [*content["files"], *(name for name in tables if name)]
