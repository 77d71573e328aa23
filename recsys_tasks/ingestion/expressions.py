"""Expressions of mappings: a value computed from columns of a file, by one of a few safe operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

_OPERATIONS = ("concat", "coalesce", "split", "lower", "map", "constant")
_OPTIONS = {"separator": ("concat", "split"), "part": ("split",), "values": ("map",)}


class Expression(BaseModel):
    """One operation on columns or on other expressions.

    Attributes:
        concat: texts to join, with `separator` between them; null if one of them is.
        coalesce: the first that is not null.
        split: text to split at `separator`; the result is its `part`, counted from 1, or from -1 backwards.
        lower: text to convert to lower case.
        map: text to replace by one of `values`; a text that they do not have stays.
        constant: the same text for every row.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    concat: tuple[Source, ...] | None = Field(None, min_length=1)
    coalesce: tuple[Source, ...] | None = Field(None, min_length=1)
    split: Source | None = None
    lower: Source | None = None
    map: Source | None = None
    constant: str | None = None
    separator: str | None = None
    part: int | None = None
    values: dict[str, str] | None = None

    @model_validator(mode="after")
    def _is_one_operation(self) -> Expression:
        given = [name for name in _OPERATIONS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"an expression has one of {', '.join(_OPERATIONS)}; this one has {given or 'none'}")
        for option, operations in _OPTIONS.items():
            if getattr(self, option) is not None and given[0] not in operations:
                raise ValueError(f"{option} belongs to {' and '.join(operations)}, not to {given[0]}")
        if self.split is not None and (not self.separator or not self.part):
            raise ValueError("split needs a separator and a part: 1 for the first, -1 for the last")
        if self.map is not None and not self.values:
            raise ValueError("map needs values")
        return self

    @property
    def inputs(self) -> tuple[Source, ...]:
        """What the operation reads."""
        single = (source for source in (self.split, self.lower, self.map) if source is not None)
        return (*(self.concat or ()), *(self.coalesce or ()), *single)


Source = Annotated[str | Expression, Field(union_mode="left_to_right")]
"""A column of the file, or an expression."""

Expression.model_rebuild()


def input_columns(source: Source) -> Iterator[str]:
    """Yields the columns of the file that a source reads."""
    if isinstance(source, str):
        yield source
        return
    for part in source.inputs:
        yield from input_columns(part)


def evaluate(source: Source, read_column: Callable[[str], pa.Array], num_rows: int) -> pa.Array:
    """Returns the text values [num_rows] of a source.

    Args:
        source: column or expression.
        read_column: returns the text values of a column of the file.
        num_rows: number of rows.
    """
    if isinstance(source, str):
        return read_column(source)
    if source.constant is not None:
        return pa.array([source.constant] * num_rows, pa.string())
    inputs = [evaluate(part, read_column, num_rows) for part in source.inputs]
    if source.concat is not None:
        return pc.binary_join_element_wise(*inputs, source.separator or "")
    if source.coalesce is not None:
        return pc.coalesce(*inputs)
    if source.split is not None:
        return _part_of(inputs[0], source.separator or "", source.part or 1)
    if source.lower is not None:
        return pc.utf8_lower(inputs[0])
    return replace_values(inputs[0], source.values or {})


def replace_values(column: pa.Array, values: dict[str, str]) -> pa.Array:
    """Replaces texts by those that a dictionary has for them; others stay."""
    if not values:
        return column
    place = pc.index_in(column, pa.array(list(values), pa.string()))
    return pc.coalesce(pa.array(list(values.values()), pa.string()).take(place), column)


def _part_of(column: pa.Array, separator: str, part: int) -> pa.Array:
    """Returns a part of each text; null where there are fewer parts, or the part is empty."""
    index = part - 1 if part > 0 else part
    parts = (None if text is None else text.split(separator) for text in column.to_pylist())
    return pa.array(
        [texts[index] or None if texts and -len(texts) <= index < len(texts) else None for texts in parts], pa.string()
    )
