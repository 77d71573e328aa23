"""Redaction: removes the rows of forgotten users from snapshot files, the one exception to their immutability."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import Engine, text

from recsys_tasks.features.files import partitions_folder, write_file, write_table
from recsys_tasks.features.snapshot_lock import exclusive_removal_lock

log = logging.getLogger(__name__)


def redact_users(engine: Engine, folder: Path, user_ids: Collection[str]) -> int:
    """Removes users from every snapshot in the folder; returns the number of rewritten files.

    Waits for running builds, which may have read the users' events before the warehouse forgot them. Idempotent: writes
    the new files and updates the manifests before it removes the old files.
    """
    with exclusive_removal_lock(engine):
        num_files = _redact(engine, folder, user_ids)
    log.info("Removed %d users from %d snapshot files", len(user_ids), num_files)
    return num_files


def _redact(engine: Engine, folder: Path, user_ids: Collection[str]) -> int:
    files = partitions_folder(folder)
    renamed = {}
    for path in sorted(files.glob("*.parquet")):
        table = pq.read_table(path)
        kept = _drop_user_rows(table, user_ids)
        if kept.num_rows < table.num_rows:
            renamed[path.name] = write_table(files, path.name.rsplit("-", 1)[0], kept)
    for manifest in sorted(folder.glob("*.json")):
        _update_manifest(manifest, renamed)
    with engine.begin() as connection:
        for old, new in renamed.items():
            connection.execute(
                text("update feature_partitions set file = :new where file = :old"), {"new": new, "old": old}
            )
    for old in renamed:
        (files / old).unlink(missing_ok=True)
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


def _update_manifest(manifest: Path, renamed: dict[str, str]) -> None:
    content = json.loads(manifest.read_text(encoding="utf-8"))
    changed = {
        **content,
        "files": [renamed.get(name, name) for name in content["files"]],
        "user_file": renamed.get(content["user_file"], content["user_file"]),
    }
    if changed != content:
        write_file(manifest, json.dumps(changed, indent=2).encode())
