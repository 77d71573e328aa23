"""The discovery weight moves probability from copies to other items, and is undone by its inverse."""

from __future__ import annotations

import numpy as np
import torch

from recsys_tasks.evaluation.metrics import ranking_metrics
from recsys_tasks.evaluation.protocol import TEST, VALIDATION, model_ranks, model_scorer, select_prediction_tasks
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.training_loop import TrainingConfig, build_network, train
from recsys_tasks.training.discovery import apply_discovery_weight, choose_discovery_weight
from tests.shops import encoded_shop, small_config, training_data

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
    chosen = choose_discovery_weight(network, SHOP.timeline, tasks)
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
    assert choose_discovery_weight(network, SHOP.timeline, select_prediction_tasks(SHOP, VALIDATION)) == 1.0
