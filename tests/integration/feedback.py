"""Synthetic feedback of endpoints, for tests of attribution, metrics and monitoring."""

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


def impression_events(
    request: str,
    items: Sequence[str],
    user: str | None = "u1",
    at: datetime = START,
    session: str | None = None,
    **list_properties: object,
) -> list[Row]:
    """Returns the impressions of a request; the first one carries the properties of the list."""
    first = {"list": "recommendations", "segment": "returning", "milliseconds": 2.5, **list_properties}
    version = {"model_version": first.pop("model_version", "1"), "score": 0.1, "source": "model"}
    teams = first.pop("teams", None)
    propensities, ranks = first.pop("propensities", None), first.pop("ranks", None)
    rows = []
    for index, item in enumerate(items):
        properties: Row = {**version, **(first if index == 0 else {})}
        if isinstance(teams, list):
            properties["team"] = teams[index]
        if isinstance(propensities, list):
            properties["propensity"] = propensities[index]
        if isinstance(ranks, list):
            properties["rank"] = ranks[index]
        row: Row = {
            "event_id": f"{request}-{index + 1}",
            "event_type": "impression",
            "user_id": user,
            "session_id": session,
            "item_id": item,
            "event_time": at.isoformat(),
            "request_id": request,
            "position": index + 1,
            "properties": properties,
        }
        rows.append({name: value for name, value in row.items() if value is not None})
    return rows


def action_event(event_type: str, item: str, user: str = "u1", minutes: float = 1.0, **more: object) -> Row:
    """Returns an action of a user, `minutes` after START."""
    row: Row = {
        "event_type": event_type,
        "user_id": user,
        "item_id": item,
        "event_time": (START + timedelta(minutes=minutes)).isoformat(),
        **more,
    }
    row.setdefault("event_id", f"{event_type}-{user}-{item}-{minutes}-{more.get('request_id', '')}")
    return row


def ingest_feedback(warehouse: Engine, home: Path, rows: Iterable[Row]) -> list[LoadReport]:
    """Ingests events as feedback of an endpoint; their items must exist, see `load_catalog`."""
    lines = [json.dumps(row) for row in rows]
    path = home / f"feedback-{abs(hash(tuple(lines)))}.jsonl"
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return ingest(warehouse, home, FEEDBACK_SOURCE, path, bad=1.0)


def load_catalog(warehouse: Engine, home: Path, count: int = 20) -> None:
    """Loads items `i0`, `i1`, …, each purchased half a year before START."""
    mapping = home / "shop.toml"
    mapping.write_text(
        'source = "shop"\nformat = "jsonl"\non_error = "quarantine"\nimplies_items = true\nimplies_users = true\n'
        '[columns]\nevent_id = "event_id"\nuser_id = "user_id"\nitem_id = "item_id"\nevent_type = "event_type"\n'
        'event_time = "event_time"\n',
        encoding="utf-8",
    )
    path = home / "shop.jsonl"
    half_a_year_before = -60 * 24 * 180
    path.write_text(
        "\n".join(
            [
                *(
                    json.dumps(action_event("purchase", f"i{n}", f"u{n % 9}", half_a_year_before + n))
                    for n in range(count)
                ),
                "",
            ]
        ),
        encoding="utf-8",
    )
    ingest(warehouse, home, str(mapping), path)
