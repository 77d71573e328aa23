"""Data contracts: versioned constraints on the valid rows of a source, in its mapping; checked in each batch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PROPERTY = "properties."
ValueType = Literal["number", "integer", "boolean", "time"]


class Range(BaseModel):
    """Limits of a number, both allowed; None for no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: float | None = Field(None, allow_inf_nan=False)
    max: float | None = Field(None, allow_inf_nan=False)


class Contract(BaseModel):
    """Constraints on the valid rows of a mapping's kind; columns are canonical, or `properties.NAME`.

    Attributes:
        version: number of the contract, for messages and for `batches`.
        severity: whether a violation rejects the batch.
        required: columns that no row lacks.
        unique: columns whose values do not repeat within a batch.
        values: allowed values of columns; rows without a value are left to `required`.
        ranges: limits of numbers.
        types: types of columns.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = Field(ge=1)
    severity: Literal["critical", "warning"] = "critical"
    required: tuple[str, ...] = ()
    unique: tuple[str, ...] = ()
    values: dict[str, tuple[str, ...]] = {}
    ranges: dict[str, Range] = {}
    types: dict[str, ValueType] = {}

    @property
    def columns(self) -> frozenset[str]:
        """All columns that it names."""
        return frozenset((*self.required, *self.unique, *self.values, *self.ranges, *self.types))

    @model_validator(mode="after")
    def _has_a_constraint(self) -> Contract:
        if not self.columns:
            raise ValueError("a contract has at least one of required, unique, values, ranges, types")
        return self
