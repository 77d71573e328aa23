"""Times as sources write them, to ISO 8601 in UTC: `2024-07-01T10:00:00Z`. What cannot be read stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

_IN_UTC = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$"
_ZONED = r"(Z|[+-]\d\d:?\d\d)$"
# What Python's strptime reads and Arrow's does not.
_BEYOND_ARROW = ("%f", "%z", "%Z", "%p", "%b", "%B", "%a", "%A")


def to_utc(times: pa.Array, time_format: str, zone: str) -> pa.Array:
    """Texts of one format as ISO 8601 texts in UTC; times without a zone are in `zone`.

    A local time that a change of clocks made twice counts as the first of the two, one that never was as what the
    clocks jumped to.

    Args:
        times: texts; null stays null.
        time_format: `iso8601`, `unix_s`, `unix_ms` or a strptime pattern.
        zone: name of a time zone.
    """
    if time_format == "iso8601" and pc.all(pc.match_substring_regex(times, _IN_UTC)).as_py():
        return times
    try:
        return pc.coalesce(_text(_parse(times, time_format, zone)), times)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OverflowError):
        # One that cannot be read fails all of them: each on its own then.
        convert = time_converter(time_format, zone)
        return pa.array([None if text is None else str(convert(text)) for text in times.to_pylist()], pa.string())


def time_converter(time_format: str, zone: str) -> Callable[[object], object]:
    """The same for one time; what it cannot read it gives back as it was."""
    zone_info = ZoneInfo(zone)
    parse: dict[str, Callable[[str], datetime]] = {
        "iso8601": datetime.fromisoformat,
        "unix_s": lambda text: datetime.fromtimestamp(float(text), UTC),
        "unix_ms": lambda text: datetime.fromtimestamp(int(text) / 1000, UTC),
    }
    chosen = parse.get(time_format, lambda text: datetime.strptime(text, time_format))  # noqa: DTZ007

    def convert(value: object) -> object:
        try:
            moment = chosen(str(value))
            moment = (moment if moment.tzinfo else moment.replace(tzinfo=zone_info)).astimezone(UTC)
        except (ValueError, OverflowError, OSError):
            return value
        return moment.replace(tzinfo=None).isoformat() + "Z"

    return convert


def _parse(times: pa.Array, time_format: str, zone: str) -> pa.Array:
    """Timestamps in UTC; raises where Arrow cannot read one of them."""
    if time_format == "unix_ms":
        return times.cast(pa.int64()).cast(pa.timestamp("ms")).cast(pa.timestamp("us"))
    if time_format == "unix_s":
        seconds = times.cast(pa.float64())
        return pc.round(pc.multiply(seconds, 1e6)).cast(pa.int64()).cast(pa.timestamp("us"))
    if time_format != "iso8601":
        if any(directive in time_format for directive in _BEYOND_ARROW):
            raise pa.ArrowNotImplementedError(time_format)
        return _in_utc(pc.strptime(times, time_format, unit="us", error_is_null=True), zone)
    zoned = pc.match_substring_regex(times, _ZONED)
    with_zone = pc.if_else(zoned, times, None).cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us"))
    without = pc.if_else(zoned, None, times).cast(pa.timestamp("us"))
    return pc.coalesce(with_zone, _in_utc(without, zone))


def _in_utc(local: pa.Array, zone: str) -> pa.Array:
    aware = pc.assume_timezone(local, zone, ambiguous="earliest", nonexistent="latest")
    return aware.cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us"))


def _text(moments: pa.Array) -> pa.Array:
    text = pc.replace_substring(moments.cast(pa.string()), " ", "T", max_replacements=1)
    return pc.binary_join_element_wise(text, "Z", "")
