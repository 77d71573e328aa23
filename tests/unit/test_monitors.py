"""The population stability index, sample ratio and preference tests, and monitor rules that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.experiments.sequential_tests import Preference, sample_ratio_p_value
from recsys_tasks.monitoring.drift import population_stability_index
from recsys_tasks.monitoring.rules import read_rules

counts = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 10_000), min_size=1)


@given(counts, counts)
def test_psi_is_symmetric_not_negative_and_zero_for_equal_counts(one: dict[str, int], other: dict[str, int]) -> None:
    assert population_stability_index(one, one)[0] == pytest.approx(0)
    assert population_stability_index(one, other)[0] >= 0
    assert population_stability_index(one, other)[0] == pytest.approx(population_stability_index(other, one)[0])


def test_psi_of_one_distribution_exceeds_its_noise_bound_rarely() -> None:
    random, over = np.random.default_rng(0), 0
    shares = random.dirichlet(np.full(30, 3.0))
    for _ in range(300):
        one, other = (
            {str(value): int(count) for value, count in enumerate(random.multinomial(size, shares))}
            for size in (3_000, 800)
        )
        index, chance, _ = population_stability_index(one, other)
        over += index > chance
    assert over / 300 < 0.03


def test_the_values_that_moved_most_are_named() -> None:
    before, after = {"milk": 900, "bread": 900, "toys": 10}, {"milk": 900, "bread": 900, "toys": 900}
    index, chance, moved = population_stability_index(before, after)
    assert index > max(0.25, chance)
    assert moved[0][0] == "toys"
    assert moved[0][1] < 0.01
    assert moved[0][2] == pytest.approx(1 / 3, abs=0.01)


def test_rare_values_are_compared_as_one() -> None:
    many = {str(number): 1 for number in range(10_000)}
    other = {str(number): 1 for number in range(5_000, 15_000)}
    assert population_stability_index(many, other)[0] < 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[rules]]\nname = 'x'\nmonitor = 'magic'\naction = 'alert'", "magic"),
        ("[[rules]]\nname = 'x'\nmonitor = 'drift'\naction = 'panic'", "panic"),
        ("[[rules]]\nname = 'x'\nmonitor = 'drift'\naction = 'alert'\nmin_effect = -1", "min_effect"),
        ("[[rules", "cannot be read"),
    ],
)
def test_wrong_rules_are_rejected_with_the_key(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "monitors.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=says):
        read_rules(path)


def test_the_packaged_rules_are_valid_and_have_unique_names() -> None:
    rules = read_rules()
    assert len({rule.name for rule in rules}) == len(rules)
    assert {rule.action for rule in rules} == {"roll_back", "retrain", "hold_promotions", "alert"}


def test_sample_ratio_mismatch_is_detected_and_noise_is_not() -> None:
    shares = {"a": 0.5, "b": 0.5}
    assert sample_ratio_p_value({"a": 5_000, "b": 5_100}, shares) > 0.001
    assert sample_ratio_p_value({"a": 5_000, "b": 4_000}, shares) < 0.001
    assert sample_ratio_p_value({}, shares) == 1
    random = np.random.default_rng(0)
    alarms = sum(
        sample_ratio_p_value({"a": (n := int(random.binomial(2_000, 0.5))), "b": 2_000 - n}, shares) < 0.001
        for _ in range(500)
    )
    assert alarms <= 3


def test_a_preference_is_more_significant_with_more_visitors() -> None:
    assert Preference(0, 0).share == 0.5
    assert Preference(0, 0).p_value == 1
    assert Preference(60, 40).p_value > Preference(600, 400).p_value
    assert Preference(600, 400).p_value < 0.05
    assert Preference(500, 500).p_value == 1
