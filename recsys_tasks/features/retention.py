"""Snapshots that nothing uses any more, and the files that only they were made of."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine, text

from recsys_tasks.features.files import parts_folder
from recsys_tasks.features.snapshot_lock import removing
from recsys_tasks.warehouse import statement

log = logging.getLogger(__name__)


def drop_snapshots(engine: Engine, folder: Path, keep: timedelta, *, dry_run: bool = False) -> int:
    """Removes snapshots that are old, not among the latest and of no recent champion; returns how many.

    Parts go when no manifest names them and the warehouse has built later ones of their day. With `dry_run` nothing
    goes; otherwise whoever builds a snapshot is waited for.
    """
    if dry_run:
        return len(_old_manifests(engine, folder, keep))
    with removing(engine):
        old = _old_manifests(engine, folder, keep)
        for manifest in old:
            manifest.unlink()
        ids = [manifest.stem for manifest in old]
        with engine.begin() as connection:
            connection.execute(text("delete from snapshots where snapshot_id = any(:ids)"), {"ids": ids})
        _drop_unused_files(engine, folder)
    log.info("Removed %d snapshots", len(old))
    return len(old)


def _old_manifests(engine: Engine, folder: Path, keep: timedelta) -> list[Path]:
    with engine.connect() as connection:
        needed = set(connection.scalars(statement("maintenance/needed_snapshots"), {"keep": keep}))
    return [manifest for manifest in sorted(folder.glob("*.json")) if manifest.stem not in needed]


def _drop_unused_files(engine: Engine, folder: Path) -> None:
    with engine.connect() as connection:
        used = set(connection.scalars(statement("maintenance/newest_parts")))
    used |= {name for manifest in folder.glob("*.json") for name in _named(manifest)}
    for path in parts_folder(folder).glob("*.parquet"):
        if path.name not in used:
            path.unlink()


def _named(manifest: Path) -> list[str]:
    content = json.loads(manifest.read_text(encoding="utf-8"))
    return [*content["files"], content["item_file"], content["user_file"]]
