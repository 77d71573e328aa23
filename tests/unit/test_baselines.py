from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys_tasks.evaluation.baselines import (
    BASELINE_FITTERS,
    BaselineData,
    PairCounts,
    choose_half_life,
    personal_frequency,
)
from recsys_tasks.evaluation.metrics import MISSED
from recsys_tasks.evaluation.protocol import PredictionTasks, rank_scores
from recsys_tasks.evaluation.sparse_scores import blend_rows, normalize_rows, sparse_target_ranks
from recsys_tasks.features.sequences import SECONDS_PER_DAY, Timeline, build_timeline
from recsys_tasks.model.training_loop import TrainingData
from recsys_tasks.names import (
    BASELINES,
    DECAYED_PERSONAL_FREQUENCY,
    EVENT_TYPE_CODES,
    FIRST_ITEM,
    PERSONAL_ITEM_BLEND,
    PURCHASE,
    UNKNOWN_ITEM,
)
from tests.shops import ITEMS, random_timeline

V = FIRST_ITEM + ITEMS


def _timeline(*sessions: tuple[int, float, list[int]]) -> Timeline:
    """A timeline of sessions (user, day, items), ordered by user and day."""
    rows = [(user, number, item, day) for number, (user, day, items) in enumerate(sessions) for item in items]
    user, session, item, day = (np.asarray(column) for column in zip(*rows, strict=True))
    seconds = day * SECONDS_PER_DAY
    return build_timeline(user, session, item, np.full(len(rows), EVENT_TYPE_CODES[PURCHASE]), seconds, seconds)


def _tasks(timeline: Timeline, sessions: list[int]) -> PredictionTasks:
    """Tasks to predict the last event of sessions."""
    return PredictionTasks(timeline.session_start[sessions], timeline.session_start[1:][sessions] - 1)


def _all_tasks(timeline: Timeline) -> PredictionTasks:
    return _tasks(timeline, np.flatnonzero(np.diff(timeline.session_start) > 1).tolist())


def _baseline_data(timeline: Timeline, training: list[int], validation: list[int]) -> BaselineData:
    """The first events of each user [U] are training events; later ones are held out."""
    stops = timeline.user_start[:-1] + np.asarray(training)
    counts = np.bincount(timeline.item, minlength=V)
    return BaselineData(TrainingData(timeline, counts, stops, stops), _tasks(timeline, validation))


@given(st.integers(0, 1_000))
@settings(max_examples=30)
def test_personal_frequency_without_a_decay_counts_the_actions_before_the_session(seed: int) -> None:
    timeline = random_timeline(seed)
    tasks = _all_tasks(timeline)
    found = personal_frequency(timeline, tasks, np.inf, V).toarray()
    for row, first in enumerate(tasks.first):
        past = timeline.item[timeline.user_start[timeline.user[first]] : first]
        assert found[row].tolist() == np.bincount(past[past >= FIRST_ITEM], minlength=V).tolist()


def test_an_action_weighs_half_as_much_after_one_half_life() -> None:
    timeline = _timeline((0, 0, [2]), (0, 30, [3, 3]), (0, 60, [4]), (0, 61, [2, 3]))
    found = personal_frequency(timeline, _tasks(timeline, [3]), 30.0, V).toarray()[0]
    assert found[[2, 3, 4]] == pytest.approx([0.25, 1.0, 1.0])


@pytest.mark.parametrize(("target", "half_life"), [(2, np.inf), (3, 7.0)])
def test_the_half_life_that_predicts_the_validation_sessions_is_chosen(target: int, half_life: float) -> None:
    # Item 2 was bought often and long ago, item 3 once and lately.
    timeline = _timeline((0, 0, [2, 2, 2]), (0, 100, [3]), (0, 101, [9, target]))
    data = _baseline_data(timeline, [4], [2])
    found = choose_half_life(data.data, data.tuning_tasks)
    assert (found == half_life) if half_life == np.inf else (found < np.inf)
    scores = BASELINE_FITTERS[DECAYED_PERSONAL_FREQUENCY](data)(data.validation)[0]
    assert scores.argmax() == target


def _shop_of_pairs() -> Timeline:
    """Users who buy items 5 and 6 together, then one of them with a session to predict, a new and an old user."""
    pairs = [(user, float(user), [5, 6]) for user in range(6)]
    return _timeline(*pairs, (6, 1.0, [8]), (6, 20.0, [5, 6]), (7, 21.0, [5, 6]), (8, 2.0, [8]), (8, 22.0, [1, 6]))


def test_the_blend_has_item_knn_alone_for_a_new_user() -> None:
    timeline = _shop_of_pairs()
    data = _baseline_data(timeline, [2] * 6 + [1, 0, 1], [7])
    scores = BASELINE_FITTERS[PERSONAL_ITEM_BLEND](data)(_tasks(timeline, [8]))[0]
    assert scores.argmax() == 6


def test_the_blend_has_personal_frequency_alone_where_the_session_has_no_known_item() -> None:
    timeline = _shop_of_pairs()
    data = _baseline_data(timeline, [2] * 6 + [1, 0, 1], [7])
    assert timeline.item[_tasks(timeline, [10]).first] == [UNKNOWN_ITEM]
    scores = BASELINE_FITTERS[PERSONAL_ITEM_BLEND](data)(_tasks(timeline, [10]))[0]
    assert scores.argmax() == 8


def test_every_baseline_has_a_fitter() -> None:
    assert tuple(BASELINE_FITTERS) == BASELINES


def test_shrinkage_prefers_pairs_with_more_evidence() -> None:
    pairs = sparse.csr_matrix(np.asarray([[0, 1, 8], [1, 0, 0], [8, 0, 0]], np.float32))
    counts = PairCounts(pairs, np.asarray([10.0, 1.0, 10.0]))
    plain, shrunk = counts.cosines(0.0).toarray()[0], counts.cosines(10.0).toarray()[0]
    assert plain[2] == pytest.approx(0.8)
    assert shrunk[2] == pytest.approx(8 / 20)
    assert plain[2] / plain[1] < shrunk[2] / shrunk[1]


def _random_scores(timeline: Timeline, tasks: PredictionTasks, seed: int) -> sparse.csr_matrix:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 4, (len(tasks), V)).astype(np.float32)
    scores[:, :FIRST_ITEM] = 0
    return sparse.csr_matrix(scores)


@given(st.integers(0, 1_000), st.booleans())
@settings(max_examples=50)
def test_sparse_ranks_are_those_of_the_dense_scores(seed: int, exclude_session_items: bool) -> None:
    timeline = random_timeline(seed)
    tasks = _all_tasks(timeline)
    scores = _random_scores(timeline, tasks, seed)
    dense = rank_scores(scores.toarray(), timeline, tasks, exclude_session_items).ranks
    has_score = scores.toarray()[np.arange(len(tasks)), timeline.item[tasks.target]] > 0
    expected = np.where(has_score, dense, MISSED)
    assert sparse_target_ranks(scores, timeline, tasks, exclude_session_items).tolist() == expected.tolist()


@given(st.integers(0, 1_000), st.floats(0, 1))
@settings(max_examples=50)
def test_a_blend_of_normalized_rows_is_normalized(seed: int, weight: float) -> None:
    random = np.random.default_rng(seed)
    first, second = (normalize_rows(sparse.random_array((6, 9), density=0.2, rng=random).tocsr()) for _ in range(2))
    totals = np.asarray(blend_rows(first, second, weight).sum(1)).ravel()
    has_scores = (np.diff(first.indptr) > 0) | (np.diff(second.indptr) > 0)
    assert totals == pytest.approx(has_scores.astype(float))
