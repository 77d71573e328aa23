"""What endpoints report, made for tests of what is counted from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from recsys_tasks.ingestion.load import LoadReport
from recsys_tasks.names import FEEDBACK_SOURCE
from tests.integration.ingesting import ingest

START = datetime(2024, 5, 1, 9, tzinfo=UTC)
Row = dict[str, Any]


def shown(
    request: str,
    items: Sequence[str],
    user: str | None = "u1",
    at: datetime = START,
    session: str | None = None,
    **about: object,
) -> list[Row]:
    """The impressions of a request; `about` is said with the first of them."""
    first = {"list": "recommendations", "segment": "returning", "milliseconds": 2.5, **about}
    version = {"model_version": first.pop("model_version", "1"), "score": 0.1, "source": "model"}
    teams = first.pop("teams", None)
    propensities = first.pop("propensities", None)
    rows = []
    for place, item in enumerate(items):
        properties: Row = {**version, **(first if place == 0 else {})}
        if isinstance(teams, list):
            properties["team"] = teams[place]
        if isinstance(propensities, list):
            properties["propensity"] = propensities[place]
        row: Row = {
            "event_id": f"{request}-{place + 1}",
            "event_type": "impression",
            "user_id": user,
            "session_id": session,
            "item_id": item,
            "event_time": at.isoformat(),
            "request_id": request,
            "position": place + 1,
            "properties": properties,
        }
        rows.append({name: value for name, value in row.items() if value is not None})
    return rows


def did(event_type: str, item: str, user: str = "u1", minutes: float = 1.0, **more: object) -> Row:
    """Something that a user did, some minutes after the start."""
    row: Row = {
        "event_type": event_type,
        "user_id": user,
        "item_id": item,
        "event_time": (START + timedelta(minutes=minutes)).isoformat(),
        **more,
    }
    row.setdefault("event_id", f"{event_type}-{user}-{item}-{minutes}-{more.get('request_id', '')}")
    return row


def report(warehouse: Engine, home: Path, rows: Iterable[Row]) -> list[LoadReport]:
    """Takes events in as they come from an endpoint; items they name are known."""
    lines = [json.dumps(row) for row in rows]
    path = home / f"feedback-{abs(hash(tuple(lines)))}.jsonl"
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return ingest(warehouse, home, FEEDBACK_SOURCE, path, bad=1.0)


def catalogue(warehouse: Engine, home: Path, count: int = 20) -> None:
    """Items `i0`, `i1`, …, each bought for 2.00 half a year before."""
    mapping = home / "shop.toml"
    mapping.write_text(
        'source = "shop"\nformat = "jsonl"\non_error = "quarantine"\nimplies_items = true\nimplies_users = true\n'
        '[columns]\nevent_id = "event_id"\nuser_id = "user_id"\nitem_id = "item_id"\nevent_type = "event_type"\n'
        'event_time = "event_time"\n',
        encoding="utf-8",
    )
    path = home / "shop.jsonl"
    before = -60 * 24 * 180
    path.write_text(
        "\n".join([*(json.dumps(did("purchase", f"i{n}", f"u{n % 9}", before + n)) for n in range(count)), ""]),
        encoding="utf-8",
    )
    ingest(warehouse, home, str(mapping), path)
