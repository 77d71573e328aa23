"""Conversion of source times to ISO 8601 in UTC (`2024-07-01T10:00:00Z`); invalid times stay unchanged."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

_UTC_PATTERN = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$"
_ZONE_SUFFIX_PATTERN = r"(Z|[+-]\d\d:?\d\d)$"
_MICROSECONDS_PER_UNIT = {"unix_s": 1e6, "unix_ms": 1e3, "unix_us": 1.0, "unix_ns": 1e-3}
_INTEGER_PATTERN = r"^-?\d{1,19}$"
_NANOSECONDS_PER_MICROSECOND = 1_000
_SAMPLE_TIME = datetime(2024, 7, 13, 14, 15, 16, tzinfo=UTC)
_MACHINE_DEPENDENT = ("%Z", "%c", "%x", "%X")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MIN_MICROSECONDS, _END_MICROSECONDS = -62_135_596_800_000_000, 253_402_300_800_000_000  # years 0001 to 9999
_MAX_ARROW_ZONE_MICROSECONDS = 2_145_830_400_000_000  # 2037-12-31; Arrow has no later daylight saving rules
_FIELD_PATTERNS = {
    "%Y": r"(\d{4})",
    "%m": r"(\d\d)",
    "%d": r"(\d\d)",
    "%H": r"(\d\d)",
    "%M": r"(\d\d)",
    "%S": r"(\d\d)",
    "%f": r"(\d{1,6})",
    "%z": r"(Z|[+-]\d\d:?\d\d)",
}


def check_time_format(time_format: str) -> None:
    """Checks that times of a format can be read.

    Raises:
        ValueError: the format is neither known by name nor a strptime pattern of a whole date; or it has a part that is
            read differently on another machine, such as the abbreviation of a time zone.
    """
    if time_format == "iso8601" or time_format in _MICROSECONDS_PER_UNIT:
        return
    names = ", ".join(["iso8601", *_MICROSECONDS_PER_UNIT])
    expected = f"expected {names}, or a strptime pattern such as '%d.%m.%Y %H:%M'"
    dependent = [part for part in re.findall("%.", time_format) if part in _MACHINE_DEPENDENT]
    if dependent:
        raise ValueError(
            f"{time_format!r} has {dependent[0]}, which another machine reads differently; {expected}. `%z` reads"
            " offsets such as +02:00, and `time_zone` names the zone of times without one"
        )
    if "%" not in time_format:
        raise ValueError(f"unknown time format {time_format!r}; {expected}")
    try:
        parsed = datetime.strptime(_SAMPLE_TIME.strftime(time_format), time_format)  # noqa: DTZ007
    except (ValueError, re.error) as error:
        raise ValueError(f"unknown time format {time_format!r}; {expected}") from error
    has_hour = "%H" in time_format or "%I" in time_format
    if parsed.date() != _SAMPLE_TIME.date() or (has_hour and parsed.hour != _SAMPLE_TIME.hour):
        raise ValueError(f"{time_format!r} does not tell year, month, day and hour; {expected}")


def to_utc(times: pa.Array, time_format: str, zone: str) -> pa.Array:
    """Converts times of one format to ISO 8601 text in UTC; `zone` applies to times without a zone.

    An ambiguous local time (daylight saving ends) is the earlier one. A nonexistent one (daylight saving begins) is
    shifted forward: 02:30 becomes 03:30.

    Args:
        times: text, timestamps or dates; null stays null.
        time_format: format of text: `iso8601`, `unix_s`, `unix_ms`, `unix_us`, `unix_ns` or a strptime pattern.
        zone: name of a time zone.
    """
    if pa.types.is_date(times.type) or pa.types.is_timestamp(times.type):
        source_zone = getattr(times.type, "tz", None)
        times, time_format = times.cast(pa.timestamp("us", source_zone), safe=False), "iso8601"
        if source_zone:
            return _format_utc(times)
        times = times.cast(pa.string())
    if time_format == "iso8601" and pc.all(pc.match_substring_regex(times, _UTC_PATTERN)).as_py():
        return times
    try:
        return pc.coalesce(_format_utc(_parse(times, time_format, zone)), times)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        # One invalid time fails the whole array, so convert each alone.
        convert = time_converter(time_format, zone)
        return pa.array([None if text is None else str(convert(text)) for text in times.to_pylist()], pa.string())


def is_utc(times: pa.Array) -> pa.Array:
    """Returns which texts are times as `to_utc` returns them."""
    return pc.match_substring_regex(times, _UTC_PATTERN)


def add_milliseconds(times: pa.Array, milliseconds: pa.Array) -> pa.Array:
    """Adds milliseconds to times as `to_utc` returns them; invalid pairs become text that is not a time."""
    is_time = is_utc(times)
    is_integer = pc.match_substring_regex(milliseconds, r"^\d{1,12}$")
    is_valid = pc.and_kleene(is_time, is_integer)
    timestamps = pc.if_else(is_valid, times, None).cast(pa.timestamp("us", "UTC"))
    offsets = pc.if_else(is_valid, milliseconds, None).cast(pa.int64()).cast(pa.duration("ms"))
    invalid_text = pc.binary_join_element_wise(
        pc.fill_null(times, ""), " + ", pc.fill_null(milliseconds, ""), " ms", ""
    )
    return pc.coalesce(_format_utc(pc.add(timestamps, offsets)), invalid_text)


def time_converter(time_format: str, zone: str) -> Callable[[object], object]:
    """Returns a converter of single times, equivalent to `to_utc`; it returns invalid values unchanged."""
    zone_info = ZoneInfo(zone)
    factor = _MICROSECONDS_PER_UNIT.get(time_format)

    def parse(text: str) -> datetime:
        if time_format == "unix_ns" and re.match(_INTEGER_PATTERN, text):
            return _EPOCH + timedelta(microseconds=int(text) // _NANOSECONDS_PER_MICROSECOND)
        if factor is not None:
            return _EPOCH + timedelta(microseconds=round(float(text) * factor))
        if time_format == "iso8601":
            return datetime.fromisoformat(text)
        return datetime.strptime(text, time_format)  # noqa: DTZ007

    def convert(value: object) -> object:
        try:
            timestamp = parse(str(value))
            timestamp = (timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=zone_info)).astimezone(UTC)
        except (ValueError, OverflowError):
            return value
        return timestamp.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"

    return convert


def _parse(times: pa.Array, time_format: str, zone: str) -> pa.Array:
    """Parses times to UTC timestamps; raises an Arrow error if any time is invalid."""
    if time_format == "unix_ns" and pc.all(pc.match_substring_regex(times, _INTEGER_PATTERN)).as_py():
        # A 64-bit float does not hold nanoseconds since 1970 exactly.
        nanoseconds = times.cast(pa.int64()).cast(pa.timestamp("ns", "UTC"))
        return pc.floor_temporal(nanoseconds, unit="microsecond").cast(pa.timestamp("us", "UTC"))
    if time_format in _MICROSECONDS_PER_UNIT:
        microseconds = pc.round(pc.multiply(times.cast(pa.float64()), _MICROSECONDS_PER_UNIT[time_format]))
        return microseconds.cast(pa.int64()).cast(pa.timestamp("us", "UTC"))
    if time_format != "iso8601":
        times = _to_iso(times, time_format)
    has_zone = pc.match_substring_regex(times, _ZONE_SUFFIX_PATTERN)
    with_zone = pc.if_else(has_zone, times, None).cast(pa.timestamp("us", "UTC"))
    if with_zone.null_count == times.null_count:
        return with_zone
    return pc.coalesce(with_zone, _localize(pc.if_else(has_zone, None, times).cast(pa.timestamp("us")), zone))


def _to_iso(times: pa.Array, pattern: str) -> pa.Array:
    """Rewrites text of a strptime pattern to ISO 8601; Arrow's strptime accepts 31 February as a date."""
    parts = re.split(r"(%.)", pattern)
    fields = [part for part in parts if part in _FIELD_PATTERNS]
    if (
        len(set(fields)) < len(fields)
        or not {"%Y", "%m", "%d"} <= set(fields)
        or "%" in "".join(set(parts) - set(fields))
    ):
        raise pa.ArrowNotImplementedError(pattern)
    groups = {field: rf"\{number}" for number, field in enumerate(fields, 1)}
    regex = "^" + "".join(_FIELD_PATTERNS.get(part) or re.escape(part) for part in parts) + "$"
    if not pc.all(pc.match_substring_regex(times, regex)).as_py():
        raise pa.ArrowInvalid(pattern)
    clock = ":".join(groups.get(field, "00") for field in ("%H", "%M", "%S"))
    fraction = f".{groups['%f']}" if "%f" in groups else ""
    iso = f"{groups['%Y']}-{groups['%m']}-{groups['%d']}T{clock}{fraction}{groups.get('%z', '')}"
    return pc.replace_substring_regex(times, regex, iso)


def _localize(times: pa.Array, zone: str) -> pa.Array:
    if zone != "UTC" and (pc.max(times).cast(pa.int64()).as_py() or 0) > _MAX_ARROW_ZONE_MICROSECONDS:
        raise pa.ArrowNotImplementedError("Arrow has no daylight saving rules after 2037")
    timestamps = pc.assume_timezone(times, zone, ambiguous="earliest", nonexistent="earliest")
    # For a nonexistent local time Arrow returns the last instant before the gap; add the difference.
    return pc.add(timestamps, pc.subtract(times, pc.local_timestamp(timestamps))).cast(pa.timestamp("us", "UTC"))


def _format_utc(timestamps: pa.Array) -> pa.Array:
    microseconds = timestamps.cast(pa.int64())
    in_range = pc.and_(pc.greater_equal(microseconds, _MIN_MICROSECONDS), pc.less(microseconds, _END_MICROSECONDS))
    # Arrow formats timestamps without a zone ten times as fast.
    text = pc.if_else(in_range, timestamps.cast(pa.timestamp("us")), None).cast(pa.string())
    return pc.binary_join_element_wise(pc.binary_replace_slice(text, 10, 11, "T"), "Z", "")
