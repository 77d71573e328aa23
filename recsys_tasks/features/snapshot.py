"""A snapshot: everything a training needs as of a cut-off time, in Parquet files that never change."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import Engine, text

from recsys_tasks.errors import InputError, NotEnoughData
from recsys_tasks.warehouse import read_arrow, statement

log = logging.getLogger(__name__)

_FEWEST_SESSIONS = 50


@dataclass(frozen=True)
class SnapshotParameters:
    """What decides about a snapshot beside the events: shares of the latest sessions, and the vocabulary's floor."""

    validation_share: float
    test_share: float
    min_item_events: int


@dataclass(frozen=True)
class Snapshot:
    """A snapshot's identity and where its parts begin; the tables are read from `path` when asked for."""

    snapshot_id: str
    path: Path
    cutoff: datetime
    validation_start: datetime
    test_start: datetime
    events: int
    users: int
    sessions: int
    items: int
    feedback_events: int

    def timeline(self) -> pa.Table:
        """Events in the order of their users' timelines; the columns of `sql/features/timeline.sql`."""
        return pq.read_table(self.path / "timeline.parquet")

    def item_table(self) -> pa.Table:
        """The vocabulary, most frequent first; the columns of `sql/features/items.sql`."""
        return pq.read_table(self.path / "items.parquet")


def build_snapshot(
    engine: Engine, folder: Path, parameters: SnapshotParameters, cutoff: datetime | None = None
) -> Snapshot:
    """Builds the snapshot as of `cutoff` (by default just after the last event), or finds it built already.

    Raises:
        NotEnoughData: there are too few sessions to learn from and to test on.
    """
    cutoff = cutoff or _default_cutoff(engine)
    folder.mkdir(parents=True, exist_ok=True)
    timeline = read_arrow(engine, "features/timeline", {"cutoff": cutoff})
    split = _split(engine, parameters, cutoff)
    items = read_arrow(
        engine,
        "features/items",
        {"training_end": split["validation_start"], "min_item_events": parameters.min_item_events},
    )
    if items.num_rows == 0:
        raise NotEnoughData(
            f"No item has {parameters.min_item_events} events before {split['validation_start']:%Y-%m-%d}; "
            "lower RECSYS_MIN_ITEM_EVENTS or ingest more"
        )
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder))
    try:
        pq.write_table(timeline, building / "timeline.parquet")
        pq.write_table(items, building / "items.parquet")
        snapshot = _describe(building, folder, cutoff, split, timeline, items, parameters)
        (building / "manifest.json").write_text(_manifest(snapshot, parameters), encoding="utf-8")
        building.chmod(0o755)
        if not snapshot.path.exists():
            os.rename(building, snapshot.path)  # noqa: PTH104
    finally:
        shutil.rmtree(building, ignore_errors=True)
    _register(engine, snapshot)
    log.info("Snapshot %s: %d events, %d users, %d items", *_figures(snapshot))
    return snapshot


def open_snapshot(folder: Path, snapshot_id: str) -> Snapshot:
    """The snapshot of that id.

    Raises:
        InputError: there is none.
    """
    path = folder / snapshot_id
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"No snapshot {snapshot_id!r} in {folder}; build one first") from error
    return Snapshot(
        snapshot_id=snapshot_id,
        path=path,
        cutoff=datetime.fromisoformat(manifest["cutoff"]),
        validation_start=datetime.fromisoformat(manifest["validation_start"]),
        test_start=datetime.fromisoformat(manifest["test_start"]),
        **{name: manifest[name] for name in ("events", "users", "sessions", "items", "feedback_events")},
    )


def latest_snapshot_id(engine: Engine) -> str:
    """Id of the snapshot that was registered last.

    Raises:
        InputError: there is none yet.
    """
    with engine.connect() as connection:
        found: str | None = connection.scalar(
            text("select snapshot_id from snapshots order by created_at desc, snapshot_id limit 1")
        )
    if found is None:
        raise InputError("There is no snapshot yet; build one with `python -m recsys_tasks features`")
    return found


def _default_cutoff(engine: Engine) -> datetime:
    with engine.connect() as connection:
        cutoff: datetime | None = connection.scalar(statement("features/cutoff"))
    if cutoff is None:
        raise NotEnoughData("The warehouse has no events; ingest some first")
    return cutoff


def _split(engine: Engine, parameters: SnapshotParameters, cutoff: datetime) -> dict[str, datetime]:
    shares = {
        "cutoff": cutoff,
        "validation_from": 1 - parameters.validation_share - parameters.test_share,
        "test_from": 1 - parameters.test_share,
    }
    with engine.connect() as connection:
        row = connection.execute(statement("features/split"), shares).one()
    if row.validation_start is None or not row.validation_start < row.test_start < cutoff:
        raise NotEnoughData(f"Too few sessions before {cutoff.isoformat()} to cut a validation and a test part")
    return {"validation_start": row.validation_start, "test_start": row.test_start}


def _describe(
    building: Path,
    folder: Path,
    cutoff: datetime,
    split: dict[str, datetime],
    timeline: pa.Table,
    items: pa.Table,
    parameters: SnapshotParameters,
) -> Snapshot:
    digest = hashlib.sha256(repr((parameters, cutoff, split)).encode())
    for name in ("timeline.parquet", "items.parquet"):
        digest.update((building / name).read_bytes())
    snapshot_id = f"{cutoff:%Y%m%dT%H%M%SZ}-{digest.hexdigest()[:16]}"
    sessions = pc.sum(pc.equal(timeline["position_in_session"], 1)).as_py()
    if sessions < _FEWEST_SESSIONS:
        raise NotEnoughData(
            f"Only {sessions} sessions before {cutoff.isoformat()}; at least {_FEWEST_SESSIONS} are needed"
        )
    return Snapshot(
        snapshot_id=snapshot_id,
        path=folder / snapshot_id,
        cutoff=cutoff,
        **split,
        events=timeline.num_rows,
        users=pc.count_distinct(timeline["user_key"]).as_py(),
        sessions=sessions,
        items=items.num_rows,
        feedback_events=pc.sum(timeline["is_feedback"]).as_py(),
    )


def _manifest(snapshot: Snapshot, parameters: SnapshotParameters) -> str:
    described = {name: value for name, value in asdict(snapshot).items() if name != "path"}
    return json.dumps({**described, "parameters": asdict(parameters)}, default=str, indent=2)


def _register(engine: Engine, snapshot: Snapshot) -> None:
    values = {
        "snapshot_id": snapshot.snapshot_id,
        "cutoff": snapshot.cutoff,
        "location": str(snapshot.path),
        "manifest": (snapshot.path / "manifest.json").read_text(encoding="utf-8"),
    }
    with engine.begin() as connection:
        connection.execute(statement("features/register_snapshot"), values)


def _figures(snapshot: Snapshot) -> tuple[str, int, int, int]:
    return snapshot.snapshot_id, snapshot.events, snapshot.users, snapshot.items
