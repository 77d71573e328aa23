import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.evaluation.metrics import MISSED, ranking_metrics, target_ranks

ranks = st.lists(st.one_of(st.integers(1, 50), st.just(int(MISSED))), min_size=1, max_size=50)


def test_a_target_at_rank_three_has_a_reciprocal_rank_of_one_third() -> None:
    found = ranking_metrics(np.asarray([3]))
    assert found["mrr_5"] == pytest.approx(1 / 3)
    assert found["ndcg_5"] == pytest.approx(0.5)
    assert found["recall_5"] == 1.0
    assert found["precision_5"] == pytest.approx(0.2)
    assert found["f1_5"] == pytest.approx(2 * 0.2 / 1.2)


def test_ties_count_against_the_target() -> None:
    scores = np.asarray([[1.0, 1.0, 1.0, 0.5]])
    assert target_ranks(scores, np.asarray([1])).tolist() == [3]


def test_a_nan_score_counts_against_the_target() -> None:
    scores = np.asarray([[np.nan, 1.0, 2.0, 3.0], [3.0, np.nan, 2.0, 1.0], [3.0, -np.inf, 2.0, -np.inf]])
    assert target_ranks(scores, np.asarray([0, 0, 1])).tolist() == [4, 2, 4]


@given(ranks)
def test_metrics_lie_between_zero_and_one_and_grow_with_the_cut(found: list[int]) -> None:
    metrics = ranking_metrics(np.asarray(found))
    assert all(0.0 <= value <= 1.0 for value in metrics.values())
    for name in ("recall", "ndcg", "mrr"):
        assert metrics[f"{name}_5"] <= metrics[f"{name}_10"] <= metrics[f"{name}_20"]


@given(ranks)
def test_a_missed_target_only_lowers_a_metric(found: list[int]) -> None:
    with_miss = ranking_metrics(np.asarray([*found, MISSED]))
    without = ranking_metrics(np.asarray(found))
    assert all(with_miss[name] <= without[name] for name in without)
