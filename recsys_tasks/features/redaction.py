"""Redaction: removes the rows of forgotten users from snapshot files, the one exception to their immutability."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Engine, text

from recsys_tasks.features.snapshot import VECTORS, partitions_folder
from recsys_tasks.features.snapshot_lock import exclusive_removal_lock
from recsys_tasks.storage.folder import Folder, StoredFile

log = logging.getLogger(__name__)


def redact_users(engine: Engine, folder: Folder, user_ids: Collection[str]) -> int:
    """Removes users from every snapshot in the folder; returns the number of rewritten files.

    Waits for running builds, which may have read the users' events before the warehouse forgot them. Idempotent: writes
    the new files and updates the manifests before it removes the old files.
    """
    with exclusive_removal_lock(engine):
        num_files = _redact(engine, folder, user_ids)
    log.info("Removed %d users from %d snapshot files", len(user_ids), num_files)
    return num_files


def _redact(engine: Engine, folder: Folder, user_ids: Collection[str]) -> int:
    files = partitions_folder(folder)
    renamed = {}
    for name in files.names(".parquet"):
        if name.startswith(f"{VECTORS}-"):  # they have no users, and may be large
            continue
        table = files.read_table(name)
        kept = _drop_user_rows(table, user_ids)
        if kept.num_rows < table.num_rows:
            renamed[name] = files.write_table(name.rsplit("-", 1)[0], kept)
    for name in folder.names(".json"):
        _update_manifest(folder.file(name), renamed)
    with engine.begin() as connection:
        for old, new in renamed.items():
            connection.execute(
                text("update feature_partitions set file = :new where file = :old"), {"new": new, "old": old}
            )
    for old in renamed:
        files.remove(old)
    return len(renamed)


def _drop_user_rows(table: pa.Table, user_ids: Collection[str]) -> pa.Table:
    """Returns the table without the users' rows, and without anonymous rows of sessions that the users had."""
    if "user_key" in table.column_names:
        of_users = pc.is_in(table["user_key"], pa.array([f"u:{user_id}" for user_id in user_ids]))
        sessions = pc.unique(table.filter(of_users)["session_id"]).to_pylist()
        keys = [f"u:{user_id}" for user_id in user_ids] + [f"s:{session}" for session in sessions if session]
        return table.filter(pc.invert(pc.is_in(table["user_key"], pa.array(keys))))
    if "user_id" in table.column_names:
        return table.filter(pc.invert(pc.is_in(table["user_id"], pa.array(list(user_ids)))))
    return table


def _update_manifest(manifest: StoredFile, renamed: dict[str, str]) -> None:
    content = json.loads(manifest.read())
    changed = {
        **content,
        "files": [renamed.get(name, name) for name in content["files"]],
        "user_file": renamed.get(content["user_file"], content["user_file"]),
    }
    if changed != content:
        manifest.write(json.dumps(changed, indent=2).encode())
