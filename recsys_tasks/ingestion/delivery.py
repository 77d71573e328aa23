"""The table `[delivery]` of a mapping: paths with dates, schedule and waiting time. Free of heavy imports, so that DAG
files may use it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from recsys_tasks.errors import ConfigurationError, InputError
from recsys_tasks.ingestion.remote_files import find_files
from recsys_tasks.interval import Interval
from recsys_tasks.storage.addresses import WILDCARD, check_address, is_remote, without_secrets

_FIELD = re.compile(r"\{([^{}]*)\}")
_DATE = re.compile(r"date(?::(.+))?")
_DEFAULT_FORMAT = "%Y-%m-%d"
_DAY, _HOUR = timedelta(days=1), timedelta(hours=1)
_HIDDEN = (".", "_")  # with which names begin that a leading wildcard does not match
_UNFINISHED = (".part", ".tmp", ".crdownload")  # in which names end that a trailing wildcard does not match


class Delivery(BaseModel):
    """The `[delivery]` of a mapping: the DAG `ingest_source_NAME` loads these files on a schedule.

    Attributes:
        path: path or address of the files of one date; has `{date}` or `{date:%Y/%m/%d}`, and may have `*`.
        marker: path or address, with a date, of a file that appears once the delivery is complete; None for none.
        schedule: cron expression, in UTC; a run loads the days, or hours, that ended since the run before.
        wait_hours: how long a run waits for its files, in hours.
        catchup_from: date from which runs are caught up that were missed; None: only the latest run is made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(min_length=1)
    marker: str | None = None
    schedule: str = "0 0 * * *"
    wait_hours: float = Field(6, gt=0)
    catchup_from: date | None = None

    @field_validator("path", "marker")
    @classmethod
    def _check_template(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                if is_remote(value):
                    check_address(value)
            except ConfigurationError as error:
                raise ValueError(str(error)) from error
            if not _FIELD.search(value):
                shown = without_secrets(value)
                raise ValueError(f"{shown!r} has no {{date}}. Add one, so that each run finds its own files")
            _check_fields(value)
        return value

    @property
    def shown_path(self) -> str:
        """The path without what may be secret."""
        return without_secrets(self.path)


def expand_dates(template: str, interval: Interval | None) -> list[str]:
    """Returns a path for every day that ends in the interval, or for every hour if the template has hours.

    A day belongs to the interval (start, end] that its end is in, so that adjacent intervals have no day in common.

    Raises:
        ConfigurationError: a field that is not `{date}` or `{date:FORMAT}`, or dates without an interval.
    """
    if not _FIELD.search(template) or (not is_remote(template) and Path(template).exists()):
        return [template]
    try:
        _check_fields(template)
    except ValueError as error:
        raise ConfigurationError(f"{without_secrets(template)}: {error}") from error
    if interval is None:
        raise ConfigurationError(f"{without_secrets(template)} has dates: give --from and --to")
    step = _HOUR if _has_hours(template) else _DAY
    return list(dict.fromkeys(_format_dates(template, time) for time in _iterate_periods(interval, step)))


def find_delivered_files(paths: Sequence[str], interval: Interval | None = None) -> tuple[list[str], list[str]]:
    """Returns the files that paths with dates and `*` stand for, and the paths without any file."""
    files: list[str] = []
    missing = []
    for path in (expanded for template in paths for expanded in expand_dates(template, interval)):
        found = _find(path)
        files += found
        if not found:
            missing.append(without_secrets(path))
    return list(dict.fromkeys(files)), missing


def require_delivered_files(paths: Sequence[str], interval: Interval | None = None) -> list[str]:
    """Returns the files that paths with dates and `*` stand for.

    Raises:
        InputError: a path stands for none, or no day or hour ends in the interval.
    """
    files, missing = find_delivered_files(paths, interval)
    if paths and not files and not missing:
        raise InputError(f"No date of {', '.join(map(without_secrets, paths))} ends in the interval")
    if missing:
        raise InputError(f"There is no file at {', '.join(missing)}")
    return files


def _find(path: str) -> list[str]:
    if is_remote(path):
        found = find_files(path)
    elif Path(path).exists() or WILDCARD not in path:
        return [path] if Path(path).exists() else []
    else:
        anchor = Path(Path(path).anchor)
        pattern = re.sub(r"([?\[])", r"[\1]", str(Path(path).relative_to(anchor)))  # only * is a wildcard
        found = sorted(str(file) for file in anchor.glob(pattern) if file.is_file())
    return [file for file in found if _is_meant(path.rsplit("/", 1)[-1], file.rsplit("/", 1)[-1])]


def _is_meant(pattern: str, name: str) -> bool:
    """Whether a name that matches a pattern is no hidden and no unfinished file, unless the pattern says so."""
    is_hidden = pattern.startswith(WILDCARD) and name.startswith(_HIDDEN)
    return not is_hidden and not (pattern.endswith(WILDCARD) and name.lower().endswith(_UNFINISHED))


def _check_fields(template: str) -> None:
    for field in _FIELD.findall(template):
        if not _DATE.fullmatch(field):
            raise ValueError(f"{{{field}}} is unknown; write {{date}} or {{date:%Y/%m/%d}}")


def _format_dates(template: str, time: datetime) -> str:
    def format_field(field: re.Match[str]) -> str:
        found = _DATE.fullmatch(field[1])
        return time.strftime(found[1] if found and found[1] else _DEFAULT_FORMAT)

    return _FIELD.sub(format_field, template)


def _has_hours(template: str) -> bool:
    """Whether two hours of one day have different paths."""
    midnight = Interval.of_day(date(2000, 1, 1)).start
    return _format_dates(template, midnight) != _format_dates(template, midnight + 13 * _HOUR)


def _iterate_periods(interval: Interval, step: timedelta) -> Iterator[datetime]:
    """Yields the starts of the days or hours that end after the interval's start, and not after its end."""
    time = interval.start.replace(minute=0, second=0, microsecond=0)
    if step == _DAY:
        time = time.replace(hour=0)
    while time + step <= interval.end:
        yield time
        time += step
