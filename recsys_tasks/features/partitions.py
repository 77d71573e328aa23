"""Daily partitions of a snapshot: the events of one day (UTC) each, in content-addressed Parquet files.

A partition depends on the day's events, on the last change that touched the day, and on the sessions that were open
when the day began; a digest of these comes from the partition of the previous day. A partition with the same inputs is
reused, so that a new snapshot costs only what changed.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, time, timedelta

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Engine, text

from recsys_tasks.storage.folder import Folder
from recsys_tasks.warehouse import ArrowReader, statement

_DAY = timedelta(days=1)
# A session ends after a longer gap at the latest, see `sql/features/day_events.sql`.
_MAX_SESSION_GAP = timedelta(hours=12)
_NO_OPEN_SESSIONS = "none"
_OPEN_SESSIONS_SCHEMA = pa.schema(
    [
        ("user_key", pa.string()),
        ("session_id", pa.string()),
        ("session_start", pa.timestamp("us", "UTC")),
        ("last_time", pa.timestamp("us", "UTC")),
        ("events", pa.int64()),
    ]
)


@dataclass(frozen=True)
class DailyPartition:
    """One day's events before `until`: a row of the table `feature_partitions`.

    Attributes:
        last_change: number of the last warehouse change that touched the day.
        opened_with: digest of the sessions that were open when the day began.
        open_after: digest of the sessions that may continue the next day.
    """

    day: date
    until: datetime
    last_change: int
    opened_with: str
    file: str
    open_after: str
    events: int
    sessions: int
    feedback_events: int


def build_partitions(engine: Engine, folder: Folder, cutoff: datetime, as_of_change: int) -> list[DailyPartition]:
    """Builds the partitions of all days before `cutoff` as of a warehouse change; reuses existing ones."""
    as_of = {"as_of_change": as_of_change}
    with engine.connect() as connection:
        days = connection.execute(statement("features/days_to_build"), {"cutoff": cutoff, **as_of}).all()
        rows = connection.execute(text("select * from feature_partitions where last_change <= :as_of_change"), as_of)
        existing = {
            (row.day, row.until, row.last_change, row.opened_with): DailyPartition(
                **{name: getattr(row, name) for name in DailyPartition.__dataclass_fields__}
            )
            for row in rows
        }
    stored = set(folder.names(".parquet"))
    partitions: list[DailyPartition] = []
    open_sessions: pa.Table | None = None  # after the previous partition, if it was built in this call
    with ArrowReader(engine) as reader:
        for row in days:
            until = min(_midnight(row.day + _DAY), cutoff)
            previous = partitions[-1] if partitions and partitions[-1].day == row.day - _DAY else None
            opened_with = previous.open_after if previous else _NO_OPEN_SESSIONS
            partition = existing.get((row.day, until, row.last_change, opened_with))
            if partition is not None and partition.file in stored:
                open_sessions = None
            else:
                if opened_with == _NO_OPEN_SESSIONS or previous is None:
                    open_sessions = _OPEN_SESSIONS_SCHEMA.empty_table()
                elif open_sessions is None:
                    open_sessions = find_open_sessions(folder.read_table(previous.file), previous.until)
                template = DailyPartition(row.day, until, row.last_change, opened_with, "", "", 0, 0, 0)
                partition, open_sessions = _build(reader, folder, template, open_sessions, as_of_change)
                _register(engine, partition)
            partitions.append(partition)
    return partitions


def find_open_sessions(events: pa.Table, until: datetime) -> pa.Table:
    """Returns the sessions that may continue after `until`: their start, time of the last event and event count."""
    recent = events.filter(pc.greater_equal(events["event_time"], pa.scalar(until - _MAX_SESSION_GAP)))
    last = recent.group_by(["user_key", "session_id"], use_threads=False).aggregate(
        [("session_start", "last"), ("event_time", "last"), ("position_in_session", "last")]
    )
    return last.rename_columns(_OPEN_SESSIONS_SCHEMA.names).cast(_OPEN_SESSIONS_SCHEMA)


def _build(
    reader: ArrowReader, folder: Folder, template: DailyPartition, open_sessions: pa.Table, as_of_change: int
) -> tuple[DailyPartition, pa.Table]:
    """Builds one partition; also returns the sessions that may continue after it."""
    reader.create_temporary_table("open_sessions", open_sessions)
    bounds = {"day_start": _midnight(template.day), "until": template.until}
    events = reader.read("features/day_events", {**bounds, "as_of_change": as_of_change})
    open_after = find_open_sessions(events, template.until)
    partition = replace(
        template,
        file=folder.write_table(f"{template.day:%Y-%m-%d}", events),
        open_after=_digest(open_after) if open_after.num_rows else _NO_OPEN_SESSIONS,
        events=events.num_rows,
        sessions=pc.sum(pc.equal(events["position_in_session"], 1)).as_py() or 0,
        feedback_events=pc.sum(events["is_feedback"]).as_py() or 0,
    )
    return partition, open_after


def _digest(table: pa.Table) -> str:
    """SHA-256 of a table's content, however it is chunked."""
    sink = pa.BufferOutputStream()
    whole = table.combine_chunks()
    with pa.ipc.new_stream(sink, whole.schema) as stream:
        stream.write_table(whole)
    return hashlib.sha256(sink.getvalue()).hexdigest()


def _register(engine: Engine, partition: DailyPartition) -> None:
    with engine.begin() as connection:
        connection.execute(statement("features/register_part"), asdict(partition))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
