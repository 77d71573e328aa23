"""Whether people act less on a challenger: no false alarm however often one looks, and a real loss is found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.experiments.sequential_tests import Acting, chance, loses

arms = st.integers(0, 10_000).flatmap(lambda people: st.builds(Acting, st.just(people), st.integers(0, people)))


@given(arms, arms)
def test_it_is_a_probability(champion: Acting, challenger: Acting) -> None:
    assert 0 <= chance(champion, challenger) <= 1


@given(arms)
def test_the_same_figures_are_no_loss(arm: Acting) -> None:
    assert chance(arm, arm) == 1
    assert not loses(arm, arm, 0.95, 0)


@given(arms, arms)
def test_nobody_loses_by_more_clicks_or_with_few_people(champion: Acting, challenger: Acting) -> None:
    if challenger.rate >= champion.rate:
        assert not loses(champion, challenger, 0.95, 0)
    assert not loses(champion, challenger, 0.95, 10_001)


def _alarms(champion: float, challenger: float, looks: int = 100, people: int = 100) -> float:
    """In what share of trials, looked at after every hundred people of each model, the challenger is withdrawn."""
    random = np.random.default_rng(0)
    trials = 300
    withdrawn = 0
    for _ in range(trials):
        theirs = np.cumsum(random.binomial(people, champion, looks))
        ours = np.cumsum(random.binomial(people, challenger, looks))
        withdrawn += any(
            loses(Acting(seen, int(a)), Acting(seen, int(b)), 0.95, 200)
            for seen, a, b in zip(range(people, people * (looks + 1), people), theirs, ours, strict=True)
        )
    return withdrawn / trials


@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_looking_a_hundred_times_alarms_no_more_often_than_it_says(rate: float) -> None:
    assert _alarms(rate, rate) <= 0.05


def test_a_loss_of_a_fifth_is_found() -> None:
    assert _alarms(0.3, 0.24) > 0.95
