"""Source adapter for the OTTO session log: one JSON object per line with nested events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from recsys_tasks.ingestion.batch import BadLine, SourceBatch, to_record_batches
from recsys_tasks.ingestion.file_readers import read_json_lines
from recsys_tasks.ingestion.flat_files import as_text, file_digest, make_bad_line_handler
from recsys_tasks.ingestion.text_streams import UTF_8
from recsys_tasks.ingestion.times import time_converter
from recsys_tasks.names import ADD_TO_CART, PURCHASE, VIEW

SOURCE = "otto"
_EVENT_TYPES = {"clicks": VIEW, "carts": ADD_TO_CART, "orders": PURCHASE}


def read_otto(path: Path) -> SourceBatch:
    """Returns an OTTO file as a batch; items are implied by events, malformed lines are quarantined."""
    batch = SourceBatch(SOURCE, str(path), file_digest(path), rows={}, implies_items=True)
    batch.rows = {"events": to_record_batches("events", _events(path, batch))}
    return batch


def _events(path: Path, batch: SourceBatch) -> Iterator[dict[str, object]]:
    to_time = time_converter("unix_ms", "UTC")
    on_bad_line = make_bad_line_handler(path, "quarantine", batch)
    row_number = 0
    for number, record in read_json_lines(path, UTF_8, on_bad_line):
        problem = _find_problem(record)
        if problem:
            on_bad_line(BadLine(number, problem, str(record)[:2_000]))
            continue
        session = f"{SOURCE}-{record['session']}"
        for event in _session_events(record):
            row_number += 1
            item, kind = event.get("aid"), event.get("type")
            yield {
                "row_number": row_number,
                "session_id": session,
                "item_id": None if item is None else f"{SOURCE}-{item}",
                "event_type": _EVENT_TYPES.get(str(kind), as_text(kind)),
                "event_time": as_text(to_time(event.get("ts"))),
            }


def _session_events(record: dict[str, object]) -> list[dict[str, object]]:
    events = record.get("events")
    return events if isinstance(events, list) else []


def _find_problem(record: dict[str, object]) -> str | None:
    if "session" not in record:
        return "no field 'session'"
    if not isinstance(record.get("events"), list):
        return "field 'events' is not a list"
    if not all(isinstance(event, dict) for event in _session_events(record)):
        return "an entry of 'events' is not an object"
    return None
