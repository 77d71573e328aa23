"""Replays the last day of a log through an endpoint, and compares its lists with what was popular in the last hours.

Items are published as they appear. Before each session the endpoint is asked for a list, without knowing the session;
then the session's events are posted. A hit is an item of the list that the user liked in that session: one whose events
have a weight of 1 or more, such as a long read or a like.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np

from benchmarks.report import host_info, print_table, write_json
from recsys_tasks.features.event_weights import EventWeights, event_weights, load_event_weights
from recsys_tasks.ingestion.sources import read_source
from recsys_tasks.names import EVENT_TYPE_CODES

LIST_LENGTH = 10
Row = dict[str, Any]


class Score(NamedTuple):
    """Recall of one list per session: the share of the liked items that it had."""

    shares: list[float]

    @property
    def mean(self) -> float:
        """Mean over the sessions."""
        return float(np.mean(self.shares))

    def __str__(self) -> str:
        spread = 1.96 * float(np.std(self.shares)) / math.sqrt(len(self.shares))
        return f"{self.mean:.3f} ± {spread:.3f}"


class RecentItems:
    """Items by their events in the last hours: the list that needs no model."""

    def __init__(self, hours: float) -> None:
        self._span = timedelta(hours=hours)
        self._events: deque[tuple[datetime, str]] = deque()
        self._counts: Counter[str] = Counter()

    def add(self, time: datetime, item_id: str) -> None:
        """Counts an event."""
        self._events.append((time, item_id))
        self._counts[item_id] += 1

    def most_popular(self, time: datetime, without: set[str], expires: dict[str, datetime]) -> list[str]:
        """Returns the available items with most events in the hours before a time."""
        while self._events and self._events[0][0] < time - self._span:
            self._counts[self._events.popleft()[1]] -= 1
        ranked = (item for item, count in self._counts.most_common() if count and item not in without)
        return [item for item in ranked if expires.get(item, time) >= time][:LIST_LENGTH]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--items",
        nargs=2,
        metavar=("MAPPING", "FILE"),
        required=True,
        help="mapping, and file of the items published on the last day",
    )
    parser.add_argument("--known-items", metavar="FILE", required=True, help="file of those from before the last day")
    parser.add_argument(
        "--events",
        nargs=2,
        metavar=("MAPPING", "FILE"),
        required=True,
        help="mapping, and file of the events of the last day",
    )
    parser.add_argument(
        "--earlier-events", metavar="FILE", required=True, help="file of those from before the last day"
    )
    parser.add_argument("--weights", type=Path, required=True, help="TOML file of event weights")
    parser.add_argument("--endpoint", default="http://127.0.0.1:8080", help="default: %(default)s")
    parser.add_argument("--hours", type=float, default=6, help="window of the popularity baseline, in hours")
    parser.add_argument("--json")
    options = parser.parse_args()
    items_mapping, events_mapping = options.items[0], options.events[0]
    items = read_rows(items_mapping, options.items[1], "items")
    known = read_rows(items_mapping, options.known_items, "items")
    earlier = read_rows(events_mapping, options.earlier_events, "events")
    events = read_rows(events_mapping, options.events[1], "events")
    token = os.environ.get("RECSYS_ADMIN_TOKEN", "")
    with httpx.Client(base_url=options.endpoint, headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:
        scores = replay(client, items, known, earlier, events, load_event_weights(options.weights), options.hours)
    host = host_info("onnxruntime")
    rows = [{"list": name, "sessions": len(score.shares), "recall@10": str(score)} for name, score in scores.items()]
    print_table("Items that users liked on the last day: mean recall, with 95 % confidence", rows, host)
    write_json(options.json, {"recall": {name: score.mean for name, score in scores.items()}, "machine": host})


def replay(
    client: httpx.Client,
    items: Sequence[Row],
    known: Sequence[Row],
    earlier: Sequence[Row],
    events: Sequence[Row],
    weights: EventWeights,
    hours: float,
) -> dict[str, Score]:
    """Replays events in order, session by session, and returns the score of each list."""
    expires = {row["item_id"]: parse_time(row["available_until"]) for row in [*known, *items]}
    seen: dict[str, set[str]] = {}
    recent = RecentItems(hours)
    for event in earlier:
        seen.setdefault(event["user_id"], set()).add(event["item_id"])
        recent.add(parse_time(event["event_time"]), event["item_id"])
    unpublished = deque(sorted(items, key=lambda row: str(row["available_from"])))
    found: dict[str, list[float]] = {"endpoint": [], f"popular in the last {hours:g} hours": []}
    for session in iterate_sessions(events):
        user, time = session[0]["user_id"], parse_time(session[0]["event_time"])
        while unpublished and parse_time(unpublished[0]["available_from"]) <= time:
            publish(client, unpublished.popleft())
        known_to_user = seen.setdefault(user, set())
        liked = liked_items(session, weights) - known_to_user
        if liked:
            request = {"user_id": user, "k": LIST_LENGTH, "exclude_seen": True, "time": session[0]["event_time"]}
            answer = client.post("/v1/recommendations", json=request).raise_for_status().json()
            lists = [[item["item_id"] for item in answer["items"]], recent.most_popular(time, known_to_user, expires)]
            for shares, listed in zip(found.values(), lists, strict=True):
                shares.append(len(liked & set(listed)) / min(len(liked), LIST_LENGTH))
        client.post("/v1/events", json=[to_event(row) for row in session]).raise_for_status()
        for event in session:
            known_to_user.add(event["item_id"])
            recent.add(parse_time(event["event_time"]), event["item_id"])
    return {name: Score(shares) for name, shares in found.items()}


def read_rows(mapping: str, path: str, kind: str) -> list[Row]:
    """Returns the rows of a file that a mapping describes, as in the warehouse, without nulls."""
    [batch] = read_source(mapping, [path])
    rows = [row for block in batch.rows[kind] for row in block.to_pylist()]
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def iterate_sessions(events: Sequence[Row]) -> Iterator[list[Row]]:
    """Yields the sessions in the order in which they begin."""
    first: dict[str, str] = {}
    for event in events:
        first.setdefault(event["session_id"], event["event_time"])
    ordered = sorted(events, key=lambda event: (first[event["session_id"]], event["session_id"], event["event_time"]))
    for _, session in groupby(ordered, key=lambda event: event["session_id"]):
        yield list(session)


def liked_items(session: Sequence[Row], weights: EventWeights) -> set[str]:
    """Returns the items whose events have a weight of at least 1."""
    kinds = np.asarray([EVENT_TYPE_CODES[event["event_type"]] for event in session])
    dwell = np.asarray([json.loads(event.get("properties", "{}")).get("dwell_seconds", math.nan) for event in session])
    found = event_weights(weights, kinds, dwell)
    return {event["item_id"] for event, weight in zip(session, found.tolist(), strict=True) if weight >= 1}


def publish(client: httpx.Client, row: Row) -> None:
    """Adds an item to the endpoint's catalog."""
    names = ("title", "category_path", "brand", "available_from", "available_until")
    body = {name: row[name] for name in names if name in row}
    client.put(f"/v1/items/{row['item_id']}", json=body).raise_for_status()


def to_event(row: Row) -> Row:
    """Returns a row as the endpoint takes it."""
    event = {name: row[name] for name in ("event_id", "user_id", "session_id", "item_id", "event_type", "event_time")}
    return {**event, "properties": json.loads(row.get("properties", "{}"))}


def parse_time(text: str) -> datetime:
    """Returns a time of the warehouse."""
    return datetime.fromisoformat(text)


if __name__ == "__main__":
    main()
