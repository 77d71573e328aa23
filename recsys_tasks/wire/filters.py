"""Item filters: conditions on item fields in JSON, and their validation.

    {"field": "brand", "one_of": ["Acme", "Apex"]}
    {"field": "price", "at_least": 10, "at_most": 50}
    {"field": "category", "under": ["GROCERY > DAIRY"]}
    {"all": [...]}, {"any": [...]}, {"not": {...}}

A field is `item_id`, `category`, `brand`, `price` or `properties.NAME`. A condition on a value that an item
lacks is false.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from recsys_tasks.errors import InputError

Value = str | float | bool

PROPERTY = "properties."
_FIELDS = ("item_id", "category", "brand", "price")
_FORMS = ("one_of", "under", "at_least", "at_most", "all", "any", "not")
MAX_CONDITIONS = 100
_MAX_DEPTH = 10


class Filter(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, rename={"not_": "not"}):
    """One condition, or a combination of filters; `check_filter` validates it."""

    field: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    one_of: Annotated[list[Value], msgspec.Meta(min_length=1, max_length=1_000)] | None = None
    under: Annotated[list[str], msgspec.Meta(min_length=1, max_length=100)] | None = None
    at_least: float | None = None
    at_most: float | None = None
    all: Annotated[list[Filter], msgspec.Meta(min_length=1)] | None = None
    any: Annotated[list[Filter], msgspec.Meta(min_length=1)] | None = None
    not_: Filter | None = None

    def operands(self) -> Iterator[tuple[str, Filter]]:
        """Yields the combined filters, each with its path below this filter."""
        for name, filters in (("all", self.all or ()), ("any", self.any or ())):
            yield from ((f".{name}[{index}]", operand) for index, operand in enumerate(filters))
        if self.not_ is not None:
            yield ".not", self.not_


def check_filter(root: Filter, path: str) -> int:
    """Validates the form of a filter; returns its number of conditions.

    Args:
        root: the filter.
        path: its path in the request, for the error message.

    Raises:
        InputError: a condition is not well formed, or there are too many conditions; names its path.
    """
    level, count = [(path, root)], 0
    for _ in range(_MAX_DEPTH):
        for at, condition in level:
            problem = _find_problem(condition)
            if problem:
                raise InputError(f"{problem} - at `{at}`")
        count += len(level)
        level = [(at + below, operand) for at, condition in level for below, operand in condition.operands()]
        if not level:
            break
    if level or count > MAX_CONDITIONS:
        raise InputError(
            f"a filter has at most {MAX_CONDITIONS} conditions, nested at most {_MAX_DEPTH} deep - at `{path}`"
        )
    return count


def _find_problem(condition: Filter) -> str | None:
    """Returns what is wrong with one condition, ignoring its operands; None if it is well formed."""
    given = {name for name in _FORMS if getattr(condition, name if name != "not" else "not_") is not None}
    if given <= {"at_least", "at_most"} and given:
        form = "range"
    elif len(given) == 1:
        form = given.pop()
    else:
        return f"a condition has one of {', '.join(_FORMS)} (only at_least and at_most may be combined)"
    if form in ("all", "any", "not"):
        return None if condition.field is None else f"`{form}` combines other filters and has no `field`"
    return _find_field_problem(form, condition.field)


def _find_field_problem(form: str, field: str | None) -> str | None:
    if field is None:
        return f"a condition needs `field`: {', '.join(_FIELDS)} or {PROPERTY}NAME"
    if field not in _FIELDS and not (field.startswith(PROPERTY) and len(field) > len(PROPERTY)):
        return f"there is no field {field!r}, but {', '.join(_FIELDS)} and {PROPERTY}NAME"
    if form == "under" and field != "category":
        return "`under` is for `category`"
    if form == "range" and field in ("item_id", "category", "brand"):
        return f"`{field}` has no order; use `one_of`"
    return None
