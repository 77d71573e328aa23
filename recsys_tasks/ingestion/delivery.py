"""Deliveries: where a source puts its files, by date, and when; light, so that DAG files may use it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from recsys_tasks.errors import ConfigurationError, InputError
from recsys_tasks.ingestion.remote_files import WILDCARD, find_files, is_remote
from recsys_tasks.interval import Interval

_FIELD = re.compile(r"\{([^{}]*)\}")
_DATE = re.compile(r"date(?::(.+))?")
_DEFAULT_FORMAT = "%Y-%m-%d"
_HOURLY = ("%H", "%I")


class Delivery(BaseModel):
    """The `[delivery]` of a mapping: the DAG `ingest_source_NAME` fetches these files on a schedule.

    Attributes:
        path: paths or address of the files of one date, with `{date}` or `{date:%Y/%m/%d}`, and with `*`.
        schedule: cron expression, in UTC; a run fetches the files of the time since the run before.
        wait_hours: how long a run waits for its files, in hours.
        catchup_from: date from which missed runs are made up for; without it, only the latest run is made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(min_length=1)
    schedule: str = "0 0 * * *"
    wait_hours: float = Field(6, gt=0)
    catchup_from: date | None = None

    @field_validator("path")
    @classmethod
    def _dates_are_readable(cls, value: str) -> str:
        if not _FIELD.search(value):
            raise ValueError(f"{value!r} has no {{date}}, by which the files of one run are known")
        _check_fields(value)
        return value


def expand_dates(template: str, interval: Interval | None) -> list[str]:
    """Returns a path for every day of the interval, or for every hour if the template has hours; without repeats.

    Raises:
        ConfigurationError: a field that is not `{date}` or `{date:FORMAT}`, or dates without an interval.
    """
    if not _FIELD.search(template) or (not is_remote(template) and Path(template).exists()):
        return [template]
    try:
        _check_fields(template)
    except ValueError as error:
        raise ConfigurationError(f"{template}: {error}") from error
    if interval is None:
        raise ConfigurationError(f"{template} has dates: give --from and --to")
    hourly = any(code in field for field in _FIELD.findall(template) for code in _HOURLY)
    times = _iterate_times(interval, timedelta(hours=1) if hourly else timedelta(days=1))
    return list(dict.fromkeys(_fill_in(template, time) for time in times))


def find_delivered(paths: Sequence[str], interval: Interval | None = None) -> tuple[list[str], list[str]]:
    """Returns the files that paths with dates and `*` stand for, and the paths without any file."""
    files: list[str] = []
    missing = []
    for path in (expanded for template in paths for expanded in expand_dates(template, interval)):
        found = _find(path)
        files += found
        if not found:
            missing.append(path)
    return list(dict.fromkeys(files)), missing


def require_delivered(paths: Sequence[str], interval: Interval | None = None) -> list[str]:
    """Returns the files that paths with dates and `*` stand for.

    Raises:
        InputError: a path stands for none.
    """
    files, missing = find_delivered(paths, interval)
    if missing:
        raise InputError(f"There is no file at {', '.join(missing)}")
    return files


def _find(path: str) -> list[str]:
    if is_remote(path):
        return find_files(path)
    if Path(path).exists() or WILDCARD not in path:
        return [path] if Path(path).exists() else []
    anchor = Path(Path(path).anchor)
    return sorted(str(found) for found in anchor.glob(str(Path(path).relative_to(anchor))) if found.is_file())


def _check_fields(template: str) -> None:
    for field in _FIELD.findall(template):
        if not _DATE.fullmatch(field):
            raise ValueError(f"{{{field}}} is unknown; write {{date}} or {{date:%Y/%m/%d}}")


def _fill_in(template: str, time: datetime) -> str:
    def format_field(field: re.Match[str]) -> str:
        found = _DATE.fullmatch(field[1])
        return time.strftime(found[1] if found and found[1] else _DEFAULT_FORMAT)

    return _FIELD.sub(format_field, template)


def _iterate_times(interval: Interval, step: timedelta) -> Iterator[datetime]:
    """Yields the starts of all days or hours that overlap the interval."""
    time = interval.start.replace(minute=0, second=0, microsecond=0)
    if step >= timedelta(days=1):
        time = time.replace(hour=0)
    while time < interval.end:
        yield time
        time += step
