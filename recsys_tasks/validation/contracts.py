"""Checks of contracts: counts the staged rows that violate each constraint, as metrics with an expectation of none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, text

from recsys_tasks.ingestion.contract import PROPERTY, Contract, Range
from recsys_tasks.names import COLUMNS_BY_KIND
from recsys_tasks.validation.failing_rows import NUM_EXAMPLES, FailingRows, truncate

_LIMITS: Final = {"low": "-Infinity", "high": "Infinity"}
_SQL_TYPES: Final = {"number": "numeric", "integer": "bigint", "boolean": "boolean", "time": "timestamptz"}


class ConstraintCheck(NamedTuple):
    """One constraint of a contract: the rows that violate it, and an expectation that there are none."""

    failing_rows: FailingRows
    expectation: dict[str, Any]

    @property
    def metric(self) -> str:
        """Name of the metric that counts the rows."""
        return self.failing_rows.rule

    @property
    def num_rows(self) -> int:
        """Number of rows that violate the constraint."""
        return self.failing_rows.num_rows


class _Constraint(NamedTuple):
    """A constraint: the name of its metric, what a row that violates it has, its column, and the SQL condition of such
    a row with its parameters."""

    metric: str
    description: str
    column: str
    condition: str
    parameters: dict[str, Any]


def check_contract(connection: Connection, kind: str, contract: Contract) -> list[ConstraintCheck]:
    """Counts the valid staged rows of a kind that violate each constraint.

    Args:
        connection: with the landing schema selected.
        kind: items, users, vectors or events.
        contract: of the source; its columns are those of the kind.
    """
    return [_count(connection, kind, contract, constraint) for constraint in _constraints(kind, contract)]


def _count(connection: Connection, kind: str, contract: Contract, constraint: _Constraint) -> ConstraintCheck:
    violating = f"from staged_{kind} as staged where broken_rules is null and ({constraint.condition})"
    rows = connection.scalar(text(f"select count(*) {violating}"), constraint.parameters) or 0
    examples = _read_examples(connection, kind, constraint, violating) if rows else []
    place = f" in {rows:,} rows, first in row {examples[0]['row_number']}" if rows else ""
    reason = f"{kind} violate version {contract.version} of the contract: {constraint.description}{place}"
    expectation = {
        "type": "expect_column_max_to_be_between",
        "kwargs": {"column": constraint.metric, "max_value": 0},
        "severity": contract.severity,
        "meta": {"reason": reason},
    }
    return ConstraintCheck(FailingRows(constraint.metric, constraint.description, rows, examples), expectation)


def _read_examples(connection: Connection, kind: str, constraint: _Constraint, violating: str) -> list[dict[str, Any]]:
    value, names = _value(constraint.column)
    user = "staged.user_id" if "user_id" in COLUMNS_BY_KIND[kind] else "null"
    query = text(
        f"select row_number, staged.{COLUMNS_BY_KIND[kind][0]} as id, cast({value} as text) as value, {user} as user_id"
        f" {violating} order by row_number limit :examples"
    )
    rows = connection.execute(query, {**constraint.parameters, **names, "examples": NUM_EXAMPLES}).mappings()
    return [{**row, "value": truncate(row["value"])} for row in rows]


def _constraints(kind: str, contract: Contract) -> Iterator[_Constraint]:
    for column in contract.required:
        value, names = _value(column)
        # As delivered: a staged event has an id, and all staged rows have properties.
        landed = f"row_number in (select row_number from landed_{kind} where {column} is null)"  # noqa: S608
        condition = f"{value} is null" if column.startswith(PROPERTY) else landed
        yield _Constraint(f"contract_required_{column}", f"{column} is missing", column, condition, names)
    for column in contract.unique:
        value, names = _value(column)
        condition = (
            f"{value} in (select {value} from staged_{kind} as staged"  # noqa: S608 (checked names)
            " where broken_rules is null group by 1 having count(*) > 1)"
        )
        yield _Constraint(f"contract_unique_{column}", f"{column} repeats", column, condition, names)
    for column, allowed in contract.values.items():
        value, names = _value(column)
        description = f"{column} is not one of {', '.join(allowed)}"
        condition = f"cast({value} as text) <> all(cast(:allowed as text[]))"
        yield _Constraint(
            f"contract_values_{column}", description, column, condition, {**names, "allowed": list(allowed)}
        )
    for column, limits in contract.ranges.items():
        value, names = _value(column)
        number = f"finite_number(cast({value} as text))"
        description = f"{column} is {_outside(limits)}"
        low, high = (f"coalesce(cast(:{name} as double precision), '{limit}')" for name, limit in _LIMITS.items())
        condition = f"not coalesce({number} between {low} and {high}, false)"
        bounds = {**names, "low": limits.min, "high": limits.max}
        yield _Constraint(
            f"contract_range_{column}", description, column, f"{value} is not null and {condition}", bounds
        )
    for column, value_type in contract.types.items():
        value, names = _value(column)
        condition = f"not pg_input_is_valid(cast({value} as text), '{_SQL_TYPES[value_type]}')"
        yield _Constraint(f"contract_type_{column}", f"{column} is no {value_type}", column, condition, names)


def _outside(limits: Range) -> str:
    bounds = (("below", limits.min), ("above", limits.max))
    return " or ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None) or "no number"


def _value(column: str) -> tuple[str, dict[str, str]]:
    """Returns the SQL of a column's value and its parameters; the column is a checked name."""
    if column.startswith(PROPERTY):
        return "(staged.properties ->> :property)", {"property": column.removeprefix(PROPERTY)}
    return f"staged.{column}", {}
