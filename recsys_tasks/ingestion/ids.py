"""Ids in files: one text for one number, whatever type a tool gave it, and signs that ids were lost on the way.

pandas makes a column of integers one of floats as soon as a value is missing, spreadsheets show long numbers as
`4.00638E+12`, and JSON writers print `4006381333931.0`.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

ID_COLUMNS: Final = ("event_id", "user_id", "session_id", "item_id", "request_id")
LARGEST_EXACT: Final = 2.0**53  # a 64-bit float holds all integers up to this
_LARGEST_EXACT_32: Final = 2.0**24
_INTEGER_AS_FLOAT: Final = r"^(-?\d+)\.0+$"
_ROUNDED: Final = r"^-?\d+(\.\d+)?[eE]\+\d+$"
_PLACEHOLDERS: Final = ("NaN", "nan", "None", "none", "NULL", "null", "undefined", "N/A", "n/a", "NA", "<NA>", "#N/A")


def float_to_text(column: pa.Array) -> pa.Array:
    """Converts floats to text: whole numbers without a fraction or exponent, as integers have them; NaN to null."""
    column = pc.if_else(pc.is_nan(column), None, column)
    exact = column.cast(pa.float64())
    is_whole = pc.and_(pc.equal(pc.floor(exact), exact), pc.less_equal(pc.abs(exact), LARGEST_EXACT))
    whole = pc.if_else(is_whole, exact, None).cast(pa.int64(), safe=False).cast(pa.string())
    return pc.coalesce(whole, column.cast(pa.string()))


def normalize_ids(ids: pa.Array) -> pa.Array:
    """Returns ids as text, whole numbers without `.0`."""
    if not pc.any(pc.match_substring(ids, ".0")).as_py():
        return ids
    return pc.replace_substring_regex(ids, _INTEGER_AS_FLOAT, r"\1")


def find_rounded(column: pa.Array) -> pa.Array:
    """Returns which values of an id column were rounded before they were written, so that others look the same: floats
    beyond the integers that they hold exactly, and text such as `4.00638E+12`."""
    if pa.types.is_floating(column.type):
        largest = LARGEST_EXACT if column.type == pa.float64() else _LARGEST_EXACT_32
        return pc.fill_null(pc.greater(pc.abs(column.cast(pa.float64())), largest), False)
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if not is_text or not pc.any(pc.match_substring(column, "+")).as_py():
        return pc.is_in(pa.nulls(len(column), pa.int8()), pa.array([], pa.int8()))
    return pc.fill_null(pc.match_substring_regex(column, _ROUNDED), False)


def count_placeholders(ids: pa.Array) -> int:
    """Returns the number of ids that are the words by which tools write a missing value, such as `NaN` or `null`."""
    found: int = pc.sum(pc.is_in(ids, pa.array(_PLACEHOLDERS))).as_py() or 0
    return found
