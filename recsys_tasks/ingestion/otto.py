"""OTTO's session log: one JSON object per line, with the session's events nested in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from recsys_tasks.ingestion.batch import BadLine, SourceBatch, stable_id, to_record_batches
from recsys_tasks.ingestion.flat import Record, as_text, file_digest, json_line, open_text, readable, time_converter
from recsys_tasks.names import ADD_TO_CART, PURCHASE, VIEW

SOURCE = "otto"
_TYPES = {"clicks": VIEW, "carts": ADD_TO_CART, "orders": PURCHASE}


def read_otto(path: Path) -> SourceBatch:
    """One OTTO file as a batch; its items are known only from its events. Broken lines are quarantined."""
    batch = SourceBatch(SOURCE, str(path), file_digest(path), rows={}, implies_items=True)
    batch.rows = {"events": to_record_batches("events", _events(path, batch))}
    return batch


def _events(path: Path, batch: SourceBatch) -> Iterator[Record]:
    to_time = time_converter("unix_ms", "UTC")
    row_number = 0
    with open_text(path) as file:
        lines = (json_line(number, text) for number, text in enumerate(file, start=1) if text.strip())
        for line in readable(path, lines):
            problem = line.problem or _shape_problem(line.record or {})
            if problem:
                batch.bad_lines.append(BadLine(line.number, problem, line.raw))
                continue
            session = f"{SOURCE}-{(line.record or {})['session']}"
            for event in _nested(line.record or {}):
                row_number += 1
                time, aid, kind = event.get("ts"), event.get("aid"), event.get("type")
                yield {
                    "row_number": row_number,
                    "event_id": stable_id(SOURCE, session, time, aid, kind),
                    "session_id": session,
                    "item_id": None if aid is None else f"{SOURCE}-{aid}",
                    "event_type": _TYPES.get(str(kind), as_text(kind)),
                    "event_time": as_text(to_time(time)),
                    "properties": "{}",
                }


def _nested(record: Record) -> list[Record]:
    events = record.get("events")
    return events if isinstance(events, list) else []


def _shape_problem(record: Record) -> str | None:
    if "session" not in record:
        return "no field 'session'"
    if not isinstance(record.get("events"), list):
        return "field 'events' is not a list"
    if not all(isinstance(event, dict) for event in _nested(record)):
        return "an entry of 'events' is not an object"
    return None
