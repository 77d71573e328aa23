import msgspec
import pytest
from starlette.datastructures import FormData

from recsys_tasks.console.rule_form import describe_filter, edit_rules
from recsys_tasks.errors import InputError
from recsys_tasks.wire.filters import Filter
from recsys_tasks.wire.rules import MerchandisingRules, Pin, Synonym, WeightRule

BEFORE = MerchandisingRules(
    [WeightRule(Filter(field="brand", one_of=["Acme"]), 2.0), WeightRule(Filter(field="price", at_most=5), 0.5)],
    [Pin("a", 1), Pin("b", 2)],
    3,
    [Synonym("couch", "sofa")],
)


def _edit(*fields: tuple[str, str]) -> MerchandisingRules:
    return edit_rules(msgspec.json.encode(BEFORE).decode(), FormData(list(fields)))


def test_checked_rules_are_removed_and_all_others_stay() -> None:
    edited = _edit(("remove", "weigh 0"), ("remove", "pin 1"), ("remove", "synonym 0"), ("at_most_per_category", "3"))
    assert edited == MerchandisingRules([BEFORE.weigh[1]], [Pin("a", 1)], 3, [])


def test_filled_fields_add_rules_and_an_empty_limit_removes_it() -> None:
    edited = _edit(
        ("applies_to", "category"),
        ("value", "Food > Dairy"),
        ("factor", "1.5"),
        ("item_id", "c"),
        ("position", "3"),
        ("phrase", "telly"),
        ("means", "television"),
        ("at_most_per_category", ""),
    )
    assert edited.weigh[-1] == WeightRule(Filter(field="category", under=["Food > Dairy"]), 1.5)
    assert edited.pin[-1] == Pin("c", 3)
    assert edited.synonyms[-1] == Synonym("telly", "television")
    assert edited.at_most_per_category is None


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ((("applies_to", "brand"), ("value", "Acme"), ("factor", "much")), "factor: 'much' is not a number"),
        ((("applies_to", "brand"), ("value", "Acme"), ("factor", "-1")), "weigh"),
        ((("applies_to", "color"), ("value", "red"), ("factor", "2")), "applies_to"),
        ((("item_id", "a"), ("position", "7")), "two pins have the same `item_id`"),
        ((("item_id", "c"), ("position", "0")), "pin"),
        ((("item_id", "c"), ("position", "1.9")), "position: '1.9' is not a whole number"),
        ((("position", "1"),), "item_id is empty, but position is filled in"),
        ((("at_most_per_category", "inf"),), "at_most_per_category"),
        ((("phrase", "???"), ("means", "sofa")), "a synonym needs a word"),
        ((("phrase", "couch"), ("means", "")), "means"),
    ],
)
def test_invalid_fields_are_refused_by_name(fields: tuple[tuple[str, str], ...], problem: str) -> None:
    with pytest.raises(InputError, match=problem.replace("?", r"\?")):
        _edit(*fields)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (Filter(field="category", under=["Food", "Toys"]), "category under Food or Toys"),
        (Filter(field="brand", one_of=["Acme"]), "brand is Acme"),
        (Filter(field="price", at_most=5.5), '{"field":"price","at_most":5.5}'),
    ],
)
def test_conditions_are_described(condition: Filter, words: str) -> None:
    assert describe_filter(condition) == words
