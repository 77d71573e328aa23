"""Baseline scorers: popularity, personal frequency and kNN, fitted to the training events."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recsys_tasks.evaluation.protocol import PredictionTasks, Scorer
from recsys_tasks.features.sequences import Timeline
from recsys_tasks.model.neighbors import (
    NeighborConfig,
    SessionNeighbors,
    decayed_item_weights,
    item_cosines,
    session_item_matrix,
)
from recsys_tasks.model.training_loop import TrainingData
from recsys_tasks.names import FIRST_ITEM, ITEM_KNN, PERSONAL_FREQUENCY, POPULARITY, RECENT_POPULARITY, VMIS_KNN
from recsys_tasks.training.recipe import session_events, training_events

_RECENT_FRACTION = 0.05
_MAX_SESSION_ITEMS = 10
_ITEM_DECAY = 0.8


def fit_popularity(data: TrainingData) -> Scorer:
    """Returns a scorer by share of the training events."""
    share = data.counts / max(data.counts.sum(), 1)
    return lambda tasks: np.tile(share, (len(tasks), 1))


def fit_recent_popularity(data: TrainingData) -> Scorer:
    """Returns a scorer by count in the latest 5 % of the training events; overall popularity breaks ties."""
    events = training_events(data)
    latest = events[np.argsort(data.timeline.seconds[events], kind="stable")][
        -max(1, int(_RECENT_FRACTION * len(events))) :
    ]
    counts = np.bincount(data.timeline.item[latest], minlength=len(data.counts))
    share = counts + data.counts / (data.counts.sum() + 1)
    return lambda tasks: np.tile(share, (len(tasks), 1))


def fit_personal_frequency(data: TrainingData) -> Scorer:
    """Returns a scorer by the user's number of actions on an item before the session; popularity breaks ties."""
    share, timeline = data.counts / (data.counts.sum() + 1), data.timeline

    def scores(tasks: PredictionTasks) -> np.ndarray:
        found = np.tile(share, (len(tasks), 1))
        for row, first in enumerate(tasks.first):
            past = timeline.item[timeline.user_start[timeline.user[first]] : first]
            found[row] += np.bincount(past, minlength=len(share))
        return found

    return scores


def fit_item_knn(data: TrainingData) -> Scorer:
    """Returns an item-kNN scorer: cosine similarity of items by session (Sarwar et al. 2001).

    Similarities are summed over the session's items with a decay that favors recent ones.
    """
    similar = item_cosines(session_item_matrix(*session_events(data), len(data.counts)))

    def scores(tasks: PredictionTasks) -> np.ndarray:
        tokens = last_session_items(data.timeline, tasks, _MAX_SESSION_ITEMS)
        return np.asarray((decayed_item_weights(tokens, _ITEM_DECAY, len(data.counts)) @ similar).todense())

    return scores


def fit_vmis_knn(data: TrainingData) -> Scorer:
    """Returns a VMIS-kNN scorer."""
    neighbors = SessionNeighbors(*session_events(data), len(data.counts), NeighborConfig())
    last = neighbors.config.max_session_items

    def scores(tasks: PredictionTasks) -> np.ndarray:
        return np.asarray(neighbors.scores(last_session_items(data.timeline, tasks, last)).todense())

    return scores


BASELINE_FITTERS: dict[str, Callable[[TrainingData], Scorer]] = {
    POPULARITY: fit_popularity,
    RECENT_POPULARITY: fit_recent_popularity,
    PERSONAL_FREQUENCY: fit_personal_frequency,
    ITEM_KNN: fit_item_knn,
    VMIS_KNN: fit_vmis_knn,
}


def last_session_items(timeline: Timeline, tasks: PredictionTasks, count: int) -> np.ndarray:
    """Returns the last known items of each session before its target [B, count], newest last, padded with 0."""
    index = tasks.target[:, None] - np.arange(count, 0, -1)
    items = timeline.item[np.maximum(index, 0)]
    return np.where((index >= tasks.first[:, None]) & (items >= FIRST_ITEM), items, 0)
