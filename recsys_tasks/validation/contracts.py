"""Checks of contracts: counts the staged rows that break each promise, as metrics with an expectation of none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, text

from recsys_tasks.ingestion.contract import PROPERTY, Contract

_LIMITS: Final = {"low": "-Infinity", "high": "Infinity"}
_SQL_TYPES: Final = {"number": "numeric", "integer": "bigint", "boolean": "boolean", "time": "timestamptz"}


class PromiseCheck(NamedTuple):
    """One promise of a contract: the name of its metric, the number of rows that break it, and an expectation."""

    metric: str
    rows: int
    expectation: dict[str, Any]


class _Promise(NamedTuple):
    """A promise: the name of its metric, what it says, and the SQL condition of a row that breaks it."""

    metric: str
    words: str
    condition: str
    values: dict[str, Any]


def check_contract(connection: Connection, kind: str, contract: Contract) -> list[PromiseCheck]:
    """Counts the valid staged rows of a kind that break each promise.

    Args:
        connection: with the landing schema selected.
        kind: items, users or events.
        contract: of the source; its columns are those of the kind.
    """
    return [_count(connection, kind, contract, promise) for promise in _promises(kind, contract)]


def _count(connection: Connection, kind: str, contract: Contract, promise: _Promise) -> PromiseCheck:
    query = (
        f"select count(*), min(row_number) from staged_{kind} as staged"  # noqa: S608 (checked names)
        f" where broken_rules is null and ({promise.condition})"
    )
    rows, first = connection.execute(text(query), promise.values).one()
    example = f", the first of {rows:,} in row {first}" if rows else ""
    reason = f"{kind} break version {contract.version} of the contract: {promise.words}{example}"
    expectation = {
        "type": "expect_column_max_to_be_between",
        "kwargs": {"column": promise.metric, "max_value": 0},
        "severity": contract.severity,
        "meta": {"reason": reason},
    }
    return PromiseCheck(promise.metric, rows, expectation)


def _promises(kind: str, contract: Contract) -> Iterator[_Promise]:
    for column in contract.required:
        value, names = _value(column)
        yield _Promise(f"contract_required_{column}", f"{column} is missing", f"{value} is null", names)
    for column in contract.unique:
        value, names = _value(column)
        condition = (
            f"{value} in (select {value} from staged_{kind} as staged"  # noqa: S608 (checked names)
            " where broken_rules is null group by 1 having count(*) > 1)"
        )
        yield _Promise(f"contract_unique_{column}", f"{column} repeats", condition, names)
    for column, allowed in contract.values.items():
        value, names = _value(column)
        words = f"{column} is not one of {', '.join(allowed)}"
        condition = f"cast({value} as text) <> all(cast(:allowed as text[]))"
        yield _Promise(f"contract_values_{column}", words, condition, {**names, "allowed": list(allowed)})
    for column, limits in contract.ranges.items():
        value, names = _value(column)
        number = f"finite_number(cast({value} as text))"
        words = f"{column} is not between {limits.min} and {limits.max}"
        low, high = (f"coalesce(cast(:{name} as double precision), '{limit}')" for name, limit in _LIMITS.items())
        condition = f"not coalesce({number} between {low} and {high}, false)"
        bounds = {**names, "low": limits.min, "high": limits.max}
        yield _Promise(f"contract_range_{column}", words, f"{value} is not null and {condition}", bounds)
    for column, value_type in contract.types.items():
        value, names = _value(column)
        condition = f"not pg_input_is_valid(cast({value} as text), '{_SQL_TYPES[value_type]}')"
        yield _Promise(f"contract_type_{column}", f"{column} is no {value_type}", condition, names)


def _value(column: str) -> tuple[str, dict[str, str]]:
    """Returns the SQL of a column's value and its parameters; the column is a checked name."""
    if column.startswith(PROPERTY):
        return "(staged.properties ->> :property)", {"property": column.removeprefix(PROPERTY)}
    return f"staged.{column}", {}
