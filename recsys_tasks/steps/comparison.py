"""Differences between two batches or two snapshots: figures of both, and the ids that are new or gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
from sqlalchemy import Engine, text

from recsys_tasks.errors import InputError
from recsys_tasks.features.snapshot import find_snapshot
from recsys_tasks.settings import settings
from recsys_tasks.warehouse import engine, statement

_EXAMPLES = 5
_KINDS = ("users", "items")


@dataclass(frozen=True)
class Content:
    """What a batch or a snapshot holds: figures by name, and ids by kind (users, items)."""

    figures: Mapping[str, float | None]
    ids: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Difference:
    """Difference of two contents.

    Attributes:
        figures: first and second value of each figure that differs; None where one has none.
        ids: number of ids in both, and the new and the gone ones, by kind.
    """

    figures: Mapping[str, tuple[float | None, float | None]]
    ids: Mapping[str, tuple[int, list[str], list[str]]]

    def lines(self) -> Iterator[str]:
        """Yields the difference as text for a terminal."""
        for name, (first, second) in self.figures.items():
            yield f"{name:>28}  {_format(first):>14}  {_format(second):>14}"
        for kind, (common, new, gone) in self.ids.items():
            yield f"{kind:>28}  {common:,} in both, {len(new):,} new{_some(new)}, {len(gone):,} gone{_some(gone)}"


def diff(first: str, second: str) -> Difference:
    """Compares two batches or two snapshots by their ids.

    Raises:
        InputError: there is no batch, and no snapshot, with such an id; or one of each.
    """
    contents = [_read_batch(engine(), name) for name in (first, second)]
    if not any(contents):
        contents = [_read_snapshot(engine(), name) for name in (first, second)]
    before, after = contents
    if before is None or after is None:
        raise InputError(f"{first} and {second} are not both ids of batches, nor both ids of snapshots")
    names = dict.fromkeys((*before.figures, *after.figures))
    pairs = {name: (before.figures.get(name), after.figures.get(name)) for name in names}
    ids = {
        kind: (len(ids & after.ids[kind]), sorted(after.ids[kind] - ids), sorted(ids - after.ids[kind]))
        for kind, ids in before.ids.items()
    }
    return Difference({name: pair for name, pair in pairs.items() if pair[0] != pair[1]}, ids)


def _read_batch(warehouse: Engine, batch_id: str) -> Content | None:
    metrics = text("select kind || ' ' || metric as name, value from batch_profiles where batch_id = :id order by 1")
    with warehouse.connect() as connection:
        batch = connection.execute(text("select * from batches where batch_id = :id"), {"id": batch_id}).one_or_none()
        if batch is None:
            return None
        figures: dict[str, float | None] = {
            name: getattr(batch, name) for name in ("read_rows", "inserted_rows", "duplicate_rows", "quarantined_rows")
        }
        figures |= {row.name: row.value for row in connection.execute(metrics, {"id": batch_id})}
        by_type = connection.execute(statement("status/batch_ids"), {"batch_id": batch_id}).all()
    figures |= {f"stored {row.event_type} events": row.num_events for row in by_type}
    ids = {kind: frozenset(key for row in by_type for key in getattr(row, f"{kind[:-1]}_ids") or ()) for kind in _KINDS}
    return Content(figures, ids)


def _read_snapshot(warehouse: Engine, snapshot_id: str) -> Content | None:
    try:
        snapshot = find_snapshot(warehouse, settings().snapshots, snapshot_id)
    except InputError:
        return None
    table = snapshot.events_table(["user_key", "item_id", "event_type"])
    counts = pc.value_counts(table["event_type"].combine_chunks().cast("string"))
    figures: dict[str, float | None] = {
        name: getattr(snapshot, name) for name in ("events", "sessions", "items", "feedback_events")
    }
    figures |= {f"{entry['values']} events": entry["counts"] for entry in counts.to_pylist()}
    columns = {"users": table["user_key"], "items": table["item_id"]}
    ids = {kind: frozenset(filter(None, pc.unique(column).to_pylist())) for kind, column in columns.items()}
    return Content(figures, ids)


def _format(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"


def _some(ids: list[str]) -> str:
    return f" ({', '.join(ids[:_EXAMPLES])}{', …' if len(ids) > _EXAMPLES else ''})" if ids else ""


def as_json(difference: Difference) -> dict[str, Any]:
    """Returns a difference for JSON."""
    ids = {kind: {"both": common, "new": new, "gone": gone} for kind, (common, new, gone) in difference.ids.items()}
    return {"figures": difference.figures, "ids": ids}
