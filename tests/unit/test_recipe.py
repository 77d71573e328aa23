from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.errors import NotEnoughData
from recsys_tasks.evaluation.blend import blend_scorers, choose_blend_weight
from recsys_tasks.evaluation.protocol import VALIDATION, PredictionTasks, select_prediction_tasks
from recsys_tasks.features.sequences import build_timeline
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.training_loop import TrainingData, build_network, train
from recsys_tasks.names import FIRST_ITEM
from recsys_tasks.training import recipe
from tests.shops import encoded_shop, training_data


def _data(items: list[int], sessions: list[int]) -> TrainingData:
    item, session = np.asarray(items) + FIRST_ITEM, np.asarray(sessions)
    seconds = np.arange(len(item)) * 60.0
    timeline = build_timeline(session, session, item, np.full(len(item), 2), seconds, seconds)
    return TrainingData(timeline, np.bincount(item, minlength=20), timeline.user_start[1:], timeline.user_start[1:])


def _vocabulary(items: int) -> Vocabulary:
    nothing = ("",) * items
    return Vocabulary(tuple(map(str, range(items))), nothing, nothing, nothing, (1,) * items)


def test_sessions_repeat_is_derived_from_the_training_events() -> None:
    assert recipe.sessions_repeat(_data([1, 2, 1, 3], [0, 0, 0, 1]))
    assert not recipe.sessions_repeat(_data([1, 2, 1, 3], [0, 0, 1, 1]))


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_more_events_never_have_more_dropout(some: int, others: int) -> None:
    few, many = sorted((some, others))
    assert 0.05 <= recipe.dropout_rate(many) <= recipe.dropout_rate(few) <= 0.5


@pytest.mark.parametrize(("items", "num_negatives"), [(5_000, 0), (50_000, 2048)])
def test_large_catalogs_use_sampled_negatives(items: int, num_negatives: int) -> None:
    data = _data([1, 2, 3, 4], [0, 0, 1, 1])
    assert recipe.training_config(data, _vocabulary(items), False, 60, 0).num_negatives == num_negatives


def test_a_short_budget_gives_a_small_network_little_dropout_and_a_short_decay() -> None:
    data = _data([1, 2, 3, 4] * 500, [0, 0, 1, 1] * 500)
    short, long = (recipe.network_config(data, _vocabulary(9), False, seconds) for seconds in (0.1, 60))
    assert short.embedding_dim < long.embedding_dim
    assert short.dropout < long.dropout
    decays = [recipe.training_config(data, _vocabulary(9), False, seconds, 0).decay_fraction for seconds in (0.1, 60)]
    assert decays[0] < decays[1]


def test_a_network_for_new_data_can_take_the_sizes_of_a_trained_one() -> None:
    data = _data([1, 2, 3, 4] * 500, [0, 0, 1, 1] * 500)
    small, large = (recipe.network_config(data, _vocabulary(9), False, seconds) for seconds in (0.1, 60))
    fitting = recipe.with_trained_sizes(small, replace(large, num_items=20))
    assert (fitting.embedding_dim, fitting.num_heads, fitting.num_decoder_layers) == (
        small.embedding_dim,
        small.num_heads,
        small.num_decoder_layers,
    )
    assert (fitting.num_items, fitting.dropout) == (20, large.dropout)


def test_without_a_training_event_the_training_is_rejected() -> None:
    data = _data([1, 2], [0, 0])
    nothing = data._replace(stops=data.timeline.user_start[:-1])
    network = build_network(recipe.network_config(nothing, _vocabulary(3), True, seconds=60), _vocabulary(3))
    schedule = recipe.training_config(nothing, _vocabulary(3), False, 60, 0)
    with pytest.raises(NotEnoughData):
        train(network, nothing, schedule, lambda _: 0.0)


def test_a_catalog_may_have_one_item() -> None:
    data = _data([0, 0, 0], [0, 1, 1])
    config = recipe.network_config(data, _vocabulary(1), history=False, seconds=60)
    assert config.num_items == 1 + FIRST_ITEM
    assert config.sessions_repeat


def test_the_blend_weights_the_scorer_that_validation_prefers() -> None:
    shop = encoded_shop()
    asked, timeline = select_prediction_tasks(shop, VALIDATION), shop.timeline
    size = len(shop.vocabulary)

    def perfect(asked: PredictionTasks) -> np.ndarray:
        found: np.ndarray = np.eye(size)[timeline.item[asked.target]]
        return found

    def uninformed(asked: PredictionTasks) -> np.ndarray:
        return np.tile(np.arange(size, dtype=float), (len(asked), 1))

    assert choose_blend_weight(perfect, uninformed, timeline, asked, True, "mrr_20") == 0
    assert choose_blend_weight(uninformed, perfect, timeline, asked, True, "mrr_20") > 0
    assert blend_scorers(perfect, uninformed, 0) is perfect
    mixed = blend_scorers(perfect, uninformed, 0.25)(asked)
    assert mixed.sum(1) == pytest.approx(np.ones(len(asked)))


def test_where_the_second_scorer_has_no_scores_the_first_decides_alone() -> None:
    shop = encoded_shop()
    asked = select_prediction_tasks(shop, VALIDATION)
    size = len(shop.vocabulary)
    data = training_data(shop)
    counted = np.tile(data.counts.astype(float), (len(asked), 1))
    found = blend_scorers(lambda _: counted, lambda _: np.zeros((len(asked), size)), 0.5)(asked)
    assert found == pytest.approx(counted / counted.sum(1, keepdims=True))
