"""Batch profiles: metrics of a staged batch, compared with the latest batches of its source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from statistics import median

from sqlalchemy import Connection, Row, RowMapping, text

from recsys_tasks.ingestion.batch import is_replay
from recsys_tasks.names import FEEDBACK_SOURCE
from recsys_tasks.validation.row_rules import RULES
from recsys_tasks.warehouse import statement

Profile = dict[str, float | None]

_TYPE_SHARE_PREFIX = "share_"
_NULL_RATE_PREFIX = "null_rate_"
_ID_METRICS = ("top_user_share", "new_user_share", "new_item_share", "users_per_item", "swapped_id_share")
_MAX_PROFILED_ROWS = 100_000
_MIN_PROFILED_ROWS = 100  # with fewer events, shares of users and items say little
_MIN_USUAL_ROWS = 50  # with fewer events a day, chance alone makes large differences
_MAX_FILE_RATIO = 9.9  # below the ratio that rejects a batch


def profile_batch(
    connection: Connection, batch: Row[tuple[object, ...]], kind: str, broken: Mapping[str, int], num_bad_lines: int
) -> Profile:
    """Computes and stores the metrics of a staged batch.

    `broken` counts rows per broken rule, `num_bad_lines` counts unparseable lines. Null rates and type shares are over
    good rows, bad shares over all rows. Inapplicable metrics are None: `freshness_hours` without an interval for a
    source that is not live, `rows_per_day` without an interval for one that is.
    """
    counts = connection.execute(statement(f"validation/profile_{kind}")).one()._mapping
    good = counts["rows"] - counts["bad_rows"]
    read = counts["rows"] + num_bad_lines or 1
    profile: Profile = {"rows": counts["rows"], "bad_share": (counts["bad_rows"] + num_bad_lines) / read}
    profile |= {f"bad_share_{rule}": broken.get(rule, 0) / read for rule in RULES[kind]}
    for name, value in counts.items():
        if name.startswith("null_"):
            profile[name.replace("null_", _NULL_RATE_PREFIX, 1)] = value / good if good else None
        elif name.startswith("type_"):
            profile[name.replace("type_", _TYPE_SHARE_PREFIX, 1)] = value / good if good else None
    if kind == "events":
        profile |= _measure_volume_and_freshness(connection, batch, good, counts)
        profile |= _measure_ids(connection, good, counts["rows"])
        connection.execute(
            text("update batches set first_event = :first, last_event = :last where batch_id = :id"),
            {"first": counts["first_time"], "last": counts["last_time"], "id": batch.batch_id},
        )
    _insert_profile(connection, batch, kind, profile)
    return profile


def compare_with_history(
    connection: Connection, batch: Row[tuple[object, ...]], kind: str, profile: Mapping[str, float | None]
) -> Profile:
    """Returns the profile extended by comparisons with the median of the source's latest batches.

    `rows_per_day_ratio` is the volume over its median (for files see `_file_volume_ratio`), `missing_days` the number
    of days without an event since the events before, `null_rate_change_*` the absolute difference of null rates,
    `users_per_item_ratio` the number of users per item over its median, `new_*_share_change` the difference of a share
    of new ids from its median, and `event_type_distance` the total variation distance of event type shares, 0 to 1.
    They are None without history.
    """
    values = {"source": batch.source, "batch_id": batch.batch_id, "kind": kind}
    recent: dict[str, list[float]] = defaultdict(list)
    for metric, value in connection.execute(statement("validation/recent_profiles"), values):
        recent[metric].append(value)
    medians = {metric: median(history) for metric, history in recent.items()}
    result: Profile = dict(profile)
    for name, value in profile.items():
        if name.startswith(_NULL_RATE_PREFIX):
            changed = name.replace(_NULL_RATE_PREFIX, f"{_NULL_RATE_PREFIX}change_", 1)
            result[changed] = None if value is None or name not in medians else abs(value - medians[name])
    if kind == "events":
        volume, median_volume = profile["rows_per_day"], medians.get("rows_per_day")
        if batch.interval_start is None:
            result["rows_per_day_ratio"] = None if volume is None else _file_volume_ratio(connection, batch, profile)
        else:
            result["rows_per_day_ratio"] = volume / median_volume if volume is not None and median_volume else None
        result["event_type_distance"] = _total_variation_distance(profile, medians)
        result["missing_days"] = _count_missing_days(connection, batch)
        result |= _compare_ids(profile, medians)
    return result


def _measure_volume_and_freshness(
    connection: Connection, batch: Row[tuple[object, ...]], good: int, counts: RowMapping
) -> Profile:
    profile: Profile = dict.fromkeys(("rows_per_day", "main_day", "weekday", "hours", "freshness_hours"))
    last_time: datetime | None = counts["last_time"]
    until = batch.interval_end or (batch.landed_at if batch.live else None)
    if batch.interval_start is not None:
        days = max((batch.interval_end - batch.interval_start).total_seconds() / 86_400, 1.0)
        profile["rows_per_day"] = good / days
    elif not (batch.live or batch.source == FEEDBACK_SOURCE or is_replay(batch.origin)):
        profile |= connection.execute(statement("validation/day_sizes")).one()._mapping
    if until is not None and last_time is not None:
        profile["freshness_hours"] = max(0.0, (until.astimezone(UTC) - last_time).total_seconds() / 3600)
    return profile


def _measure_ids(connection: Connection, good: int, rows: int) -> Profile:
    if good < _MIN_PROFILED_ROWS:
        return dict.fromkeys(_ID_METRICS)
    return {
        **connection.execute(statement("validation/profile_ids"), {"step": 1 + rows // _MAX_PROFILED_ROWS})
        .one()
        ._mapping
    }


def _file_volume_ratio(
    connection: Connection, batch: Row[tuple[object, ...]], profile: Mapping[str, float | None]
) -> float | None:
    """Returns the volume of a file's main day over that of usual days; None where there are too few files to tell.

    Stored events of that day are added, since the file may be a late part of it. A higher volume only warns, since the
    first files may have been samples.
    """
    days = {name: profile[name] for name in ("weekday", "main_day")}
    values = {"source": batch.source, "batch_id": batch.batch_id, **days}
    usual, lower_limit, stored = connection.execute(statement("validation/usual_volume"), values).one()
    if usual is None or usual < _MIN_USUAL_ROWS:
        return None
    own = profile["rows_per_day"] or 0.0
    return min((own + float(stored)) / float(lower_limit), max(own / float(usual), 1.0), _MAX_FILE_RATIO)


def _count_missing_days(connection: Connection, batch: Row[tuple[object, ...]]) -> float | None:
    if batch.source == FEEDBACK_SOURCE or is_replay(batch.origin):
        return None
    missing: float | None = connection.execute(statement("validation/missing_days"), {"source": batch.source}).scalar()
    return missing


def _compare_ids(profile: Mapping[str, float | None], medians: Mapping[str, float]) -> Profile:
    compared: Profile = {}
    for name in ("new_user_share", "new_item_share"):
        share = profile[name]
        compared[f"{name}_change"] = None if share is None or name not in medians else share - medians[name]
    ratio, usual = profile["users_per_item"], medians.get("users_per_item")
    compared["users_per_item_ratio"] = ratio / usual if ratio is not None and usual else None
    return compared


def _total_variation_distance(profile: Mapping[str, float | None], medians: Mapping[str, float]) -> float | None:
    names = [name for name in profile if name.startswith(_TYPE_SHARE_PREFIX)]
    if not any(name in medians for name in names) or any(profile[name] is None for name in names):
        return None
    return sum(abs((profile[name] or 0.0) - medians.get(name, 0.0)) for name in names) / 2


def _insert_profile(connection: Connection, batch: Row[tuple[object, ...]], kind: str, profile: Profile) -> None:
    rows = [
        {"batch_id": batch.batch_id, "kind": kind, "metric": name, "value": value} for name, value in profile.items()
    ]
    connection.execute(
        text("insert into batch_profiles (batch_id, kind, metric, value) values (:batch_id, :kind, :metric, :value)"),
        rows,
    )
