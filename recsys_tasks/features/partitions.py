"""The parts a snapshot is made of: the events of one day each, in files that are known by their content.

A part depends on the day's events, on which changes of the warehouse are known, and on the sessions that were open
when the day began, which the part of the day before tells. One that was built of the same is used again, so that a
new snapshot costs what is new.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import Engine, text

from recsys_tasks.features.files import put_table
from recsys_tasks.warehouse import ArrowReader, statement

_DAY = timedelta(days=1)
# No session goes on after a longer silence, see `sql/features/day.sql`.
_LONGEST_SILENCE = timedelta(hours=12)
_NOTHING_OPEN = "none"
_OPEN_SESSIONS = pa.schema(
    [
        ("user_key", pa.string()),
        ("session_id", pa.string()),
        ("session_start", pa.timestamp("us", "UTC")),
        ("last_time", pa.timestamp("us", "UTC")),
        ("events", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Part:
    """One day's events up to `until`; `open_after` is a digest of the sessions that may go on the next day."""

    day: date
    until: datetime
    last_change: int
    opened_with: str
    file: str
    open_after: str
    events: int
    sessions: int
    feedback_events: int


def build_parts(engine: Engine, folder: Path, cutoff: datetime, known: int) -> list[Part]:
    """The parts of all days up to `cutoff`, by what the changes up to number `known` say; old ones are used again."""
    folder.mkdir(parents=True, exist_ok=True)
    with engine.connect() as connection:
        days = connection.execute(statement("features/days_to_build"), {"cutoff": cutoff, "known": known}).all()
        rows = connection.execute(text("select * from feature_parts where last_change <= :known"), {"known": known})
        built = {
            (row.day, row.until, row.last_change, row.opened_with): Part(
                **{name: getattr(row, name) for name in Part.__dataclass_fields__}
            )
            for row in rows
        }
    parts: list[Part] = []
    opened: pa.Table | None = None  # by the latest part, if it was built just now
    with ArrowReader(engine) as reader:
        for row in days:
            until = min(_midnight(row.day + _DAY), cutoff)
            before = parts[-1] if parts and parts[-1].day == row.day - _DAY else None
            opened_with = before.open_after if before else _NOTHING_OPEN
            part = built.get((row.day, until, row.last_change, opened_with))
            if part is not None and (folder / part.file).exists():
                opened = None
            else:
                if opened_with == _NOTHING_OPEN or before is None:
                    opened = _OPEN_SESSIONS.empty_table()
                elif opened is None:
                    opened = open_sessions(pq.read_table(folder / before.file), before.until)
                wanted = Part(row.day, until, row.last_change, opened_with, "", "", 0, 0, 0)
                part, opened = _build(reader, folder, wanted, opened, known)
                _register(engine, part)
            parts.append(part)
    return parts


def open_sessions(events: pa.Table, until: datetime) -> pa.Table:
    """The sessions of a part that may go on after `until`: when they began, their last event and their length."""
    recent = events.filter(pc.greater_equal(events["event_time"], pa.scalar(until - _LONGEST_SILENCE)))
    last = recent.group_by(["user_key", "session_id"], use_threads=False).aggregate(
        [("session_start", "last"), ("event_time", "last"), ("position_in_session", "last")]
    )
    return last.rename_columns(_OPEN_SESSIONS.names).cast(_OPEN_SESSIONS)


def _build(reader: ArrowReader, folder: Path, wanted: Part, opened: pa.Table, known: int) -> tuple[Part, pa.Table]:
    """A part, and the sessions that may go on after it."""
    reader.provide("open_sessions", opened)
    events = reader.read(
        "features/day_events", {"day_start": _midnight(wanted.day), "until": wanted.until, "known": known}
    )
    after = open_sessions(events, wanted.until)
    part = replace(
        wanted,
        file=put_table(folder, f"{wanted.day:%Y-%m-%d}", events),
        open_after=_digest(after) if after.num_rows else _NOTHING_OPEN,
        events=events.num_rows,
        sessions=pc.sum(pc.equal(events["position_in_session"], 1)).as_py() or 0,
        feedback_events=pc.sum(events["is_feedback"]).as_py() or 0,
    )
    return part, after


def _digest(table: pa.Table) -> str:
    """Of what a table says, in whatever chunks."""
    sink = pa.BufferOutputStream()
    whole = table.combine_chunks()
    with pa.ipc.new_stream(sink, whole.schema) as stream:
        stream.write_table(whole)
    return hashlib.sha256(sink.getvalue()).hexdigest()


def _register(engine: Engine, part: Part) -> None:
    with engine.begin() as connection:
        connection.execute(statement("features/register_part"), asdict(part))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
