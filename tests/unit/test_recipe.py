from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.errors import NotEnoughData
from recsys_tasks.features.sequences import build_timeline
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.training_loop import TrainingData, build_network, train
from recsys_tasks.names import FIRST_ITEM
from recsys_tasks.training import recipe


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


@pytest.mark.parametrize("history", [False, True])
def test_neighbors_of_items_are_a_component_where_there_is_a_history(history: bool) -> None:
    config = recipe.network_config(_data([1, 2, 1, 3], [0, 0, 0, 1]), _vocabulary(9), history, 60)
    assert (config.neighbor_tokens > 0) == history


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
