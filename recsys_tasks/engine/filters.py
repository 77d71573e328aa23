"""Which items may be shown: a small language of conditions in JSON, checked whole before it is applied.

    {"field": "brand", "one_of": ["Acme", "Apex"]}
    {"field": "price", "at_least": 10, "at_most": 50}
    {"field": "category", "under": ["GROCERY > DAIRY"]}
    {"all": [...]}, {"any": [...]}, {"not": {...}}

A field is `item_id`, `category`, `brand`, `price` or `properties.NAME`. What an item does not have fulfils nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import numpy as np

from recsys_tasks.engine.catalog import Catalogue, Coded, Value
from recsys_tasks.errors import InputError
from recsys_tasks.names import FIRST_ITEM

_PROPERTY = "properties."
_FIELDS = ("item_id", "category", "brand", "price")
_FORMS = ("one_of", "under", "at_least", "at_most", "all", "any", "not")
_MOST_CONDITIONS = 100
_DEEPEST = 10
_KEPT = 64
_SEPARATOR = " > "


class Filter(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, rename={"not_": "not"}):
    """One condition, or others combined; `check` says whether it is well formed."""

    field: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    one_of: Annotated[list[Value], msgspec.Meta(min_length=1, max_length=1_000)] | None = None
    under: Annotated[list[str], msgspec.Meta(min_length=1, max_length=100)] | None = None
    at_least: float | None = None
    at_most: float | None = None
    all: Annotated[list[Filter], msgspec.Meta(min_length=1)] | None = None
    any: Annotated[list[Filter], msgspec.Meta(min_length=1)] | None = None
    not_: Filter | None = None

    def inner(self) -> Iterator[tuple[str, Filter]]:
        """The filters it combines, with where each stands."""
        for name, filters in (("all", self.all or ()), ("any", self.any or ())):
            yield from ((f".{name}[{place}]", part) for place, part in enumerate(filters))
        if self.not_ is not None:
            yield ".not", self.not_


def check(asked: Filter, where: str) -> None:
    """Checks the form of a filter.

    Raises:
        InputError: a part is not well formed, or there are too many; says where.
    """
    level, count = [(where, asked)], 0
    for _ in range(_DEEPEST):
        for place, part in level:
            problem = _problem(part)
            if problem:
                raise InputError(f"{problem} - at `{place}`")
        count += len(level)
        level = [(place + inner, filter_) for place, part in level for inner, filter_ in part.inner()]
        if not level:
            break
    if level or count > _MOST_CONDITIONS:
        raise InputError(
            f"a filter has at most {_MOST_CONDITIONS} conditions, nested at most {_DEEPEST} deep - at `{where}`"
        )


class Filters:
    """Applies filters to a catalogue; the latest are kept."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._kept: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def allowed(self, asked: Filter) -> np.ndarray:
        """Which items [V] fulfil a filter that was checked; not to be written to."""
        key = msgspec.json.encode(asked)
        found = self._kept.get(key)
        if found is None:
            found = self._mask(asked)
            found[:FIRST_ITEM] = False
            self._kept[key] = found
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        return found

    def _mask(self, asked: Filter) -> np.ndarray:
        inner = [self._mask(part) for _, part in asked.inner()]
        if inner:
            found: np.ndarray = np.any(inner, axis=0) if asked.any is not None else np.all(inner, axis=0)
            return found if asked.not_ is None else ~found
        field = asked.field or ""
        if asked.under is not None:
            return _under(self._catalogue.categories, asked.under)
        if asked.one_of is not None:
            return self._equal(field, asked.one_of)
        return self._between(field, asked.at_least, asked.at_most)

    def _equal(self, field: str, wanted: list[Value]) -> np.ndarray:
        catalogue = self._catalogue
        if field == "item_id":
            numbers = catalogue.vocabulary.numbers([value for value in wanted if isinstance(value, str)])
            return np.isin(np.arange(len(catalogue.vocabulary)), numbers[numbers >= FIRST_ITEM])
        if field in ("category", "brand"):
            texts = catalogue.categories if field == "category" else catalogue.brands
            chosen = set(wanted)
            return texts.among([text in chosen for text in texts.texts])
        if field == "price":
            return np.isin(catalogue.price, [value for value in wanted if not isinstance(value, str)])
        known = catalogue.property(field.removeprefix(_PROPERTY))
        return _flags([_has_one_of(value, wanted) for value in known])

    def _between(self, field: str, low: float | None, high: float | None) -> np.ndarray:
        if field == "price":
            values = self._catalogue.price
        else:
            known = self._catalogue.property(field.removeprefix(_PROPERTY))
            values = np.full(len(known) + FIRST_ITEM, np.nan)
            values[FIRST_ITEM:] = [value if _is_number(value) else np.nan for value in known]
        low, high = (-np.inf if low is None else low), (np.inf if high is None else high)
        found: np.ndarray = (low <= values) & (values <= high)
        return found


def _problem(part: Filter) -> str | None:
    """What is wrong with one part of a filter, looking at no inner one."""
    given = {name for name in _FORMS if getattr(part, name if name != "not" else "not_") is not None}
    if given <= {"at_least", "at_most"} and given:
        form = "range"
    elif len(given) == 1:
        form = given.pop()
    else:
        return f"a condition has one of {', '.join(_FORMS)} (at_least and at_most may come together)"
    if form in ("all", "any", "not"):
        return None if part.field is None else f"`{form}` combines other filters and has no `field`"
    return _problem_of_field(form, part.field)


def _problem_of_field(form: str, field: str | None) -> str | None:
    if field is None:
        return f"a condition needs `field`: {', '.join(_FIELDS)} or {_PROPERTY}NAME"
    if field not in _FIELDS and not (field.startswith(_PROPERTY) and len(field) > len(_PROPERTY)):
        return f"there is no field {field!r}, but {', '.join(_FIELDS)} and {_PROPERTY}NAME"
    if form == "under" and field != "category":
        return "`under` is for `category`"
    if form == "range" and field in ("item_id", "category", "brand"):
        return f"`{field}` has no order; use `one_of`"
    return None


def _under(categories: Coded, wanted: list[str]) -> np.ndarray:
    beginnings = tuple(path + _SEPARATOR for path in wanted)
    return categories.among([(text + _SEPARATOR).startswith(beginnings) for text in categories.texts])


def _flags(values: list[bool]) -> np.ndarray:
    return np.concatenate([np.zeros(FIRST_ITEM, bool), np.asarray(values, bool)])


def _has_one_of(value: Any, wanted: list[Value]) -> bool:
    own = value if isinstance(value, list) else [value]
    # `1 == True` in Python, but a property that is true is not one that is 1.
    return any(_kind(entry) == _kind(other) and entry == other for entry in own for other in wanted)


def _kind(value: Any) -> type:
    # Whole numbers and others are of one kind.
    return float if _is_number(value) else type(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
