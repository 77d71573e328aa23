"""Whether the mix of what happens is another one, and rules that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.experiments.sequential_tests import Preference, sample_ratio
from recsys_tasks.monitoring.monitors import read_rules, stability

counts = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 10_000), min_size=1)


@given(counts, counts)
def test_the_index_is_never_negative_and_nothing_for_the_same(one: dict[str, int], other: dict[str, int]) -> None:
    assert stability(one, one)[0] == pytest.approx(0)
    assert stability(one, other)[0] >= 0
    assert stability(one, other)[0] == pytest.approx(stability(other, one)[0])


def test_what_is_chance_is_hardly_ever_over_its_bound() -> None:
    random, over = np.random.default_rng(0), 0
    shares = random.dirichlet(np.full(30, 3.0))
    for _ in range(300):
        one, other = (
            {str(value): int(count) for value, count in enumerate(random.multinomial(size, shares))}
            for size in (3_000, 800)
        )
        index, chance, _ = stability(one, other)
        over += index > chance
    assert over / 300 < 0.03


def test_what_moved_most_is_named() -> None:
    before, after = {"milk": 900, "bread": 900, "toys": 10}, {"milk": 900, "bread": 900, "toys": 900}
    index, chance, moved = stability(before, after)
    assert index > max(0.25, chance)
    assert moved[0][0] == "toys"
    assert moved[0][1] < 0.01
    assert moved[0][2] == pytest.approx(1 / 3, abs=0.01)


def test_values_beyond_the_common_ones_are_taken_together() -> None:
    many = {str(number): 1 for number in range(10_000)}
    other = {str(number): 1 for number in range(5_000, 15_000)}
    assert stability(many, other)[0] < 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[rules]]\nname = 'x'\nwhat = 'magic'\nthen = 'tell'", "magic"),
        ("[[rules]]\nname = 'x'\nwhat = 'drift'\nthen = 'panic'", "panic"),
        ("[[rules]]\nname = 'x'\nwhat = 'drift'\nthen = 'tell'\nleast = -1", "least"),
        ("[[rules", "cannot be read"),
    ],
)
def test_rules_that_are_wrong_say_what(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "watch.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=says):
        read_rules(path)


def test_the_rules_of_the_package_can_be_read_and_have_names_of_their_own() -> None:
    rules = read_rules()
    assert len({rule.name for rule in rules}) == len(rules)
    assert {rule.then for rule in rules} == {"roll_back", "retrain", "hold", "tell"}


def test_arms_without_their_visitors_are_noticed_and_chance_is_not() -> None:
    shares = {"a": 0.5, "b": 0.5}
    assert sample_ratio({"a": 5_000, "b": 5_100}, shares) > 0.001
    assert sample_ratio({"a": 5_000, "b": 4_000}, shares) < 0.001
    assert sample_ratio({}, shares) == 1
    random = np.random.default_rng(0)
    alarms = sum(
        sample_ratio({"a": (n := int(random.binomial(2_000, 0.5))), "b": 2_000 - n}, shares) < 0.001 for _ in range(500)
    )
    assert alarms <= 3


def test_a_preference_is_as_certain_as_many_people_make_it() -> None:
    assert Preference(0, 0).share == 0.5
    assert Preference(0, 0).chance == 1
    assert Preference(60, 40).chance > Preference(600, 400).chance
    assert Preference(600, 400).chance < 0.05
    assert Preference(500, 500).chance == 1
