"""Immutable training snapshots: everything a training reads as of a cut-off time, in Parquet files.

A snapshot is a JSON manifest that names its daily partitions and the tables of items, users and item vectors. Snapshots
share files with equal content.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Engine, text

from recsys_tasks.errors import InputError, NotEnoughData
from recsys_tasks.features.event_weights import EventType, EventWeight, EventWeights
from recsys_tasks.features.impression_discounting import MAX_UNCLICKED_IMPRESSIONS, estimate_impression_discount
from recsys_tasks.features.partitions import DailyPartition, build_partitions
from recsys_tasks.features.position_bias import MAX_POSITIONS, estimate_position_bias
from recsys_tasks.features.snapshot_lock import shared_build_lock
from recsys_tasks.names import DISCOUNT_RESET_HOURS
from recsys_tasks.storage.folder import Folder, StoredFile
from recsys_tasks.warehouse import ArrowReader, raises_unavailable, statement

log = logging.getLogger(__name__)

_MIN_SESSIONS = 50
_MAX_DISCOUNT_IMPRESSIONS = 5_000_000  # with more impressions, the discounts are estimated from a sample of visitors
_DICTIONARY_COLUMNS = ["user_key", "session_id", "item_id", "event_type", "query"]
# Columns of a snapshot without events.
_NO_EVENTS = pa.schema(
    [
        *((name, pa.string()) for name in _DICTIONARY_COLUMNS),
        *((name, pa.timestamp("us", "UTC")) for name in ("session_start", "event_time")),
        *((name, pa.int32()) for name in ("position_in_session", "is_feedback", "shown_at")),
    ]
).empty_table()
VECTORS = "vectors"  # the names of their files begin so
_NO_VECTORS = pa.schema(
    [*((name, pa.string()) for name in ("item_id", "space", "version")), ("vector", pa.list_(pa.float32()))]
).empty_table()
# Manifest keys that differ from the field names of `Snapshot`. Stored manifests keep these keys.
_MANIFEST_KEYS = {
    "as_of_change": "known",
    "examination_propensities": "examination",
    "impression_discounts": "fatigue",
}


@dataclass(frozen=True)
class SnapshotParameters:
    """Parameters of a snapshot beside its events.

    Attributes:
        validation_share, test_share: shares of the latest sessions that each held-out split takes.
        min_item_events: number of events from which on an item is in the vocabulary.
        max_held_out_sessions: upper bound on the sessions of each held-out split.
        event_weights: weights of events by type; empty: every event has weight 1.
    """

    validation_share: float
    test_share: float
    min_item_events: int
    max_held_out_sessions: int = 20_000
    event_weights: EventWeights = field(default_factory=dict)

    def count_held_out(self, num_sessions: int) -> tuple[int, int]:
        """Number of sessions in validation and test together, and in test alone, out of `num_sessions`."""
        validation, test = (
            min(share * num_sessions, self.max_held_out_sessions) for share in (self.validation_share, self.test_share)
        )
        return int(validation + test), int(test)


@dataclass(frozen=True)
class Snapshot:
    """A snapshot's manifest. Methods read its tables from `folder` on demand.

    Attributes:
        as_of_change: number of the last warehouse change that the snapshot includes.
        validation_start, test_start: times at which the held-out splits begin.
        examination_propensities: relative probability that each list position is examined, from position 1;
            empty with too few clicks.
        impression_discounts: factor on the click probability after 0, 1, … unclicked impressions of an item; empty
            with too few clicks.
        event_weights: weights of events by type; empty: every event has weight 1.
        vector_file: file of the external item vectors; empty without any.
    """

    snapshot_id: str
    folder: Folder
    cutoff: datetime
    as_of_change: int
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
    examination_propensities: tuple[float, ...]
    impression_discounts: tuple[float, ...]
    event_weights: EventWeights = field(default_factory=dict)
    vector_file: str = ""

    @property
    def has_held_out_sessions(self) -> bool:
        """Whether there are enough sessions to train a model and to evaluate it."""
        return self.validation_start < self.test_start < self.cutoff

    @property
    def manifest(self) -> StoredFile:
        """The manifest."""
        return manifest_file(self.folder, self.snapshot_id)

    def events_table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Returns the events, day by day, in the order of `sql/features/day_events.sql`; texts as dictionaries.

        Omits columns that partitions of an earlier version lack.
        """
        if not self.files:
            return _NO_EVENTS if columns is None else _NO_EVENTS.select(list(columns))
        texts = [name for name in _DICTIONARY_COLUMNS if columns is None or name in columns]
        return partitions_folder(self.folder).read_tables(self.files, columns, texts)

    def head(self, num_rows: int) -> pa.Table:
        """Returns the first rows of the first daily partition."""
        if not self.files:
            return _NO_EVENTS
        return partitions_folder(self.folder).read_table(self.files[0]).slice(0, num_rows)

    def item_table(self) -> pa.Table:
        """Returns the catalog as of the cut-off; columns of `sql/features/items.sql`."""
        return partitions_folder(self.folder).read_table(self.item_file)

    def vector_table(self) -> pa.Table:
        """Returns the external item vectors; columns of `sql/features/item_vectors.sql`."""
        return partitions_folder(self.folder).read_table(self.vector_file) if self.vector_file else _NO_VECTORS

    def user_table(self) -> pa.Table:
        """Returns the user profiles as of the cut-off; columns of `sql/features/users.sql`."""
        return partitions_folder(self.folder).read_table(self.user_file)


def partitions_folder(snapshots: Folder) -> Folder:
    """Returns the subfolder of the snapshots folder that holds the files the manifests name."""
    return snapshots / "parts"


def manifest_file(snapshots: Folder, snapshot_id: str) -> StoredFile:
    """Returns the manifest of a snapshot in the snapshots folder."""
    return snapshots.file(f"{snapshot_id}.json")


@raises_unavailable
def build_snapshot(
    engine: Engine,
    folder: Folder,
    parameters: SnapshotParameters,
    cutoff: datetime | None = None,
    as_of_change: int | None = None,
) -> Snapshot:
    """Builds a snapshot, or returns the existing one with the same content.

    Args:
        cutoff: exclusive upper bound on event times; by default just after the last event.
        as_of_change: number of the last warehouse change to include; by default the latest. With the number of an
            earlier snapshot, the result is that snapshot.

    Raises:
        NotEnoughData: the warehouse has neither events nor items.
        UnavailableError: the warehouse does not answer.
    """
    with shared_build_lock(engine):
        return _build(engine, folder, parameters, cutoff, as_of_change)


def _build(
    engine: Engine, folder: Folder, parameters: SnapshotParameters, cutoff: datetime | None, as_of_change: int | None
) -> Snapshot:
    has_explicit_cutoff = cutoff is not None
    with engine.connect() as connection:
        if as_of_change is None:
            as_of_change = int(connection.scalar(statement("features/latest_change")) or 0)
        cutoff = cutoff or connection.scalar(statement("features/cutoff"))
    if cutoff is None:
        raise NotEnoughData("The warehouse has no events and no items. Ingest some first.")
    files = partitions_folder(folder)
    partitions = [partition for partition in build_partitions(engine, files, cutoff, as_of_change) if partition.events]
    num_sessions = sum(partition.sessions for partition in partitions)
    validation_start, test_start = _held_out_starts(parameters, partitions, files, cutoff)
    with ArrowReader(engine) as reader:
        as_of = {"cutoff": cutoff, "as_of_change": as_of_change}
        items, users = (reader.read(f"features/{kind}", as_of) for kind in ("items", "users"))
        vectors = reader.read("features/item_vectors", {"as_of_change": as_of_change})
        impressions = reader.read("features/impressions_by_position", {**as_of, "max_positions": MAX_POSITIONS})
        propensities = _examination_propensities(impressions)
        one_in = 1 + (pc.sum(impressions["shown"]).as_py() or 0) // _MAX_DISCOUNT_IMPRESSIONS
        discounts = _impression_discounts(reader, {**as_of, "one_in": one_in}, propensities)
    # The snapshot id is a digest of these keys and values: renaming a key would change the ids of equal snapshots.
    contents = {
        "files": [partition.file for partition in partitions],
        "item_file": files.write_table("items", items),
        "user_file": files.write_table("users", users),
        "validation_start": validation_start,
        "test_start": test_start,
        "examination": propensities,
        "fatigue": discounts,
        "validation_share": parameters.validation_share,
        "test_share": parameters.test_share,
        "min_item_events": parameters.min_item_events,
        "most_held_out": parameters.max_held_out_sessions,
    }
    if parameters.event_weights:
        contents["event_weights"] = msgspec.to_builtins(parameters.event_weights)
    if vectors.num_rows:  # without any, ids of earlier snapshots stay
        contents["vector_file"] = files.write_table(VECTORS, vectors)
    digest = hashlib.sha256(json.dumps(contents, default=str, sort_keys=True).encode()).hexdigest()
    snapshot = Snapshot(
        snapshot_id=f"{cutoff.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digest[:16]}",
        folder=folder,
        cutoff=cutoff,
        as_of_change=as_of_change,
        validation_start=validation_start,
        test_start=test_start,
        events=sum(partition.events for partition in partitions),
        sessions=num_sessions,
        items=items.num_rows,
        feedback_events=sum(partition.feedback_events for partition in partitions),
        min_item_events=parameters.min_item_events,
        files=tuple(partition.file for partition in partitions),
        item_file=str(contents["item_file"]),
        user_file=str(contents["user_file"]),
        examination_propensities=tuple(propensities),
        impression_discounts=tuple(discounts),
        event_weights=parameters.event_weights,
        vector_file=str(contents.get("vector_file", "")),
    )
    _register(engine, snapshot, has_explicit_cutoff)
    log.info(
        "Built snapshot %s: %d events in %d daily partitions, %d items",
        snapshot.snapshot_id,
        snapshot.events,
        len(partitions),
        snapshot.items,
    )
    return open_snapshot(folder, snapshot.snapshot_id)


def open_snapshot(folder: Folder, snapshot_id: str) -> Snapshot:
    """Reads the manifest of a snapshot.

    Raises:
        InputError: the folder has no such snapshot.
        UnavailableError: the store does not answer.
    """
    try:
        manifest = json.loads(manifest_file(folder, snapshot_id).read())
    except FileNotFoundError as error:
        raise InputError(f"No snapshot {snapshot_id!r} in {folder}. Build one first.") from error
    field_names = {key: name for name, key in _MANIFEST_KEYS.items()}
    fields = {field_names.get(key, key): value for key, value in manifest.items()}
    times = {name: datetime.fromisoformat(fields.pop(name)) for name in ("cutoff", "validation_start", "test_start")}
    lists = {
        name: tuple(fields.get(name, ())) for name in ("files", "examination_propensities", "impression_discounts")
    }
    weights = msgspec.convert(fields.get("event_weights", {}), dict[EventType, EventWeight])
    return Snapshot(**{**fields, **times, **lists, "event_weights": weights, "folder": folder})


def find_snapshot(engine: Engine, folder: Folder, snapshot_id: str | None = None) -> Snapshot:
    """Opens a snapshot by id, by default the latest (see `latest_snapshot_id`).

    Raises:
        InputError: there is no such snapshot, or none at all.
    """
    return open_snapshot(folder, snapshot_id or latest_snapshot_id(engine))


def latest_snapshot_id(engine: Engine) -> str:
    """Returns the id of the snapshot registered last; one with an explicit cutoff only if there is no other.

    Raises:
        InputError: there is none yet.
    """
    with engine.connect() as connection:
        snapshot_id: str | None = connection.scalar(
            text("select snapshot_id from snapshots order by has_explicit_cutoff, created_at desc, snapshot_id limit 1")
        )
    if snapshot_id is None:
        raise InputError("There is no snapshot yet. Build one with `python -m recsys_tasks features`.")
    return snapshot_id


def _examination_propensities(impressions: pa.Table) -> list[float]:
    items = impressions["item_id"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    position, shown, acted = (impressions[name].to_numpy() for name in ("position", "shown", "acted"))
    return [round(float(value), 6) for value in estimate_position_bias(items, position - 1, shown, acted)]


def _impression_discounts(
    reader: ArrowReader, as_of: Mapping[str, object], propensities: Sequence[float]
) -> list[float]:
    if not propensities:
        return []
    counts = reader.read(
        "features/repeated_impressions",
        {
            **as_of,
            "propensities": "{" + ",".join(map(str, propensities)) + "}",
            "pause_hours": DISCOUNT_RESET_HOURS,
            "max_unclicked": MAX_UNCLICKED_IMPRESSIONS,
        },
    )
    columns = (counts[name].to_numpy() for name in ("score_bucket", "unclicked", "examined", "acted"))
    return [round(float(value), 6) for value in estimate_impression_discount(*columns)]


def _held_out_starts(
    parameters: SnapshotParameters, partitions: Sequence[DailyPartition], folder: Folder, cutoff: datetime
) -> tuple[datetime, datetime]:
    """Returns the times at which the validation and the test part begin; the cut-off where too few sessions exist."""
    num_sessions = sum(partition.sessions for partition in partitions)
    if num_sessions >= _MIN_SESSIONS:
        held_out = parameters.count_held_out(num_sessions)
        validation, test = (_session_start(partitions, folder, num_sessions - count) for count in held_out)
        if validation < test < cutoff:
            return validation, test
    log.warning(
        "Only %d sessions before %s, too few to train and evaluate a model; lists will come from the catalog's content"
        " and from popularity until there are %d",
        num_sessions,
        cutoff.isoformat(),
        _MIN_SESSIONS,
    )
    return cutoff, cutoff


def _session_start(partitions: Sequence[DailyPartition], folder: Folder, rank: int) -> datetime:
    """Returns the start of the session at `rank` (1 is the first) in order of time; reads one partition only."""
    for partition in partitions:
        if rank <= partition.sessions:
            table = folder.read_table(partition.file, columns=["session_start", "position_in_session"])
            starts = table["session_start"].filter(pc.equal(table["position_in_session"], 1))
            microseconds = np.sort(starts.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy())
            return datetime.fromtimestamp(microseconds[rank - 1] / 1e6, UTC)
        rank -= partition.sessions
    raise NotEnoughData("There are no sessions. Ingest events first.")


def _register(engine: Engine, snapshot: Snapshot, has_explicit_cutoff: bool) -> None:
    """Writes the manifest, unless it exists, and its row of `snapshots`."""
    manifest = {_MANIFEST_KEYS.get(name, name): value for name, value in asdict(snapshot).items() if name != "folder"}
    content = json.dumps(
        {**manifest, "event_weights": msgspec.to_builtins(snapshot.event_weights)}, default=str, indent=2
    )
    if not snapshot.manifest.exists():
        snapshot.manifest.write(content.encode())
    values = {
        "snapshot_id": snapshot.snapshot_id,
        "cutoff": snapshot.cutoff,
        "as_of_change": snapshot.as_of_change,
        "location": str(snapshot.manifest),
        "manifest": snapshot.manifest.read().decode(),
        "has_explicit_cutoff": has_explicit_cutoff,
    }
    with engine.begin() as connection:
        connection.execute(statement("features/register_snapshot"), values)
