"""Counterfactual evaluation of lists: expected examination, and estimates beside the truth of a click model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.engine.ranking import Exploration
from recsys_tasks.experiments.counterfactual import (
    CounterfactualComparison,
    ExploredLists,
    compare_counterfactually,
    expected_examination,
)

_NUM_ITEMS, _NUM_CANDIDATES, _K, _SHARE = 30, 20, 5, 0.3
_THETA = 1 / np.arange(1, _K + 1) ** 0.8


@given(st.integers(1, 30), st.integers(1, 8), st.floats(0, 0.9))
def test_the_candidates_share_the_examination_of_all_positions(num_candidates: int, k: int, share: float) -> None:
    slots = tuple(1 / (1 + place) for place in range(min(k, num_candidates)))
    expected = expected_examination(num_candidates, share, slots)
    assert expected.sum() == pytest.approx(sum(slots))
    assert (np.diff(expected) <= 1e-12).all(), "a better rank is examined at least as much"


def test_expected_examination_is_the_mean_over_drawn_lists() -> None:
    ranked, num_lists = list(range(12)), 20_000
    theta = (1.0, 0.6, 0.3)
    total = np.zeros(len(ranked))
    for number in range(num_lists):
        shown, _ = Exploration(0.4, str(number)).draw(ranked, set(), len(theta))
        total[shown] += theta
    assert np.abs(total / num_lists - expected_examination(len(ranked), 0.4, theta)).max() < 0.01


class _Shop:
    """Visitors with preferences for items, a logging model, and what lists would really get.

    Preferences are those of the position-based model: γ of each visitor and item [L, V]. Item 0 does not exist.
    """

    def __init__(self, seed: int, num_lists: int) -> None:
        self.random = np.random.default_rng(seed)
        self.gamma = np.zeros((num_lists, _NUM_ITEMS + 1))
        self.gamma[:, 1:] = self.random.beta(0.5, 4, (num_lists, _NUM_ITEMS))

    def ranking(self, noise: float) -> np.ndarray:
        """Items by preference plus noise, best first [L, C]."""
        scores = self.gamma + noise * self.random.normal(size=self.gamma.shape)
        scores[:, 0] = -np.inf
        return np.argsort(-scores, axis=1)[:, :_NUM_CANDIDATES]

    def reordered(self, ranking: np.ndarray, noise: float) -> np.ndarray:
        """The same items, by preference plus other noise."""
        scores = np.take_along_axis(self.gamma, ranking, 1)
        order = np.argsort(-scores - noise * self.random.normal(size=scores.shape), axis=1)
        return np.take_along_axis(ranking, order, 1)

    def true_rate(self, ranking: np.ndarray) -> float:
        clicks = np.take_along_axis(self.gamma, ranking[:, :_K], 1) * _THETA
        return float(clicks.mean())

    def logged(self, ranking: np.ndarray) -> ExploredLists:
        rows: list[tuple[int, int, int, int, bool]] = []
        for row, ranked in enumerate(ranking.tolist()):
            shown, explored = Exploration(_SHARE, f"{row}").draw(ranked, set(), _K)
            for place, item in enumerate(shown):
                clicked = self.random.random() < _THETA[place] * self.gamma[row, item]
                rows.append((row, place + 1, explored.ranks[place], item, clicked))
        lists, position, rank, item_number, is_clicked = (np.asarray(column) for column in zip(*rows, strict=True))
        count = len(ranking)
        return ExploredLists(
            np.arange(count) // 2,
            np.full(count, _SHARE),
            np.full(count, _NUM_CANDIDATES),
            lists,
            position,
            rank,
            item_number,
            is_clicked,
        )


def _compared(seed: int, noise: float, num_lists: int = 1_500) -> tuple[CounterfactualComparison, float, float]:
    """A comparison of a model with the logging one, and their true click-through rates."""
    shop = _Shop(seed, num_lists)
    champion = shop.ranking(0.2)
    challenger = shop.reordered(champion, noise)
    found = compare_counterfactually(shop.logged(champion), challenger, champion, _THETA)
    return found, shop.true_rate(challenger), shop.true_rate(champion)


def test_intervals_cover_the_true_rates_and_their_difference() -> None:
    covered, rounds = np.zeros(4), 60
    for seed in range(rounds):
        found, truth, rival = _compared(seed, noise=0.4)
        covered += [
            found.rival.low <= rival <= found.rival.high,
            found.rival_snips.low <= rival <= found.rival_snips.high,
            found.model.low <= truth <= found.model.high,
            found.difference.low <= truth - rival <= found.difference.high,
        ]
    assert (covered / rounds > 0.85).all(), covered / rounds


@pytest.mark.parametrize(("noise", "sign"), [(0.02, 1), (3.0, -1)])
def test_a_better_and_a_worse_model_are_told_apart(noise: float, sign: int) -> None:
    found, truth, rival = _compared(1, noise, num_lists=4_000)
    assert np.sign(truth - rival) == sign
    assert sign * (found.difference.low if sign > 0 else found.difference.high) > 0
    assert 0 < found.difference.effective_sample_size < found.num_lists


def test_the_logging_model_gets_its_own_rate() -> None:
    shop = _Shop(3, 4_000)
    champion = shop.ranking(0.2)
    found = compare_counterfactually(shop.logged(champion), champion, champion, _THETA)
    assert found.model.low <= shop.true_rate(champion) <= found.model.high
    assert found.model_snips.low <= shop.true_rate(champion) <= found.model_snips.high
    assert found.difference[:3] == (0.0, 0.0, 0.0)
    assert found.overlap.value == pytest.approx(1.0, abs=0.02)


def test_lists_of_other_items_have_no_overlap() -> None:
    shop = _Shop(4, 200)
    champion = shop.ranking(0.2)
    others = np.asarray([np.setdiff1d(np.arange(1, _NUM_ITEMS + 1), row)[:_K] for row in champion])
    found = compare_counterfactually(shop.logged(champion), others, champion, _THETA)
    assert found.overlap.value == 0.0
    assert found.model_snips.effective_sample_size == 0.0


def test_the_overlap_is_the_examined_share_of_items_that_exploration_could_show() -> None:
    shop = _Shop(6, 4_000)
    champion = shop.ranking(0.2)
    mixed = champion.copy()
    mixed[:, 1] = _NUM_ITEMS + 7  # nobody knows it
    found = compare_counterfactually(shop.logged(champion), mixed, champion, _THETA)
    assert found.overlap.value == pytest.approx(1 - _THETA[1] / _THETA.sum(), abs=0.03)


def test_lists_of_several_lengths_and_unknown_items_are_compared() -> None:
    shop = _Shop(5, 600)
    champion = shop.ranking(0.2)
    logged = shop.logged(champion)
    short = (logged.list % 2 == 0) & (logged.position > 2)
    logged = logged._replace(
        **{name: getattr(logged, name)[~short] for name in ("list", "position", "rank", "item", "clicked")}
    )
    logged = logged._replace(item=np.where(logged.item == 3, -1, logged.item))
    found = compare_counterfactually(logged, shop.reordered(champion, 0.5), champion[:, :4], _THETA[:2])
    assert found.is_finite
    assert 0.5 < found.overlap.value <= 1.1
    assert (found.num_lists, found.num_clusters, found.num_clicks) == (600, 300, logged.clicked.sum())


def test_nothing_logged_gives_no_estimate() -> None:
    none = np.zeros(0, np.int64)
    logged = ExploredLists(none, none, none, none, none, none, none, none)
    found = compare_counterfactually(logged, np.zeros((0, 5), int), np.zeros((0, 5), int), _THETA)
    assert (found.num_lists, found.overlap.value, found.model.high) == (0, 0.0, np.inf)
    assert not found.is_finite
    for name in ("model", "model_snips"):
        assert found.as_dict()[name] == {"value": 0.0, "low": 0.0, "high": None, "effective_sample_size": 0.0}


def test_positions_that_nobody_examines_tell_nothing() -> None:
    shop = _Shop(7, 2_000)
    champion = shop.ranking(0.2)
    below = np.concatenate([champion[:, :1], champion[:, :0:-1]], 1)  # the same first item
    found = compare_counterfactually(shop.logged(champion), below, champion, np.asarray([1.0, 0.0]))
    assert found.is_finite
    assert found.overlap.value == pytest.approx(1.0, abs=0.05)
    assert found.difference[:3] == (0.0, 0.0, 0.0)
