"""Component weights of the mixture, chosen on validation before the decay phase.

The mixture is trained for likelihood, and lists are judged by rank. Two weights are chosen by rank:

* discovery: how much generated items and neighbors count beside items copied from the history. A copied item that is
  hardly more probable than many new ones displaces them all. Within the spread of validation, a larger weight gives
  lists with more new items without a significant loss.
* session neighbors: how much the items of the nearest past sessions count (`features.session_neighbors`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from recsys_tasks.evaluation.gate import PRIMARY_METRIC
from recsys_tasks.evaluation.metrics import ranking_metrics
from recsys_tasks.evaluation.protocol import PredictionTasks, iterate_batches, model_inputs, rank_scores
from recsys_tasks.features.session_neighbors import SessionNeighbors
from recsys_tasks.model.incremental import (
    DecoderOutput,
    add_session_neighbors,
    decode_from_start,
    session_candidates,
    trained_scores,
)
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import ComponentWeights, Query
from recsys_tasks.model.training_loop import TrainingData
from recsys_tasks.training.recipe import session_events

log = logging.getLogger(__name__)
_DISCOVERY_WEIGHTS = (1.0, 1.5, 2.0, 3.0)
_TOLERANCE = 0.01  # share of the best metric that a larger discovery weight may cost
_SESSION_NEIGHBOR_WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)
_MIN_GAIN = 0.005  # minimum relative gain that justifies the latency of session neighbors


def choose_component_weights(network: Recommender, data: TrainingData, tasks: PredictionTasks) -> ComponentWeights:
    """Chooses both weights on validation tasks, for a network that was trained on the events up to `data.stops`."""
    discovery = choose_discovery_weight(network, data, tasks)
    apply_discovery_weight(network, discovery)
    network.session_neighbors = build_session_neighbors(data)
    chosen = ComponentWeights(discovery, choose_session_neighbor_weight(network, data, tasks))
    apply_discovery_weight(network, 1 / discovery)
    return chosen


def choose_discovery_weight(network: Recommender, data: TrainingData, tasks: PredictionTasks) -> float:
    """Returns the largest weight whose validation metric is within 1 % of the best; 1 without a history."""
    if not (network.config.history and network.config.copying):
        return 1.0
    metrics = _metrics_by_discovery_weight(network, data, tasks)
    chosen = max(weight for weight, metric in metrics.items() if metric >= (1 - _TOLERANCE) * max(metrics.values()))
    log.info("Discovery weight %g: %s", chosen, _format(metrics))
    return chosen


def choose_session_neighbor_weight(network: Recommender, data: TrainingData, tasks: PredictionTasks) -> float:
    """Returns the weight with the highest validation metric; 0 if none gains half a percent."""
    metrics = _metrics_by_session_neighbor_weight(network, data, tasks)
    best = max(metrics, key=lambda weight: metrics[weight])
    chosen = best if metrics[best] >= (1 + _MIN_GAIN) * metrics[0.0] else 0.0
    log.info("Session neighbor weight %g: %s", chosen, _format(metrics))
    return chosen


def apply_component_weights(network: Recommender, data: TrainingData, weights: ComponentWeights) -> None:
    """Applies the chosen weights to a trained network, and builds its session neighbors from all training events."""
    apply_discovery_weight(network, weights.discovery)
    if weights.session_neighbors:
        network.session_neighbors = build_session_neighbors(data._replace(stops=data.final_stops))
    else:
        network.session_neighbors = SessionNeighbors.none(network.config.num_items)
    network.config = replace(
        network.config, discovery_weight=weights.discovery, session_neighbor_weight=weights.session_neighbors
    )


@torch.no_grad()
def apply_discovery_weight(network: Recommender, weight: float) -> None:
    """Multiplies the mass of generated items and neighbors by a weight, relative to copies from the history."""
    if weight != 1:
        network.age_offset.sub_(math.log(weight))


def build_session_neighbors(data: TrainingData) -> SessionNeighbors:
    """Returns the session neighbors of the training events up to `data.stops`."""
    return SessionNeighbors.from_events(*session_events(data), len(data.counts))


def _metrics_by_discovery_weight(
    network: Recommender, data: TrainingData, tasks: PredictionTasks
) -> dict[float, float]:
    """The validation metric with each weight. Encoding the histories takes the time, and is done once."""

    def scores_by_weight(output: DecoderOutput, query: Query, matrix: Tensor) -> Iterator[Tensor]:
        logits = output.history_copy_logits
        assert logits is not None, "The discovery weight needs copy logits of a history"  # noqa: S101
        for weight in _DISCOVERY_WEIGHTS:
            weighted = output._replace(history_copy_logits=logits - math.log(weight))
            yield trained_scores(network, weighted, query, matrix)

    return _metrics_by_weight(network, data, tasks, _DISCOVERY_WEIGHTS, scores_by_weight)


def _metrics_by_session_neighbor_weight(
    network: Recommender, data: TrainingData, tasks: PredictionTasks
) -> dict[float, float]:
    """The validation metric with each weight; the network scores the items once."""

    def scores_by_weight(output: DecoderOutput, query: Query, matrix: Tensor) -> Iterator[Tensor]:
        trained, candidates = trained_scores(network, output, query, matrix), session_candidates(network, query)
        for weight in _SESSION_NEIGHBOR_WEIGHTS:
            yield add_session_neighbors(trained, candidates, weight) if weight else trained.clone()

    return _metrics_by_weight(network, data, tasks, _SESSION_NEIGHBOR_WEIGHTS, scores_by_weight)


@torch.inference_mode()
def _metrics_by_weight(
    network: Recommender,
    data: TrainingData,
    tasks: PredictionTasks,
    weights: Sequence[float],
    scores_by_weight: Callable[[DecoderOutput, Query, Tensor], Iterator[Tensor]],
) -> dict[float, float]:
    """The validation metric with each weight, from the scores [B, V] with each weight of each batch."""
    network.eval()
    matrix, timeline = network.items.matrix(), data.timeline
    ranks = {weight: np.empty(len(tasks), np.int64) for weight in weights}
    for part in iterate_batches(timeline, tasks):
        events, query = model_inputs(network, timeline, tasks[part])
        output = decode_from_start(network, events, query)
        for found, scores in zip(ranks.values(), scores_by_weight(output, query, matrix), strict=True):
            found[part] = rank_scores(scores.cpu().numpy(), timeline, tasks[part], exclude_session_items=False).ranks
    return {weight: ranking_metrics(found)[PRIMARY_METRIC] for weight, found in ranks.items()}


def _format(metrics: dict[float, float]) -> str:
    return ", ".join(f"{weight:g} gives {metric:.4f}" for weight, metric in metrics.items())
