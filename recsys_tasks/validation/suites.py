"""The expectation suites, one per kind of landed row, over the columns of `sql/validation/<kind>.sql`.

Each expectation's `meta` says its rule's name and, for people, what a row that breaks it did wrong.
"""

from __future__ import annotations

import great_expectations as gx
from great_expectations import expectations as gxe
from great_expectations.expectations.expectation import Expectation

from recsys_tasks.names import EVENT_TYPES


def suite(kind: str) -> gx.ExpectationSuite:
    """The rules every landed row of a kind must keep."""
    rules = {"events": _events, "items": _items, "users": _users}[kind]()
    return gx.ExpectationSuite(name=kind, expectations=rules)


def volume(low: int, high: int) -> Expectation:
    """The rule that a batch has about as many rows as the ones before it."""
    return gxe.ExpectTableRowCountToBeBetween(min_value=low, max_value=high, meta=_meta("volume", "unusual volume"))


def _events() -> list[Expectation]:
    return [
        _true("ids_are_short", "ids_are_short", "the ids have more than 2,000 bytes"),
        _present("event_id", "event_id_present", "an event needs an id"),
        _present("event_type", "event_type_present", "an event needs a type"),
        gxe.ExpectColumnValuesToBeInSet(
            column="event_type",
            value_set=list(EVENT_TYPES),
            meta=_meta("event_type_known", f"the type is none of {', '.join(EVENT_TYPES)}"),
        ),
        _present("event_time_utc", "event_time_is_time", "the time is missing or not an ISO 8601 time"),
        _true("event_time_has_come", "event_time_not_in_future", "the time is in the future"),
        _present("user_or_session", "user_or_session_present", "an event needs a user or a session"),
        _true("names_an_item", "item_present", "an event other than a search needs an item"),
        _true("names_a_query", "query_present", "a search needs a query"),
        _true("item_is_known", "item_known", "there is no such item"),
        _true("user_is_known", "user_known", "there is no such user"),
        _true("quantity_is_number", "quantity_is_number", "the quantity is not a number"),
        gxe.ExpectColumnValuesToBeBetween(
            column="quantity_value",
            min_value=0,
            strict_min=True,
            meta=_meta("quantity_positive", "the quantity is not above 0"),
        ),
        _true("price_is_number", "price_is_number", "the price is not a number"),
        _not_negative("price_value", "price_not_negative", "the price is below 0"),
        _true("position_is_integer", "position_is_integer", "the position is not an integer"),
        _true("properties_are_json", "properties_are_json", "the properties are not JSON"),
    ]


def _items() -> list[Expectation]:
    return [
        _true("ids_are_short", "ids_are_short", "the ids have more than 2,000 bytes"),
        _present("item_id", "item_id_present", "an item needs an id"),
        _true("price_is_number", "price_is_number", "the price is not a number"),
        _not_negative("price_value", "price_not_negative", "the price is below 0"),
        _true("properties_are_json", "properties_are_json", "the properties are not JSON"),
        _true("available_from_is_time", "available_from_is_time", "available_from is not a time"),
        _true("available_until_is_time", "available_until_is_time", "available_until is not a time"),
    ]


def _users() -> list[Expectation]:
    return [
        _true("ids_are_short", "ids_are_short", "the ids have more than 2,000 bytes"),
        _present("user_id", "user_id_present", "a user needs an id"),
        _true("properties_are_json", "properties_are_json", "the properties are not JSON"),
    ]


def _meta(rule: str, reason: str) -> dict[str, str]:
    return {"rule": rule, "reason": reason}


def _present(column: str, rule: str, reason: str) -> Expectation:
    return gxe.ExpectColumnValuesToNotBeNull(column=column, meta=_meta(rule, reason))


def _true(column: str, rule: str, reason: str) -> Expectation:
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[True], meta=_meta(rule, reason))


def _not_negative(column: str, rule: str, reason: str) -> Expectation:
    return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=0, meta=_meta(rule, reason))
