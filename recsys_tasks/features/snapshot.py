"""A snapshot: everything a training needs as of a cut-off time, in Parquet files that never change.

A snapshot is a manifest that names its parts, a file for each day, and the items and users as they were. Snapshots
share the files they have in common.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as dataset
import pyarrow.parquet as pq
from sqlalchemy import Engine, text

from recsys_tasks.errors import InputError, NotEnoughData
from recsys_tasks.features.files import parts_folder, put_file, put_table
from recsys_tasks.features.impression_discounting import MOST_LOOKS, fatigue
from recsys_tasks.features.partitions import Part, build_parts
from recsys_tasks.features.position_bias import PLACES, examination
from recsys_tasks.features.snapshot_lock import building
from recsys_tasks.names import PAUSE_HOURS
from recsys_tasks.warehouse import ArrowReader, answering, statement

log = logging.getLogger(__name__)

_FEWEST_SESSIONS = 50
_ENOUGH_SHOWN = 5_000_000  # impressions, to tell how people tire
_DICTIONARIES = ["user_key", "session_id", "item_id", "event_type", "query"]


@dataclass(frozen=True)
class SnapshotParameters:
    """What decides about a snapshot beside the events: shares of the latest sessions, how many of them each part has at
    most, and the vocabulary's floor."""

    validation_share: float
    test_share: float
    min_item_events: int
    most_held_out: int = 20_000

    def held_out(self, sessions: int) -> tuple[int, int]:
        """How many of so many sessions are from the validation part on, and how many in the test part."""
        validation, test = (
            min(share * sessions, self.most_held_out) for share in (self.validation_share, self.test_share)
        )
        return int(validation + test), int(test)


@dataclass(frozen=True)
class Snapshot:
    """A snapshot's identity and where its parts begin; the tables are read from `folder` when asked for.

    `known` is the number of the last change of the warehouse that it knows of; `examination` are the chances that each
    place of a list is looked at, and `fatigue` is what remains of the chance to act on an item after so many looks at
    it; none where too little was clicked.
    """

    snapshot_id: str
    folder: Path
    cutoff: datetime
    known: int
    validation_start: datetime
    test_start: datetime
    events: int
    sessions: int
    items: int
    feedback_events: int
    min_item_events: int
    files: tuple[str, ...]
    item_file: str
    user_file: str
    examination: tuple[float, ...]
    fatigue: tuple[float, ...]

    @property
    def path(self) -> Path:
        """Its manifest."""
        return self.folder / f"{self.snapshot_id}.json"

    def events_table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Its events, day by day, in the order of `sql/features/day.sql`; texts as dictionaries.

        Columns that parts of an earlier version do not have are left out.
        """
        texts = [name for name in _DICTIONARIES if columns is None or name in columns]
        parts = dataset.dataset(
            [parts_folder(self.folder) / name for name in self.files],
            format=dataset.ParquetFileFormat(read_options={"dictionary_columns": texts}),
        )
        known = None if columns is None else [name for name in columns if name in parts.schema.names]
        return parts.to_table(columns=known).unify_dictionaries()

    def sample(self, rows: int) -> pa.Table:
        """The first rows of its first part."""
        return pq.read_table(parts_folder(self.folder) / self.files[0]).slice(0, rows)

    def item_table(self) -> pa.Table:
        """The catalogue as it was at the cut-off; the columns of `sql/features/items.sql`."""
        return pq.read_table(parts_folder(self.folder) / self.item_file)

    def user_table(self) -> pa.Table:
        """The users' profiles as they were at the cut-off; the columns of `sql/features/users.sql`."""
        return pq.read_table(parts_folder(self.folder) / self.user_file)


@answering
def build_snapshot(
    engine: Engine,
    folder: Path,
    parameters: SnapshotParameters,
    cutoff: datetime | None = None,
    known: int | None = None,
) -> Snapshot:
    """Builds the snapshot as of `cutoff` (by default just after the last event), or finds it built already.

    With `known`, by what the changes of the warehouse up to that number said: the same snapshot as was built then.

    Raises:
        NotEnoughData: there are too few sessions to learn from and to test on.
        UnavailableError: the warehouse went away.
    """
    with building(engine):
        return _build(engine, folder, parameters, cutoff, known)


def _build(
    engine: Engine, folder: Path, parameters: SnapshotParameters, cutoff: datetime | None, known: int | None
) -> Snapshot:
    with engine.connect() as connection:
        known = known if known is not None else int(connection.scalar(statement("features/latest_change")) or 0)
        cutoff = cutoff or connection.scalar(statement("features/cutoff"))
    if cutoff is None:
        raise NotEnoughData("The warehouse has no events; ingest some first")
    files = parts_folder(folder)
    parts = [part for part in build_parts(engine, files, cutoff, known) if part.events]
    sessions = sum(part.sessions for part in parts)
    if sessions < _FEWEST_SESSIONS:
        raise NotEnoughData(
            f"Only {sessions} sessions before {cutoff.isoformat()}; at least {_FEWEST_SESSIONS} are needed"
        )
    held_out = parameters.held_out(sessions)
    validation_start, test_start = (_session_start(parts, files, sessions - count) for count in held_out)
    if not validation_start < test_start < cutoff:
        raise NotEnoughData(f"Too few sessions before {cutoff.isoformat()} to cut a validation and a test part")
    with ArrowReader(engine) as reader:
        as_of = {"cutoff": cutoff, "known": known}
        items, users = (reader.read(f"features/{kind}", as_of) for kind in ("items", "users"))
        shown = reader.read("features/impressions_by_position", {**as_of, "places": PLACES})
        chances = _examination(shown)
        one_in = 1 + (pc.sum(shown["shown"]).as_py() or 0) // _ENOUGH_SHOWN
        remains = _fatigue(reader, {**as_of, "one_in": one_in}, chances)
    contents = {
        "files": [part.file for part in parts],
        "item_file": put_table(files, "items", items),
        "user_file": put_table(files, "users", users),
        "validation_start": validation_start,
        "test_start": test_start,
        "examination": chances,
        "fatigue": remains,
        **asdict(parameters),
    }
    digest = hashlib.sha256(json.dumps(contents, default=str, sort_keys=True).encode()).hexdigest()
    snapshot = Snapshot(
        snapshot_id=f"{cutoff.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digest[:16]}",
        folder=folder,
        cutoff=cutoff,
        known=known,
        validation_start=validation_start,
        test_start=test_start,
        events=sum(part.events for part in parts),
        sessions=sessions,
        items=items.num_rows,
        feedback_events=sum(part.feedback_events for part in parts),
        min_item_events=parameters.min_item_events,
        files=tuple(contents["files"]),
        item_file=contents["item_file"],
        user_file=contents["user_file"],
        examination=tuple(chances),
        fatigue=tuple(remains),
    )
    _keep(engine, snapshot)
    log.info(
        "Snapshot %s: %d events in %d parts, %d items",
        snapshot.snapshot_id,
        snapshot.events,
        len(parts),
        snapshot.items,
    )
    return open_snapshot(folder, snapshot.snapshot_id)


def open_snapshot(folder: Path, snapshot_id: str) -> Snapshot:
    """The snapshot of that id.

    Raises:
        InputError: there is none, or an earlier version of this project made it.
    """
    path = folder / f"{snapshot_id}.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"No snapshot {snapshot_id!r} in {folder}; build one first") from error
    times = {name: datetime.fromisoformat(manifest.pop(name)) for name in ("cutoff", "validation_start", "test_start")}
    lists = {name: tuple(manifest.get(name, ())) for name in ("files", "examination", "fatigue")}
    return Snapshot(**{**manifest, **times, **lists, "folder": folder})


def find_snapshot(engine: Engine, folder: Path, snapshot_id: str | None = None) -> Snapshot:
    """Opens the snapshot of that id, by default the one that was registered last.

    Raises:
        InputError: there is no such snapshot, or none at all.
    """
    return open_snapshot(folder, snapshot_id or latest_snapshot_id(engine))


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


def _examination(shown: pa.Table) -> list[float]:
    items = shown["item_id"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    place, times, acted = (shown[name].to_numpy() for name in ("position", "shown", "acted"))
    return [round(float(chance), 6) for chance in examination(items, place - 1, times, acted)]


def _fatigue(reader: ArrowReader, as_of: Mapping[str, object], chances: list[float]) -> list[float]:
    if not chances:
        return []
    array = "{" + ",".join(map(str, chances)) + "}"
    counted = reader.read(
        "features/repeated_impressions", {**as_of, "chances": array, "pause": PAUSE_HOURS, "most": MOST_LOOKS}
    )
    columns = (counted[name].to_numpy() for name in ("score_size", "looks_before", "looks", "acted"))
    return [round(float(share), 6) for share in fatigue(*columns)]


def _session_start(parts: Sequence[Part], files: Path, place: int) -> datetime:
    """When the session at that place (1 is the first) of all sessions began; only its day is read."""
    for part in parts:
        if place <= part.sessions:
            table = pq.read_table(files / part.file, columns=["session_start", "position_in_session"])
            starts = table["session_start"].filter(pc.equal(table["position_in_session"], 1))
            seconds = np.sort(starts.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy())
            return datetime.fromtimestamp(seconds[place - 1] / 1e6, UTC)
        place -= part.sessions
    raise NotEnoughData("There are no sessions")


def _keep(engine: Engine, snapshot: Snapshot) -> None:
    manifest = {name: value for name, value in asdict(snapshot).items() if name != "folder"}
    content = json.dumps(manifest, default=str, indent=2)
    if not snapshot.path.exists():
        put_file(snapshot.path, content.encode())
    values = {
        "snapshot_id": snapshot.snapshot_id,
        "cutoff": snapshot.cutoff,
        "known": snapshot.known,
        "location": str(snapshot.path),
        "manifest": snapshot.path.read_text(encoding="utf-8"),
    }
    with engine.begin() as connection:
        connection.execute(statement("features/register_snapshot"), values)
