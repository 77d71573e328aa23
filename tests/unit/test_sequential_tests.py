"""Sequential test of a challenger: few false alarms under repeated looks, and power against a real loss."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.experiments.online_metrics import Rate, RateComparison
from recsys_tasks.experiments.sequential_tests import ActingVisitors, is_significantly_worse, p_value
from recsys_tasks.experiments.verdicts import ArmComparison

arms = st.integers(0, 10_000).flatmap(lambda people: st.builds(ActingVisitors, st.just(people), st.integers(0, people)))


@given(arms, arms)
def test_a_p_value_is_between_0_and_1(champion: ActingVisitors, challenger: ActingVisitors) -> None:
    assert 0 <= p_value(champion, challenger) <= 1


@given(arms)
def test_equal_rates_are_not_significant(arm: ActingVisitors) -> None:
    assert p_value(arm, arm) == 1
    assert not is_significantly_worse(arm, arm, 0.95, 0)


@given(arms, arms)
def test_a_higher_rate_or_too_few_visitors_are_never_significantly_worse(
    champion: ActingVisitors, challenger: ActingVisitors
) -> None:
    if challenger.rate >= champion.rate:
        assert not is_significantly_worse(champion, challenger, 0.95, 0)
    assert not is_significantly_worse(champion, challenger, 0.95, 10_001)


def _withdrawal_rate(champion: float, challenger: float, looks: int = 100, people: int = 100) -> float:
    """Share of simulated rollouts that withdraw the challenger, with a test after every `people` visitors of each."""
    random = np.random.default_rng(0)
    rollouts = 300
    withdrawn = 0
    for _ in range(rollouts):
        champion_acting = np.cumsum(random.binomial(people, champion, looks))
        challenger_acting = np.cumsum(random.binomial(people, challenger, looks))
        withdrawn += any(
            is_significantly_worse(ActingVisitors(seen, int(a)), ActingVisitors(seen, int(b)), 0.95, 200)
            for seen, a, b in zip(
                range(people, people * (looks + 1), people), champion_acting, challenger_acting, strict=True
            )
        )
    return withdrawn / rollouts


@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_a_hundred_looks_keep_the_false_alarm_rate_at_its_level(rate: float) -> None:
    assert _withdrawal_rate(rate, rate) <= 0.05


def test_a_loss_of_a_fifth_is_detected() -> None:
    assert _withdrawal_rate(0.3, 0.24) > 0.95


@given(arms, arms)
def test_a_p_value_does_not_depend_on_the_order_of_the_arms(one: ActingVisitors, other: ActingVisitors) -> None:
    assert p_value(one, other) == pytest.approx(p_value(other, one))


def test_a_difference_must_hold_for_all_arms_of_the_experiment() -> None:
    control, better = Rate(0.100, 0.090, 0.110, 4_000), Rate(0.125, 0.115, 0.135, 4_000)
    comparison = RateComparison(better, control)
    assert 0.01 < comparison.p_value < 0.05
    assert RateComparison(control, better).p_value == pytest.approx(comparison.p_value)
    nothing, few = Rate(0.0, 0.0, 0.0, 4_000), Rate(0.0, 0.0, 0.0, 2)
    assert RateComparison(better, nothing).p_value < 1e-6
    line = str(ArmComparison("b", RateComparison(better, nothing), 1))
    assert "significantly higher" in line
    assert "+0%" not in line
    assert RateComparison(better, few).p_value > 0.5, "two visitors without clicks say little"
    alone, among_five = ArmComparison("b", comparison, 1), ArmComparison("b", comparison, 5)
    assert "significantly higher" in str(alone)
    assert "not significant yet" in str(among_five)
    assert "threshold 0.01 for 5 comparisons" in str(among_five)
