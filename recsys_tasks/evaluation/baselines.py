"""What a model has to beat: counts and neighbours, fitted to the same events and asked the same questions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recsys_tasks.evaluation.protocol import Questions, Scorer
from recsys_tasks.features.sequences import Timeline
from recsys_tasks.model.neighbors import NeighbourConfig, SessionNeighbours, cosines, faded, sessions_by_items
from recsys_tasks.model.training_loop import TrainingData
from recsys_tasks.names import FIRST_ITEM, ITEM_KNN, PERSONAL, POPULARITY, RECENT_POPULARITY, VMIS_KNN
from recsys_tasks.training.recipe import session_events, training_events

_RECENT = 0.05
_SESSION_TOKENS = 10
_FADING = 0.8


def popularity(data: TrainingData) -> Scorer:
    """Share of the training events."""
    share = data.counts / max(data.counts.sum(), 1)
    return lambda asked: np.tile(share, (len(asked), 1))


def recent_popularity(data: TrainingData) -> Scorer:
    """Share of the latest twentieth of the training events; popularity among those that do not come there."""
    events = training_events(data)
    latest = events[np.argsort(data.timeline.seconds[events], kind="stable")][-max(1, int(_RECENT * len(events))) :]
    counts = np.bincount(data.timeline.item[latest], minlength=len(data.counts))
    share = counts + data.counts / (data.counts.sum() + 1)
    return lambda asked: np.tile(share, (len(asked), 1))


def personal_frequency(data: TrainingData) -> Scorer:
    """How often the user acted on an item before the session; equal ones by popularity."""
    share, timeline = data.counts / (data.counts.sum() + 1), data.timeline

    def scores(asked: Questions) -> np.ndarray:
        found = np.tile(share, (len(asked), 1))
        for row, first in enumerate(asked.first):
            past = timeline.item[timeline.user_start[timeline.user[first]] : first]
            found[row] += np.bincount(past, minlength=len(share))
        return found

    return scores


def item_neighbours(data: TrainingData) -> Scorer:
    """Item-kNN: cosine of the sessions that two items come in (Sarwar et al. 2001), summed over the session's items,
    recent ones more."""
    similar = cosines(sessions_by_items(*session_events(data), len(data.counts)))

    def scores(asked: Questions) -> np.ndarray:
        tokens = session_tokens(data.timeline, asked, _SESSION_TOKENS)
        return np.asarray((faded(tokens, _FADING, len(data.counts)) @ similar).todense())

    return scores


def session_neighbours(data: TrainingData) -> Scorer:
    """VMIS-kNN."""
    neighbours = SessionNeighbours(*session_events(data), len(data.counts), NeighbourConfig())
    last = neighbours.config.last_items

    def scores(asked: Questions) -> np.ndarray:
        return np.asarray(neighbours.scores(session_tokens(data.timeline, asked, last)).todense())

    return scores


FITS: dict[str, Callable[[TrainingData], Scorer]] = {
    POPULARITY: popularity,
    RECENT_POPULARITY: recent_popularity,
    PERSONAL: personal_frequency,
    ITEM_KNN: item_neighbours,
    VMIS_KNN: session_neighbours,
}


def session_tokens(timeline: Timeline, asked: Questions, count: int) -> np.ndarray:
    """The last known items of each session before its target [B, count], newest last, 0 where there is none."""
    index = asked.target[:, None] - np.arange(count, 0, -1)
    items = timeline.item[np.maximum(index, 0)]
    return np.where((index >= asked.first[:, None]) & (items >= FIRST_ITEM), items, 0)
