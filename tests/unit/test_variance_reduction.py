"""Rates of arms adjusted for earlier behavior: plain without any, else narrower intervals with nominal coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.variance_reduction import SimulatedExperiment, plain_sums, stratum
from recsys_tasks.experiments.online_metrics import estimate_rate
from recsys_tasks.experiments.variance_reduction import adjusted_rates


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(5, 40)), min_size=2, max_size=30), st.floats(0, 1))
def test_without_differences_before_the_rate_is_the_plain_one(rows: list[tuple[int, int]], earlier: float) -> None:
    clicks, shown = (np.asarray(column, float) for column in zip(*rows, strict=True))
    found = adjusted_rates({"a": {"": stratum(clicks, shown, np.full(len(rows), earlier))}})["a"]
    assert found == pytest.approx(estimate_rate(plain_sums(clicks, shown), "clicks", "shown"), abs=1e-6)


@pytest.mark.parametrize("effect", [0.0, 0.3])
def test_intervals_are_narrower_and_cover_the_true_difference(effect: float) -> None:
    rounds = 300
    experiments = [SimulatedExperiment(seed, effect) for seed in range(rounds)]
    found = [experiment.adjusted() for experiment in experiments]
    covered = [one.is_covered(comparison) for one, comparison in zip(experiments, found, strict=True)]
    assert 0.92 <= np.mean(covered) <= 0.98
    widths = [
        one.error(comparison) / one.error(one.plain()) for one, comparison in zip(experiments, found, strict=True)
    ]
    assert np.mean(widths) < 0.9
    biases = [c.rate.value - c.baseline.value - one.difference for one, c in zip(experiments, found, strict=True)]
    assert abs(np.mean(biases)) < 3 * np.std(biases) / np.sqrt(rounds), "unbiased"


def test_few_visitors_are_not_fitted_too_closely() -> None:
    experiments = [SimulatedExperiment(seed, 0.0, visitors=60) for seed in range(400)]
    covered = [experiment.is_covered(experiment.adjusted()) for experiment in experiments]
    assert np.mean(covered) > 0.9


def test_an_arm_without_clicks_has_the_plain_rate() -> None:
    random = np.random.default_rng(0)
    earlier, shown = random.random(200), np.full(200, 20.0)
    clicks = random.binomial(20, earlier).astype(float)
    rates = adjusted_rates(
        {"clicked": {"": stratum(clicks, shown, earlier)}, "not": {"": stratum(np.zeros(50), shown[:50], earlier[:50])}}
    )
    assert rates["not"] == (0.0, 0.0, 0.0, 50)


def test_an_arm_without_impressions_has_no_rate() -> None:
    none = np.zeros(3)
    single = stratum(none[:1], none[:1] + 5, none[:1])
    rates = adjusted_rates({"a": {"": stratum(none, none, none)}, "b": {"": single}})
    assert rates["a"].value == 0.0
    assert rates["b"].high == np.inf
