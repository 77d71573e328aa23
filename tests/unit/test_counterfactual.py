"""What another policy would have got: laws of the estimators, and real logged data whose truth is known."""

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
    Logged,
    Predicted,
    doubly_robust,
    inverse_propensity,
    self_normalised,
)

CAMPAIGNS = ("all", "men", "women")
_PLACES = 3


def _covers(estimate: Estimate, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.05, 1)), min_size=2, max_size=50))
def test_of_the_policy_itself_each_gives_the_mean(rows: list[tuple[float, float]]) -> None:
    reward, chance = (np.asarray(column) for column in zip(*rows, strict=True))
    logged = Logged(reward, chance, chance, np.arange(len(reward)))
    nothing = Predicted(np.zeros(len(reward)), np.zeros(len(reward)))
    for found in (inverse_propensity(logged), self_normalised(logged), doubly_robust(logged, nothing)):
        assert found.value == pytest.approx(reward.mean())
        assert found.effective == pytest.approx(len(reward))


@given(st.lists(st.tuples(st.booleans(), st.floats(0.05, 1), st.floats(0, 1)), min_size=2, max_size=50))
def test_self_normalised_stays_within_the_rewards(rows: list[tuple[bool, float, float]]) -> None:
    reward, shown, wanted = (np.asarray(column, float) for column in zip(*rows, strict=True))
    found = self_normalised(Logged(reward, shown, wanted, np.arange(len(reward))))
    assert -1e-9 <= found.value <= 1 + 1e-9


def test_no_rows_and_one_visitor_tell_nothing() -> None:
    none = np.zeros(0)
    assert inverse_propensity(Logged(none, none, none, none)).high == np.inf
    one = np.ones(5)
    assert inverse_propensity(Logged(one, one, one, one)).high == np.inf


def _simulated(seed: int, count: int = 4_000) -> tuple[Logged, Predicted, Predicted, float]:
    """Three items shown by known chances, the other policy's chances; good and bad predictions; the truth."""
    random = np.random.default_rng(seed)
    click, shown, wanted = np.asarray([0.1, 0.3, 0.6]), np.asarray([0.7, 0.2, 0.1]), np.asarray([0.1, 0.2, 0.7])
    item = random.choice(3, count, p=shown)
    reward = (random.random(count) < click[item]).astype(float)
    logged = Logged(reward, shown[item], wanted[item], np.arange(count) // 4)
    truth = float(wanted @ click)
    good = Predicted(click[item], np.full(count, truth))
    return logged, good, Predicted(np.full(count, 0.9), np.full(count, 0.9)), truth


def test_intervals_cover_the_truth_as_often_as_they_say_whatever_the_predictions() -> None:
    covered = np.zeros(4)
    rounds = 200
    for seed in range(rounds):
        logged, good, bad, truth = _simulated(seed)
        estimates = (
            inverse_propensity(logged),
            self_normalised(logged),
            doubly_robust(logged, good),
            doubly_robust(logged, bad),
        )
        covered += [_covers(estimate, truth) for estimate in estimates]
    assert (covered / rounds > 0.9).all()


def test_good_predictions_make_it_calmer() -> None:
    logged, good, _, _ = _simulated(0)
    alone, helped = inverse_propensity(logged), doubly_robust(logged, good)
    assert helped.high - helped.low < alone.high - alone.low


def test_rows_of_one_visitor_count_as_one() -> None:
    logged, *_ = _simulated(0)
    repeated = Logged(*(np.tile(column, 10) for column in logged))
    once, ten = inverse_propensity(logged), inverse_propensity(repeated)
    assert ten.value == pytest.approx(once.value)
    assert ten.high - ten.low == pytest.approx(once.high - once.low, rel=0.01)


def _open_bandit(policy: str, campaign: str) -> pd.DataFrame:
    """10,000 impressions of a fashion shop with clicks and the chances they were shown with (Saito et al. 2021, "Open
    Bandit Dataset and Pipeline"); from the package `obp`, which carries them and is not imported."""
    spec = find_spec("obp")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "dataset" / "obd"
    return pd.read_csv(folder / policy / campaign / f"{campaign}.csv", index_col=0, parse_dates=["timestamp"])


def _shares(shown: pd.DataFrame, items: int) -> np.ndarray:
    """How often a policy shows each item at each place [P, A]. The mean of the chances of what was shown would be too
    high for items with high chances, which are shown more often when they have them."""
    shares = np.zeros((_PLACES, items))
    place = shown["position"].to_numpy() - shown["position"].min()
    np.add.at(shares, (place, shown["item_id"].to_numpy()), 1)
    shares /= shares.sum(1, keepdims=True)
    return shares


@pytest.mark.parametrize("campaign", CAMPAIGNS)
def test_from_the_log_of_the_random_policy_each_covers_what_the_other_policy_really_got(campaign: str) -> None:
    random, other = _open_bandit("random", campaign), _open_bandit("bts", campaign)
    items = 1 + int(max(random["item_id"].max(), other["item_id"].max()))
    item, place = random["item_id"].to_numpy(), (random["position"] - random["position"].min()).to_numpy()
    shares = _shares(other, items)
    # Nobody is named: who looks within the same minute may be the same person.
    cluster = random["timestamp"].dt.floor("min").astype("int64").to_numpy()
    logged = Logged(
        random["click"].to_numpy().astype(float), random["propensity_score"].to_numpy(), shares[place, item], cluster
    )
    # An item's rate, drawn towards that of all, from the half of the log that a row is not in.
    half = np.arange(len(random)) % 2
    expected = np.zeros((2, items))
    for part in (0, 1):
        seen = half != part
        clicks, shown = (np.bincount(item[seen], weights, items) for weights in (logged.reward[seen], None))
        usual = clicks.sum() / shown.sum()
        expected[part] = (clicks + 100 * usual) / (shown + 100)
    predicted = Predicted(expected[half, item], (expected[half] * shares[place]).sum(1))
    truth = float(other["click"].mean())
    assert 0 < truth < 0.02
    for found in (inverse_propensity(logged), self_normalised(logged), doubly_robust(logged, predicted)):
        assert _covers(found, truth), (found, truth)
        assert found.high - found.low < 0.01  # and says something
