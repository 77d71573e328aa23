"""Merchandising rules edited with a form: rules are removed and added one by one, and described in words."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.datastructures import FormData

from recsys_tasks.errors import InputError
from recsys_tasks.wire.filters import Filter
from recsys_tasks.wire.rules import MerchandisingRules, Pin, Synonym, WeightRule, check_rules

# What a new weight may apply to, by the name of the choice.
_CONDITIONS: dict[str, Callable[[str], Filter]] = {
    "category": lambda value: Filter(field="category", under=[value]),
    "brand": lambda value: Filter(field="brand", one_of=[value]),
    "item_id": lambda value: Filter(field="item_id", one_of=[value]),
}
# Fields that are filled in together.
_PAIRS = (("value", "factor"), ("item_id", "position"), ("phrase", "means"))


def parse_rules(text: str) -> MerchandisingRules:
    """Returns merchandising rules from JSON.

    Raises:
        InputError: they are not valid; names the field.
    """
    try:
        rules = msgspec.json.decode(text.encode(), type=MerchandisingRules)
    except msgspec.MsgspecError as error:
        raise InputError(f"The rules are not valid: {error}") from error
    check_rules(rules, "$")
    return rules


def edit_rules(text: str, form: FormData) -> MerchandisingRules:
    """Returns rules without those that a form removes, and with those that it adds.

    Args:
        text: the rules before, as JSON.
        form: `remove`, such as `weigh 0` or `pin 2`; `applies_to`, `value` and `factor` of a new weight; `item_id` and
            `position` of a new pin; `phrase` and `means` of a new synonym; `at_most_per_category`. Empty fields add
            nothing.

    Raises:
        InputError: the rules are not valid; names the field.
    """
    for needed, given in _PAIRS:
        if _text(form, given) and not _text(form, needed):
            raise InputError(f"{needed} is empty, but {given} is filled in")
    before, removed = parse_rules(text), set(form.getlist("remove"))
    weigh = [rule for index, rule in enumerate(before.weigh) if f"weigh {index}" not in removed]
    pin = [rule for index, rule in enumerate(before.pin) if f"pin {index}" not in removed]
    if value := _text(form, "value"):
        condition = _CONDITIONS.get(_text(form, "applies_to"))
        if condition is None:
            raise InputError(f"applies_to: one of {', '.join(_CONDITIONS)}")
        weigh.append(WeightRule(condition(value), _number(form, "factor")))
    if item_id := _text(form, "item_id"):
        pin.append(Pin(item_id, _whole_number(form, "position")))
    synonyms = [rule for index, rule in enumerate(before.synonyms) if f"synonym {index}" not in removed]
    if phrase := _text(form, "phrase"):
        synonyms.append(Synonym(phrase, _text(form, "means")))
    limit = _whole_number(form, "at_most_per_category") if _text(form, "at_most_per_category") else None
    edited = MerchandisingRules(weigh, pin, limit, synonyms)
    return parse_rules(msgspec.json.encode(edited).decode())  # checks the ranges of the numbers


def describe_filter(condition: Filter) -> str:
    """Returns a filter in words; combined ones as JSON."""
    if condition.under is not None:
        return f"{condition.field} under {' or '.join(condition.under)}"
    if condition.one_of is not None:
        return f"{condition.field} is {' or '.join(map(str, condition.one_of))}"
    return msgspec.json.encode(condition).decode()


def _text(form: FormData, name: str) -> str:
    return str(form.get(name, "")).strip()


def _number(form: FormData, name: str) -> float:
    try:
        return float(_text(form, name))
    except ValueError as error:
        raise InputError(f"{name}: {_text(form, name)!r} is not a number") from error


def _whole_number(form: FormData, name: str) -> int:
    try:
        return int(_text(form, name))
    except ValueError as error:
        raise InputError(f"{name}: {_text(form, name)!r} is not a whole number") from error
