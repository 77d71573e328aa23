"""Numbers as people write them in different countries: decimal separators and thousands separators."""

from __future__ import annotations

import re
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

_NUMBER: Final = re.compile(r"-?\d+([.,]\d+)?")
NUMBER_COLUMNS: Final = ("quantity", "price", "position")
_SPACES: Final = "[ \u00a0\u202f]"  # some programs write a space that does not break the line


def looks_like_number(text: str) -> bool:
    """Whether a text is a number, with a point or a comma: the name of a column is none."""
    return _NUMBER.fullmatch(text) is not None


def read_numbers(texts: pa.Array, decimal: str, thousands: str) -> pa.Array:
    """Rewrites numbers with a point as decimal separator and without thousands separators.

    Text that is no such number is marked, so that validation quarantines it: with a decimal comma, `1.5` is not one and
    a half.

    Args:
        texts: numbers as text; null stays null.
        decimal: decimal separator.
        thousands: separator of groups of three digits; empty for none.
    """
    separator = _SPACES if thousands == " " else re.escape(thousands)
    grouped = rf"|\d{{1,3}}(?:{separator}\d{{3}})+" if thousands else ""
    pattern = rf"^[+-]?(?:\d+{grouped})(?:{re.escape(decimal)}\d+)?(?:[eE][+-]?\d+)?$"
    is_number = pc.match_substring_regex(texts, pattern)
    plain = pc.replace_substring_regex(texts, separator, "") if thousands else texts
    plain = pc.replace_substring(plain, decimal, ".")
    marked = pc.binary_join_element_wise(texts, f" (with the decimal separator {decimal})", "")
    return pc.if_else(is_number, plain, marked)
