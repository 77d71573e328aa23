"""The weights of the mixture's components: what they change, and how validation chooses them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_tasks.evaluation.metrics import ranking_metrics
from recsys_tasks.evaluation.protocol import (
    TEST,
    VALIDATION,
    PredictionTasks,
    model_ranks,
    model_scorer,
    select_prediction_tasks,
)
from recsys_tasks.features.sequences import Timeline, build_timeline
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import ComponentWeights
from recsys_tasks.model.training_loop import TrainingConfig, TrainingData, build_network, train
from recsys_tasks.names import EVENT_TYPE_CODES, PURCHASE
from recsys_tasks.training import component_weights
from recsys_tasks.training.component_weights import (
    apply_component_weights,
    apply_discovery_weight,
    choose_component_weights,
    choose_discovery_weight,
)
from tests.shops import START, encoded_shop, small_config, training_data

SHOP = encoded_shop()


def _network() -> Recommender:
    torch.manual_seed(0)
    network = build_network(small_config(SHOP.vocabulary, neighbor_tokens=4), SHOP.vocabulary)
    train(network, training_data(SHOP), TrainingConfig(epochs=2, num_negatives=32), lambda _: 0.0)
    return network


def test_a_larger_weight_gives_items_outside_the_history_more_probability() -> None:
    network, tasks = _network(), select_prediction_tasks(SHOP, TEST)
    before = model_scorer(network, SHOP.timeline)(tasks)
    apply_discovery_weight(network, 2.0)
    after = model_scorer(network, SHOP.timeline)(tasks)
    timeline = SHOP.timeline
    for row, first in enumerate(tasks.first.tolist()):
        known = timeline.item[timeline.user_start[timeline.user[first]] : first]
        others = np.setdiff1d(np.flatnonzero(before[row] > 1e-9), known)
        assert (after[row, others] > before[row, others]).all()
    apply_discovery_weight(network, 0.5)
    np.testing.assert_allclose(model_scorer(network, timeline)(tasks), before, atol=1e-5)


def test_the_largest_weight_within_one_percent_of_the_best_is_chosen() -> None:
    network, tasks = _network(), select_prediction_tasks(SHOP, VALIDATION)
    before = network.age_offset.detach().clone()
    chosen = choose_discovery_weight(network, training_data(SHOP), tasks)
    torch.testing.assert_close(network.age_offset.detach(), before)
    metrics = {}
    for weight in (1.0, 1.5, 2.0, 3.0):
        apply_discovery_weight(network, weight)
        metrics[weight] = ranking_metrics(model_ranks(network, SHOP.timeline, tasks))["mrr_20"]
        apply_discovery_weight(network, 1 / weight)
    assert chosen == max(weight for weight, metric in metrics.items() if metric >= 0.99 * max(metrics.values()))


def test_without_a_history_to_copy_from_the_weight_is_one() -> None:
    words = SHOP.vocabulary
    network = build_network(small_config(words, history=False), words)
    tasks = select_prediction_tasks(SHOP, VALIDATION)
    assert choose_discovery_weight(network, training_data(SHOP), tasks) == 1.0


def test_session_neighbors_add_their_shares_times_the_mass_of_their_items() -> None:
    network, tasks, weight = _network(), select_prediction_tasks(SHOP, TEST), 0.5
    before = model_scorer(network, SHOP.timeline)(tasks)
    apply_component_weights(network, training_data(SHOP), ComponentWeights(session_neighbors=weight))
    after = model_scorer(network, SHOP.timeline)(tasks)
    for row, (first, target) in enumerate(zip(tasks.first.tolist(), tasks.target.tolist(), strict=True)):
        session = SHOP.timeline.item[first:target]
        found = network.session_neighbors.candidates(session, session)
        expected = before[row].astype(np.float64)
        expected[found.items] += weight * expected[found.items].sum() * found.scores / found.scores.sum()
        np.testing.assert_allclose(after[row], expected / expected.sum(), rtol=1e-3, atol=1e-7)


def test_with_a_weight_of_zero_no_sessions_are_stored() -> None:
    network, data = _network(), training_data(SHOP)
    apply_component_weights(network, data, ComponentWeights(session_neighbors=0.0))
    assert network.config.session_neighbor_weight == 0
    assert not len(network.session_neighbors.session_item)


@pytest.mark.parametrize(("gain", "chosen"), [(0.004, 0.0), (0.006, 0.5)])
def test_session_neighbors_must_gain_half_a_percent(
    monkeypatch: pytest.MonkeyPatch, gain: float, chosen: float
) -> None:
    metrics = {0.0: 0.1, 0.25: 0.09, 0.5: 0.1 * (1 + gain), 1.0: 0.08, 2.0: 0.07}
    monkeypatch.setattr(component_weights, "_metrics_by_session_neighbor_weight", lambda *_: metrics)
    tasks = select_prediction_tasks(SHOP, VALIDATION)
    assert component_weights.choose_session_neighbor_weight(_network(), training_data(SHOP), tasks) == chosen


def test_validation_chooses_session_neighbors_where_sessions_predict_the_target() -> None:
    """Pairs of items that always occur together are known to past sessions, and not to an untrained network."""
    torch.manual_seed(0)
    items = np.tile([[5, 6, 7], [15, 16, 17]], (40, 1)) + 10 * (np.arange(80) // 2 % 2)[:, None]
    timeline = _sessions_of_new_users(items)
    stops = np.where(np.arange(80) < 60, timeline.user_start[1:], timeline.user_start[:-1])
    data = TrainingData(timeline, np.bincount(timeline.item, minlength=len(SHOP.vocabulary)), stops, stops)
    network = build_network(small_config(SHOP.vocabulary, history=False), SHOP.vocabulary)
    tasks = PredictionTasks(timeline.user_start[60:-1], timeline.user_start[61:] - 1)
    assert choose_component_weights(network, data, tasks).session_neighbors > 0


def _sessions_of_new_users(items: np.ndarray) -> Timeline:
    users, length = items.shape
    user = np.repeat(np.arange(users), length)
    seconds = START.timestamp() + 3_600.0 * np.repeat(np.arange(users), length) + np.tile(np.arange(length), users)
    kinds = np.full(items.size, EVENT_TYPE_CODES[PURCHASE])
    return build_timeline(user, user, items.ravel(), kinds, seconds, np.repeat(seconds[::length], length))
