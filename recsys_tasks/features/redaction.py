"""The one exception to a snapshot never changing: what it holds of a forgotten user goes out of its files."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import Engine, text

from recsys_tasks.features.files import parts_folder, put_file, put_table
from recsys_tasks.features.snapshot_lock import removing

log = logging.getLogger(__name__)


def redact(engine: Engine, folder: Path, user_ids: Collection[str]) -> int:
    """Takes users out of every snapshot in the folder; returns how many files were written anew.

    Whoever builds a snapshot, perhaps of what the warehouse still said of the users, is waited for. Safe to repeat: the
    new files are written and named by the manifests before the old ones are removed.
    """
    with removing(engine):
        files = _redact(engine, folder, user_ids)
    log.info("Took %d users out of %d files of snapshots", len(user_ids), files)
    return files


def _redact(engine: Engine, folder: Path, user_ids: Collection[str]) -> int:
    files = parts_folder(folder)
    renamed = {}
    for path in sorted(files.glob("*.parquet")):
        table = pq.read_table(path)
        kept = _without(table, user_ids)
        if kept.num_rows < table.num_rows:
            renamed[path.name] = put_table(files, path.name.rsplit("-", 1)[0], kept)
    for manifest in sorted(folder.glob("*.json")):
        _rename(manifest, renamed)
    with engine.begin() as connection:
        for old, new in renamed.items():
            connection.execute(text("update feature_parts set file = :new where file = :old"), {"new": new, "old": old})
    for old in renamed:
        (files / old).unlink(missing_ok=True)
    return len(renamed)


def _without(table: pa.Table, user_ids: Collection[str]) -> pa.Table:
    if "user_key" in table.column_names:
        theirs = pc.is_in(table["user_key"], pa.array([f"u:{user_id}" for user_id in user_ids]))
        sessions = pc.unique(table.filter(theirs)["session_id"]).to_pylist()
        keys = [f"u:{user_id}" for user_id in user_ids] + [f"s:{session}" for session in sessions if session]
        return table.filter(pc.invert(pc.is_in(table["user_key"], pa.array(keys))))
    if "user_id" in table.column_names:
        return table.filter(pc.invert(pc.is_in(table["user_id"], pa.array(list(user_ids)))))
    return table


def _rename(manifest: Path, renamed: dict[str, str]) -> None:
    content = json.loads(manifest.read_text(encoding="utf-8"))
    changed = {
        **content,
        "files": [renamed.get(name, name) for name in content["files"]],
        "user_file": renamed.get(content["user_file"], content["user_file"]),
    }
    if changed != content:
        put_file(manifest, json.dumps(changed, indent=2).encode())
