"""Off-policy evaluation: properties of the estimators, and coverage on real logged data with known truth."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.experiments.off_policy import (
    Estimate,
    LoggedImpressions,
    PredictedRewards,
    estimate_doubly_robust,
    estimate_ips,
    estimate_snips,
)

CAMPAIGNS = ("all", "men", "women")
_NUM_POSITIONS = 3


def _covers(estimate: Estimate, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.05, 1)), min_size=2, max_size=50))
def test_every_estimate_of_the_logging_policy_is_the_mean_reward(rows: list[tuple[float, float]]) -> None:
    reward, propensity = (np.asarray(column) for column in zip(*rows, strict=True))
    logged = LoggedImpressions(reward, propensity, propensity, np.arange(len(reward)))
    zero = PredictedRewards(np.zeros(len(reward)), np.zeros(len(reward)))
    for found in (estimate_ips(logged), estimate_snips(logged), estimate_doubly_robust(logged, zero)):
        assert found.value == pytest.approx(reward.mean())
        assert found.effective_sample_size == pytest.approx(len(reward))


@given(st.lists(st.tuples(st.booleans(), st.floats(0.05, 1), st.floats(0, 1)), min_size=2, max_size=50))
def test_snips_stays_within_the_range_of_the_rewards(rows: list[tuple[bool, float, float]]) -> None:
    reward, logging, target = (np.asarray(column, float) for column in zip(*rows, strict=True))
    found = estimate_snips(LoggedImpressions(reward, logging, target, np.arange(len(reward))))
    assert -1e-9 <= found.value <= 1 + 1e-9


def test_no_rows_or_a_single_visitor_give_an_infinite_interval() -> None:
    none = np.zeros(0)
    assert estimate_ips(LoggedImpressions(none, none, none, none)).high == np.inf
    one = np.ones(5)
    assert estimate_ips(LoggedImpressions(one, one, one, one)).high == np.inf


def _simulated(seed: int, count: int = 4_000) -> tuple[LoggedImpressions, PredictedRewards, PredictedRewards, float]:
    """Impressions of three items, good and bad reward predictions, and the true mean reward of the target policy."""
    random = np.random.default_rng(seed)
    click, logging, target = np.asarray([0.1, 0.3, 0.6]), np.asarray([0.7, 0.2, 0.1]), np.asarray([0.1, 0.2, 0.7])
    item = random.choice(3, count, p=logging)
    reward = (random.random(count) < click[item]).astype(float)
    logged = LoggedImpressions(reward, logging[item], target[item], np.arange(count) // 4)
    truth = float(target @ click)
    good = PredictedRewards(click[item], np.full(count, truth))
    return logged, good, PredictedRewards(np.full(count, 0.9), np.full(count, 0.9)), truth


def test_intervals_have_nominal_coverage_whatever_the_predictions() -> None:
    covered = np.zeros(4)
    rounds = 200
    for seed in range(rounds):
        logged, good, bad, truth = _simulated(seed)
        estimates = (
            estimate_ips(logged),
            estimate_snips(logged),
            estimate_doubly_robust(logged, good),
            estimate_doubly_robust(logged, bad),
        )
        covered += [_covers(estimate, truth) for estimate in estimates]
    assert (covered / rounds > 0.9).all()


def test_good_predictions_narrow_the_doubly_robust_interval() -> None:
    logged, good, _, _ = _simulated(0)
    ips, dr = estimate_ips(logged), estimate_doubly_robust(logged, good)
    assert dr.high - dr.low < ips.high - ips.low


def test_repeated_rows_of_a_visitor_do_not_narrow_the_interval() -> None:
    logged, *_ = _simulated(0)
    repeated = LoggedImpressions(*(np.tile(column, 10) for column in logged))
    once, ten = estimate_ips(logged), estimate_ips(repeated)
    assert ten.value == pytest.approx(once.value)
    assert ten.high - ten.low == pytest.approx(once.high - once.low, rel=0.01)


def _open_bandit(policy: str, campaign: str) -> pd.DataFrame:
    """10,000 impressions of a fashion shop with clicks and logging propensities (Saito et al. 2021, "Open
    Bandit Dataset and Pipeline"); from the package `obp`, which contains the data and is not imported."""
    spec = find_spec("obp")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "dataset" / "obd"
    return pd.read_csv(folder / policy / campaign / f"{campaign}.csv", index_col=0, parse_dates=["timestamp"])


def _shares(shown: pd.DataFrame, items: int) -> np.ndarray:
    """Share of each item at each position [P, A] under a policy.

    The mean of logged propensities would be too high: an item is shown more often when its propensity is high.
    """
    shares = np.zeros((_NUM_POSITIONS, items))
    position = shown["position"].to_numpy() - shown["position"].min()
    np.add.at(shares, (position, shown["item_id"].to_numpy()), 1)
    shares /= shares.sum(1, keepdims=True)
    return shares


@pytest.mark.parametrize("campaign", CAMPAIGNS)
def test_every_estimate_from_the_random_policy_log_covers_the_target_policy_mean(campaign: str) -> None:
    random, target = _open_bandit("random", campaign), _open_bandit("bts", campaign)
    items = 1 + int(max(random["item_id"].max(), target["item_id"].max()))
    item, position = random["item_id"].to_numpy(), (random["position"] - random["position"].min()).to_numpy()
    shares = _shares(target, items)
    # The log has no visitor ids: impressions of the same minute may be of the same visitor.
    cluster = random["timestamp"].dt.floor("min").astype("int64").to_numpy()
    logged = LoggedImpressions(
        random["click"].to_numpy().astype(float), random["propensity_score"].to_numpy(), shares[position, item], cluster
    )
    # Cross-fitted: an item's CTR, shrunk towards the overall CTR, from the other half of the log.
    half = np.arange(len(random)) % 2
    expected = np.zeros((2, items))
    for fold in (0, 1):
        seen = half != fold
        clicks, shown = (np.bincount(item[seen], weights, items) for weights in (logged.reward[seen], None))
        overall = clicks.sum() / shown.sum()
        expected[fold] = (clicks + 100 * overall) / (shown + 100)
    predicted = PredictedRewards(expected[half, item], (expected[half] * shares[position]).sum(1))
    truth = float(target["click"].mean())
    assert 0 < truth < 0.02
    for found in (estimate_ips(logged), estimate_snips(logged), estimate_doubly_robust(logged, predicted)):
        assert _covers(found, truth), (found, truth)
        assert found.high - found.low < 0.01  # and is informative
