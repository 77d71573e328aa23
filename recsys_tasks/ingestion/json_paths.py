"""Paths into JSON records: `user.id` reads a field of an object, `lines[].sku` makes a row of each array element."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

ELEMENT: Final = "[]"
Record = dict[str, Any]


def find_array(paths: Iterable[str]) -> str | None:
    """Returns the path of the array that is made into rows, such as `lines`; None if no path names one.

    Raises:
        ValueError: the paths name several arrays, or an array within another.
    """
    arrays = {path.split(ELEMENT, 1)[0] for path in paths if ELEMENT in path}
    nested = [path for path in paths if path.count(ELEMENT) > 1]
    if len(arrays) > 1 or nested:
        names = ", ".join(sorted(arrays | set(nested)))
        raise ValueError(f"the elements of one array can be made into rows, not those of {names}")
    return arrays.pop() if arrays else None


def iterate_elements(record: Record, array: str) -> Iterator[tuple[int, Record]]:
    """Yields the record once per element of an array, which the element replaces, with the element's position from 1.

    A record without elements is yielded once, with a null in their place and position 0.
    """
    found, elements = find_value(record, array)
    if not found or not isinstance(elements, list) or not elements:
        yield 0, _with_value(record, array, None)
        return
    for position, element in enumerate(elements, start=1):
        yield position, _with_value(record, array, element)


def find_value(record: Record, path: str) -> tuple[bool, Any]:
    """Returns whether a record has a path, and its value. A field whose name is the whole path comes first."""
    path = path.replace(ELEMENT, "")
    if path in record:
        return True, record[path]
    value: Any = record
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return False, None
        value = value[name]
    return True, value


def without_paths(record: Record, paths: Iterable[str]) -> Record:
    """Returns a record without the fields at some paths, and without objects that thereby become empty."""
    for path in paths:
        first, _, rest = path.replace(ELEMENT, "").partition(".")
        inner = record.get(first)
        if not rest:
            record = {name: value for name, value in record.items() if name != first}
        elif isinstance(inner, dict):
            record = {**record, first: without_paths(inner, [rest]) or None}
    return record


def _with_value(record: Record, path: str, value: Any) -> Record:
    """Returns a record with another value at a path."""
    if path in record or "." not in path:
        return {**record, path: value}
    first, rest = path.split(".", 1)
    inner = record.get(first)
    return {**record, first: _with_value(inner if isinstance(inner, dict) else {}, rest, value)}
