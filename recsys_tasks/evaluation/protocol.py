"""Evaluation protocol: predict a session's target item from the user's history and the session's earlier events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from recsys_tasks.evaluation.metrics import MISSED, target_ranks
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.features.sequences import Timeline, expand_ranges, session_inputs
from recsys_tasks.model.incremental import score_items
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import Events, Query
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, SEARCH

TRAINING, VALIDATION, TEST = 0, 1, 2
MAX_HISTORY_EVENTS = 512
_MAX_BATCH_HISTORY_EVENTS = 32_768
_MAX_BATCH_TASKS = 256
LIST_LENGTH = 20


@dataclass(frozen=True)
class PredictionTasks:
    """Next-item prediction tasks: indices of the first event and of the target of each session [B], first < target."""

    first: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        """Returns the number of tasks."""
        return len(self.first)

    def __getitem__(self, index: np.ndarray | slice) -> PredictionTasks:
        """Returns a subset of the tasks."""
        return PredictionTasks(self.first[index], self.target[index])


@dataclass(frozen=True)
class RankingResult:
    """Rank [B] of each target, ties against it, `MISSED` if outside the vocabulary; recommended items [B, 20]."""

    ranks: np.ndarray
    lists: np.ndarray


Scorer = Callable[[PredictionTasks], np.ndarray]
"""Scores [B, V] of all items for tasks [B]; higher is better."""


def select_prediction_tasks(encoded: EncodedSnapshot, split: int, limit: int | None = None) -> PredictionTasks:
    """Returns the sessions of a split with their last novel intent as the target.

    A target is no search and has an earlier event in its session. With a `limit`, a fixed random sample of that size.
    """
    timeline = encoded.timeline
    first = timeline.session_start[:-1]
    is_intent = (timeline.kind != EVENT_TYPE_CODES[SEARCH]) & (timeline.weight > 0)
    target = np.maximum.reduceat(np.where(is_intent, np.arange(len(timeline)), -1), first) if len(first) else first
    chosen = np.flatnonzero((encoded.split == split) & (target > first))
    if limit is not None and limit < len(chosen):
        chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:limit])
    return PredictionTasks(first[chosen], target[chosen])


def sample_session_prefixes(encoded: EncodedSnapshot, split: int) -> PredictionTasks:
    """Returns the sessions of a split with a random event after the first as the target.

    The last event of a live session is unknown. Therefore session-level predictions are evaluated at random prefixes.
    """
    timeline = encoded.timeline
    first, length = timeline.session_start[:-1], np.diff(timeline.session_start)
    has_target = np.maximum.reduceat(timeline.weight, first) > 0 if len(first) else first > 0
    chosen = np.flatnonzero((encoded.split == split) & (length > 1) & has_target)
    drawn = np.random.default_rng(0).integers(1, length[chosen])
    return PredictionTasks(first[chosen], first[chosen] + drawn)


def model_inputs(network: Recommender, timeline: Timeline, tasks: PredictionTasks) -> tuple[Events, Query]:
    """Returns the network's inputs for tasks."""
    device = network.items.bias.device
    events, query = session_inputs(timeline, tasks.first, tasks.target, MAX_HISTORY_EVENTS)
    return (
        Events(**{name: torch.from_numpy(value).to(device) for name, value in events.items()}),
        Query(**{name: torch.from_numpy(value).to(device) for name, value in query.items()}),
    )


def model_scorer(network: Recommender, timeline: Timeline) -> Scorer:
    """Returns the network as a scorer of next-item probabilities, with its present weights."""
    network.eval()
    with torch.inference_mode():
        matrix = network.items.matrix()

    @torch.inference_mode()
    def scores(tasks: PredictionTasks) -> np.ndarray:
        found: np.ndarray = (
            score_items(network, *model_inputs(network, timeline, tasks), matrix).softmax(-1).cpu().numpy()
        )
        return found

    return scores


def rank_targets(
    scorer: Scorer, timeline: Timeline, tasks: PredictionTasks, exclude_session_items: bool = False
) -> RankingResult:
    """Ranks the targets by a scorer; `exclude_session_items` excludes items of the session so far."""
    ranks, lists = np.full(len(tasks), MISSED), np.zeros((len(tasks), LIST_LENGTH), np.int64)
    for part in iterate_batches(timeline, tasks):
        found = rank_scores(scorer(tasks[part]), timeline, tasks[part], exclude_session_items)
        ranks[part], lists[part] = found.ranks, found.lists
    return RankingResult(ranks, lists)


def rank_scores(
    scores: np.ndarray, timeline: Timeline, tasks: PredictionTasks, exclude_session_items: bool
) -> RankingResult:
    """Ranks the targets of tasks [B] by scores [B, V]; overwrites the scores."""
    rows, target = np.arange(len(tasks)), timeline.item[tasks.target]
    scores[:, :FIRST_ITEM] = -np.inf
    own = scores[rows, target]
    if exclude_session_items:
        row, seen = expand_ranges(tasks.first, tasks.target - tasks.first)
        scores[row, timeline.item[seen]] = -np.inf
    lists = _top_items(scores)
    scores[rows, target] = own
    return RankingResult(np.where(target >= FIRST_ITEM, target_ranks(scores, target), MISSED), lists)


def _top_items(scores: np.ndarray) -> np.ndarray:
    """Returns the items [B, LIST_LENGTH] with the highest scores, best first, padded with 0."""
    count = min(LIST_LENGTH, scores.shape[1])
    best, items = torch.topk(torch.from_numpy(scores), count)
    listed = np.where(np.isfinite(best.numpy()), items.numpy(), 0)
    return np.pad(listed, ((0, 0), (0, LIST_LENGTH - count)))


def model_ranks(network: Recommender, timeline: Timeline, tasks: PredictionTasks) -> np.ndarray:
    """Returns the network's rank [B] of each target; the network masks impossible items itself."""
    return rank_targets(model_scorer(network, timeline), timeline, tasks).ranks


def iterate_batches(timeline: Timeline, tasks: PredictionTasks) -> Iterator[np.ndarray]:
    """Yields indices of tasks in batches of similar history length, then session length."""
    history = np.minimum(tasks.first - timeline.user_start[timeline.user[tasks.first]], MAX_HISTORY_EVENTS)
    order, at = np.lexsort((tasks.target - tasks.first, history))[::-1], 0
    while at < len(order):
        size = max(1, min(_MAX_BATCH_TASKS, _MAX_BATCH_HISTORY_EVENTS // max(1, int(history[order[at]]))))
        yield order[at : at + size]
        at += size
