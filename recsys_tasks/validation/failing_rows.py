"""Failing rows of a batch for its page in the data docs: of each rule, how many rows break it and the first of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection

from recsys_tasks.names import COLUMNS_BY_KIND, UNREADABLE_LINES
from recsys_tasks.warehouse import statement

NUM_EXAMPLES: Final = 20
_MAX_CHARACTERS: Final = 200


class FailingRows(NamedTuple):
    """The rows that break a rule or violate a constraint.

    Attributes:
        rule: name of the rule, or of the constraint's metric.
        reason: what is wrong with them.
        num_rows: their number.
        examples: the first ones: `row_number`, `id`, `value`, and `user_id`, by which an erasure finds them.
    """

    rule: str
    reason: str
    num_rows: int
    examples: list[dict[str, Any]]


def read_failing_rows(connection: Connection, batch_id: str, kind: str) -> list[FailingRows]:
    """Returns the failing rows of a batch and kind, and its unreadable lines, by rule; most frequent rule first."""
    values = {"batch_id": batch_id, "kinds": [kind, UNREADABLE_LINES], "examples": NUM_EXAMPLES}
    rules = connection.execute(statement("validation/broken_rules"), values)
    return [
        FailingRows(rule.rule, rule.reason, rule.num_rows, [_example(kind, row) for row in rule.examples])
        for rule in rules
    ]


def remove_users(groups: Iterable[dict[str, Any]], user_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Returns groups of failing rows, as JSON, without the rows of some users."""
    erased = set(user_ids)
    return [
        {**group, "examples": [row for row in group["examples"] if row["user_id"] not in erased]} for group in groups
    ]


def truncate(value: Any) -> str | None:
    """Returns a value as text that fits into a table."""
    text = None if value is None else str(value)
    return text if text is None or len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…"


def _example(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    # The content of a line that cannot be read is left out: whose it is cannot be told for certain.
    raw = row["raw"] if isinstance(row["raw"], dict) else {}
    return {
        "row_number": row["row_number"],
        "id": raw.get(COLUMNS_BY_KIND[kind][0]),
        "value": truncate(row["value"]),
        "user_id": raw.get("user_id"),
    }
