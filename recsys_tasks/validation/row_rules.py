"""Row rules: the column and the quarantine reason of each rule.

`sql/validation/stage_<kind>.sql` implements the rules under the same names.
"""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from recsys_tasks.names import EVENT_TYPES


class Rule(NamedTuple):
    """A row rule: the column whose value quarantine stores, and the reason for a person."""

    column: str
    reason: str


_TOO_LONG = "is longer than 2,000 bytes"
_PROPERTIES = Rule("properties", "properties is not valid JSON")
_FINITE_PROPERTIES = Rule("properties", "properties has a number beyond double precision")

RULES: dict[str, dict[str, Rule]] = {
    "events": {
        "ids_are_short": Rule("event_id", f"an id {_TOO_LONG}"),
        "event_type_present": Rule("event_type", "event_type is missing"),
        "event_type_known": Rule("event_type", f"event_type is not one of {', '.join(EVENT_TYPES)}"),
        "event_time_is_time": Rule("event_time", "event_time is missing or not a time"),
        "event_time_not_in_future": Rule("event_time", "event_time is in the future"),
        "event_time_is_kept": Rule("event_time", "event_time is older than the retention period"),
        "user_or_session_present": Rule("user_id", "user_id and session_id are both missing"),
        "item_present": Rule("item_id", "item_id is missing; only searches may lack it"),
        "query_present": Rule("query", "query is missing in a search event"),
        "item_known": Rule("item_id", "item_id is unknown"),
        "user_known": Rule("user_id", "user_id is unknown"),
        "quantity_is_number": Rule("quantity", "quantity is not a finite number"),
        "quantity_positive": Rule("quantity", "quantity is not positive"),
        "price_is_number": Rule("price", "price is not a finite number"),
        "price_not_negative": Rule("price", "price is negative"),
        "position_is_integer": Rule("position", "position is not an integer"),
        "properties_are_json": _PROPERTIES,
        "properties_are_finite": _FINITE_PROPERTIES,
    },
    "items": {
        "item_id_present": Rule("item_id", "item_id is missing"),
        "ids_are_short": Rule("item_id", f"the id {_TOO_LONG}"),
        "price_is_number": Rule("price", "price is not a finite number"),
        "price_not_negative": Rule("price", "price is negative"),
        "properties_are_json": _PROPERTIES,
        "properties_are_finite": _FINITE_PROPERTIES,
        "available_from_is_time": Rule("available_from", "available_from is not a time"),
        "available_until_is_time": Rule("available_until", "available_until is not a time"),
        "valid_from_is_time": Rule("valid_from", "valid_from is not a time"),
    },
    "users": {
        "user_id_present": Rule("user_id", "user_id is missing"),
        "ids_are_short": Rule("user_id", f"the id {_TOO_LONG}"),
        "properties_are_json": _PROPERTIES,
        "properties_are_finite": _FINITE_PROPERTIES,
        "valid_from_is_time": Rule("valid_from", "valid_from is not a time"),
    },
    "vectors": {
        "item_id_present": Rule("item_id", "item_id is missing"),
        "ids_are_short": Rule("item_id", f"the id {_TOO_LONG}"),
        "space_is_name": Rule("space", "space is not a name of at most 40 characters of a-z, 0-9 and _"),
        "version_is_name": Rule("version", "version is not a name of at most 40 letters, digits, and . _ -"),
        "vector_is_list_of_numbers": Rule("vector", "vector is not a list of finite numbers"),
        "vector_is_short": Rule("vector", "vector has more than 4,096 numbers"),
        "vector_is_not_zero": Rule("vector", "all numbers of the vector are 0"),
        "vector_has_dimension_of_space": Rule(
            "vector", "vector has another dimension than the others of its space and version"
        ),
    },
}


CAUSED_BY_CALLERS: Final = ["item_known", "user_known", "event_time_is_kept", "event_id_conflict"]
"""Rules that the endpoint cannot check, since they depend on the content of the warehouse."""


def rules_as_json(kind: str) -> str:
    """Returns the rules of a kind as JSON, for the join in `sql/validation/quarantine_rows.sql`."""
    rows = [{"rule": name, "named_column": rule.column, "reason": rule.reason} for name, rule in RULES[kind].items()]
    return json.dumps(rows)
