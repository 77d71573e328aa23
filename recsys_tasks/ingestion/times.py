"""Times as sources write them, to ISO 8601 in UTC: `2024-07-01T10:00:00Z`. What cannot be read stays as it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

_IN_UTC = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$"
_ZONED = r"(Z|[+-]\d\d:?\d\d)$"
_UNIX = {"unix_s": 1e6, "unix_ms": 1e3}  # microseconds in one
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _END = -62_135_596_800_000_000, 253_402_300_800_000_000  # the years that are written with four digits
_ARROW_KNOWS = 2_145_830_400_000_000  # until the end of 2037
_FIELDS = {
    "%Y": r"(\d{4})",
    "%m": r"(\d\d)",
    "%d": r"(\d\d)",
    "%H": r"(\d\d)",
    "%M": r"(\d\d)",
    "%S": r"(\d\d)",
    "%f": r"(\d{1,6})",
    "%z": r"(Z|[+-]\d\d:?\d\d)",
}


def to_utc(times: pa.Array, time_format: str, zone: str) -> pa.Array:
    """Times of one format as ISO 8601 texts in UTC; those without a zone are in `zone`.

    A local time that a change of clocks made twice counts as the first of the two; one that never was, as if the
    clocks had not been put forward yet: 02:30 is 03:30 then.

    Args:
        times: texts, timestamps or dates; null stays null.
        time_format: of texts: `iso8601`, `unix_s`, `unix_ms` or a strptime pattern.
        zone: name of a time zone.
    """
    if pa.types.is_date(times.type) or pa.types.is_timestamp(times.type):
        zoned = getattr(times.type, "tz", None)
        times, time_format = times.cast(pa.timestamp("us", zoned), safe=False), "iso8601"
        if zoned:
            return _text(times)
        times = times.cast(pa.string())
    if time_format == "iso8601" and pc.all(pc.match_substring_regex(times, _IN_UTC)).as_py():
        return times
    try:
        return pc.coalesce(_text(_parse(times, time_format, zone)), times)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        # One that cannot be read fails all of them: each on its own then.
        convert = time_converter(time_format, zone)
        return pa.array([None if text is None else str(convert(text)) for text in times.to_pylist()], pa.string())


def later(times: pa.Array, millis: pa.Array) -> pa.Array:
    """Times, as `to_utc` gives them, so many milliseconds later; what cannot be added up is no time then."""
    known = pc.match_substring_regex(times, _IN_UTC)
    whole = pc.match_substring_regex(millis, r"^\d{1,12}$")
    both = pc.and_kleene(known, whole)
    moments = pc.if_else(both, times, None).cast(pa.timestamp("us", "UTC"))
    added = pc.if_else(both, millis, None).cast(pa.int64()).cast(pa.duration("ms"))
    unknown = pc.binary_join_element_wise(pc.fill_null(times, ""), " + ", pc.fill_null(millis, ""), " ms", "")
    return pc.coalesce(_text(pc.add(moments, added)), unknown)


def time_converter(time_format: str, zone: str) -> Callable[[object], object]:
    """The same for one time; what it cannot read it gives back as it was."""
    zone_info = ZoneInfo(zone)
    factor = _UNIX.get(time_format)

    def parse(text: str) -> datetime:
        if factor is not None:
            return _EPOCH + timedelta(microseconds=round(float(text) * factor))
        if time_format == "iso8601":
            return datetime.fromisoformat(text)
        return datetime.strptime(text, time_format)  # noqa: DTZ007

    def convert(value: object) -> object:
        try:
            moment = parse(str(value))
            moment = (moment if moment.tzinfo else moment.replace(tzinfo=zone_info)).astimezone(UTC)
        except (ValueError, OverflowError):
            return value
        return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"

    return convert


def _parse(times: pa.Array, time_format: str, zone: str) -> pa.Array:
    """Timestamps in UTC; raises where Arrow cannot read one of them."""
    if time_format in _UNIX:
        micros = pc.round(pc.multiply(times.cast(pa.float64()), _UNIX[time_format]))
        return micros.cast(pa.int64()).cast(pa.timestamp("us", "UTC"))
    if time_format != "iso8601":
        times = _as_iso(times, time_format)
    zoned = pc.match_substring_regex(times, _ZONED)
    with_zone = pc.if_else(zoned, times, None).cast(pa.timestamp("us", "UTC"))
    if with_zone.null_count == times.null_count:
        return with_zone
    return pc.coalesce(with_zone, _in_utc(pc.if_else(zoned, None, times).cast(pa.timestamp("us")), zone))


def _as_iso(times: pa.Array, pattern: str) -> pa.Array:
    """Texts of a strptime pattern in ISO's order: Arrow's own strptime takes the 31st of February for a date."""
    parts = re.split(r"(%.)", pattern)
    found = [part for part in parts if part in _FIELDS]
    if len(set(found)) < len(found) or not {"%Y", "%m", "%d"} <= set(found) or "%" in "".join(set(parts) - set(found)):
        raise pa.ArrowNotImplementedError(pattern)
    place = {field: rf"\{number}" for number, field in enumerate(found, 1)}
    regex = "^" + "".join(_FIELDS.get(part) or re.escape(part) for part in parts) + "$"
    if not pc.all(pc.match_substring_regex(times, regex)).as_py():
        raise pa.ArrowInvalid(pattern)
    clock = ":".join(place.get(field, "00") for field in ("%H", "%M", "%S"))
    fraction = f".{place['%f']}" if "%f" in place else ""
    iso = f"{place['%Y']}-{place['%m']}-{place['%d']}T{clock}{fraction}{place.get('%z', '')}"
    return pc.replace_substring_regex(times, regex, iso)


def _in_utc(times: pa.Array, zone: str) -> pa.Array:
    if zone != "UTC" and (pc.max(times).cast(pa.int64()).as_py() or 0) > _ARROW_KNOWS:
        raise pa.ArrowNotImplementedError("Arrow knows no change of clocks after 2037")
    moments = pc.assume_timezone(times, zone, ambiguous="earliest", nonexistent="earliest")
    # Where there was no such time, Arrow gives the last moment before: go on by what is missing.
    return pc.add(moments, pc.subtract(times, pc.local_timestamp(moments))).cast(pa.timestamp("us", "UTC"))


def _text(moments: pa.Array) -> pa.Array:
    micros = moments.cast(pa.int64())
    in_range = pc.and_(pc.greater_equal(micros, _FIRST), pc.less(micros, _END))
    # Arrow writes times without a zone ten times as fast.
    text = pc.if_else(in_range, moments.cast(pa.timestamp("us")), None).cast(pa.string())
    return pc.binary_join_element_wise(pc.binary_replace_slice(text, 10, 11, "T"), "Z", "")
