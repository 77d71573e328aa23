"""The rules a landed row must keep: which column each looks at, and what a row that breaks it did wrong.

How a rule decides stands under its name in `sql/validation/stage_<kind>.sql`.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from recsys_tasks.names import EVENT_TYPES


class Rule(NamedTuple):
    """A rule's column, whose value is kept in quarantine, and its reason, for people."""

    column: str
    reason: str


_SHORT = "has more than 2,000 bytes"
_PROPERTIES = Rule("properties", "the properties are not JSON")

RULES: dict[str, dict[str, Rule]] = {
    "events": {
        "ids_are_short": Rule("event_id", f"an id {_SHORT}"),
        "event_type_present": Rule("event_type", "an event needs a type"),
        "event_type_known": Rule("event_type", f"the type is none of {', '.join(EVENT_TYPES)}"),
        "event_time_is_time": Rule("event_time", "the time is missing or cannot be read"),
        "event_time_not_in_future": Rule("event_time", "the time is in the future"),
        "event_time_is_kept": Rule("event_time", "the time is before what the warehouse keeps"),
        "user_or_session_present": Rule("user_id", "an event needs a user or a session"),
        "item_present": Rule("item_id", "an event other than a search needs an item"),
        "query_present": Rule("query", "a search needs a query"),
        "item_known": Rule("item_id", "there is no such item"),
        "user_known": Rule("user_id", "there is no such user"),
        "user_not_forgotten": Rule("user_id", "the user asked to be forgotten after that time"),
        "quantity_is_number": Rule("quantity", "the quantity is not a number"),
        "quantity_positive": Rule("quantity", "the quantity is not above 0"),
        "price_is_number": Rule("price", "the price is not a number"),
        "price_not_negative": Rule("price", "the price is below 0"),
        "position_is_integer": Rule("position", "the position is not an integer"),
        "properties_are_json": _PROPERTIES,
    },
    "items": {
        "item_id_present": Rule("item_id", "an item needs an id"),
        "ids_are_short": Rule("item_id", f"the id {_SHORT}"),
        "price_is_number": Rule("price", "the price is not a number"),
        "price_not_negative": Rule("price", "the price is below 0"),
        "properties_are_json": _PROPERTIES,
        "available_from_is_time": Rule("available_from", "available_from is not a time"),
        "available_until_is_time": Rule("available_until", "available_until is not a time"),
        "valid_from_is_time": Rule("valid_from", "valid_from is not a time"),
    },
    "users": {
        "user_id_present": Rule("user_id", "a user needs an id"),
        "ids_are_short": Rule("user_id", f"the id {_SHORT}"),
        "user_not_forgotten": Rule("user_id", "the user asked to be forgotten"),
        "properties_are_json": _PROPERTIES,
        "valid_from_is_time": Rule("valid_from", "valid_from is not a time"),
    },
}


def as_json(kind: str) -> str:
    """The rules of a kind as `sql/validation/quarantine_rows.sql` joins them."""
    rows = [{"rule": name, "named_column": rule.column, "reason": rule.reason} for name, rule in RULES[kind].items()]
    return json.dumps(rows)
