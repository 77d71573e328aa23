"""Weight of discovery: how much generated items and neighbors count beside copied ones, chosen on validation.

The mixture is trained for likelihood. Lists are judged by rank, where a copied item that is hardly more probable than
many new ones displaces them all. Within the spread of validation, a larger weight gives lists with more new items at no
cost.
"""

from __future__ import annotations

import logging
import math

import numpy as np
import torch

from recsys_tasks.evaluation.gate import PRIMARY_METRIC
from recsys_tasks.evaluation.metrics import ranking_metrics
from recsys_tasks.evaluation.protocol import PredictionTasks, iterate_batches, model_inputs, rank_scores
from recsys_tasks.features.sequences import Timeline
from recsys_tasks.model.incremental import decode_from_start, output_scores
from recsys_tasks.model.network import Recommender

log = logging.getLogger(__name__)
_WEIGHTS = (1.0, 1.5, 2.0, 3.0)
_TOLERANCE = 0.01  # share of the best metric that a larger weight may cost


def choose_discovery_weight(network: Recommender, timeline: Timeline, tasks: PredictionTasks) -> float:
    """The largest weight whose validation metric is within 1 % of the best; 1 without a history to copy from."""
    if not (network.config.history and network.config.copying):
        return 1.0
    ranks = _ranks_by_weight(network, timeline, tasks)
    metrics = {weight: ranking_metrics(found)[PRIMARY_METRIC] for weight, found in ranks.items()}
    chosen = max(weight for weight, metric in metrics.items() if metric >= (1 - _TOLERANCE) * max(metrics.values()))
    log.info("Discovery weight %g: %s", chosen, ", ".join(f"{w:g} gives {m:.4f}" for w, m in metrics.items()))
    return chosen


@torch.inference_mode()
def _ranks_by_weight(network: Recommender, timeline: Timeline, tasks: PredictionTasks) -> dict[float, np.ndarray]:
    """Rank [B] of each target with each weight. Encoding the histories takes the time, and is done once."""
    network.eval()
    matrix = network.items.matrix()
    ranks = {weight: np.empty(len(tasks), np.int64) for weight in _WEIGHTS}
    for part in iterate_batches(timeline, tasks):
        events, query = model_inputs(network, timeline, tasks[part])
        output = decode_from_start(network, events, query)
        assert output.history_copy_logits is not None, "Only with a history there is a weight"  # noqa: S101
        for weight, found in ranks.items():
            weighted = output._replace(history_copy_logits=output.history_copy_logits - math.log(weight))
            scores = output_scores(network, weighted, query, matrix).cpu().numpy()
            found[part] = rank_scores(scores, timeline, tasks[part], exclude_session_items=False).ranks
    return ranks


@torch.no_grad()
def apply_discovery_weight(network: Recommender, weight: float) -> None:
    """Multiplies the mass of generated items and neighbors by a weight, relative to copies from the history."""
    if weight != 1:
        network.age_offset.sub_(math.log(weight))
