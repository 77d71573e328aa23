"""A batch in numbers, and how far they are from those of its source's latest batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from statistics import median

from sqlalchemy import Connection, Row, text

from recsys_tasks.validation.row_rules import RULES
from recsys_tasks.warehouse import statement

Profile = dict[str, float | None]

_SHARE = "share_"
_NULL_RATE = "null_rate_"


def profile_batch(
    connection: Connection, batch: Row[tuple[object, ...]], kind: str, broken: Mapping[str, int], lines: int
) -> Profile:
    """Measures a staged batch and keeps the figures, with which later batches are compared.

    `broken` counts rows for each rule they broke, `lines` what could not be read as rows at all.
    Shares and rates are of good rows, but for those of bad rows. A figure that makes no sense for the batch is None:
    a volume per day where no interval is covered, a delay where the source does not deliver as things happen.
    """
    counted = connection.execute(statement(f"validation/profile_{kind}")).one()._mapping
    good = counted["rows"] - counted["bad_rows"]
    read = counted["rows"] + lines
    profile: Profile = {"rows": counted["rows"], "bad_share": (counted["bad_rows"] + lines) / read}
    profile |= {f"bad_share_{rule}": broken.get(rule, 0) / read for rule in RULES[kind]}
    for name, value in counted.items():
        if name.startswith("null_"):
            profile[name.replace("null_", _NULL_RATE, 1)] = value / good if good else None
        elif name.startswith("type_"):
            profile[name.replace("type_", _SHARE, 1)] = value / good if good else None
    if kind == "events":
        profile |= _volume_and_delay(batch, good, counted["last_time"])
        connection.execute(
            text("update batches set first_event = :first, last_event = :last where batch_id = :id"),
            {"first": counted["first_time"], "last": counted["last_time"], "id": batch.batch_id},
        )
    _keep(connection, batch, kind, profile)
    return profile


def with_history(
    connection: Connection, batch: Row[tuple[object, ...]], kind: str, profile: Mapping[str, float | None]
) -> Profile:
    """The profile, and beside it what compares it with the median of the source's latest batches.

    `rows_per_day_ratio` is this batch's volume over the usual one, `null_rate_change_*` a difference of rates, and
    `event_type_distance` the total variation distance between the shares of event types, 0 to 1. All are None where
    there is nothing to compare with.
    """
    values = {"source": batch.source, "batch_id": batch.batch_id, "kind": kind}
    recent: dict[str, list[float]] = defaultdict(list)
    for metric, value in connection.execute(statement("validation/recent_profiles"), values):
        recent[metric].append(value)
    usual = {metric: median(found) for metric, found in recent.items()}
    compared: Profile = dict(profile)
    for name, value in profile.items():
        if name.startswith(_NULL_RATE):
            changed = name.replace(_NULL_RATE, f"{_NULL_RATE}change_", 1)
            compared[changed] = None if value is None or name not in usual else abs(value - usual[name])
    if kind == "events":
        volume, before = profile["rows_per_day"], usual.get("rows_per_day")
        compared["rows_per_day_ratio"] = volume / before if volume is not None and before else None
        compared["event_type_distance"] = _distance(profile, usual)
    return compared


def _volume_and_delay(batch: Row[tuple[object, ...]], good: int, last_time: datetime | None) -> Profile:
    profile: Profile = {"rows_per_day": None, "freshness_hours": None}
    until = batch.interval_end or (batch.landed_at if batch.live else None)
    if batch.interval_start is not None:
        days = max((batch.interval_end - batch.interval_start).total_seconds() / 86_400, 1.0)
        profile["rows_per_day"] = good / days
    if until is not None and last_time is not None:
        profile["freshness_hours"] = max(0.0, (until.astimezone(UTC) - last_time).total_seconds() / 3600)
    return profile


def _distance(profile: Mapping[str, float | None], usual: Mapping[str, float]) -> float | None:
    names = [name for name in profile if name.startswith(_SHARE)]
    if not any(name in usual for name in names) or any(profile[name] is None for name in names):
        return None
    return sum(abs((profile[name] or 0.0) - usual.get(name, 0.0)) for name in names) / 2


def _keep(connection: Connection, batch: Row[tuple[object, ...]], kind: str, profile: Profile) -> None:
    rows = [
        {"batch_id": batch.batch_id, "kind": kind, "metric": name, "value": value} for name, value in profile.items()
    ]
    connection.execute(
        text("insert into batch_profiles (batch_id, kind, metric, value) values (:batch_id, :kind, :metric, :value)"),
        rows,
    )
