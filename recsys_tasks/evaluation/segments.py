"""Segments of the prediction tasks, for metrics that an overall mean hides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recsys_tasks.features.sequences import Timeline
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, SEARCH

if TYPE_CHECKING:  # imports torch, which readers of segment names do not need
    from recsys_tasks.evaluation.protocol import PredictionTasks

MIN_FREQUENT_EVENTS = 10  # training events of an item that is not rare
SEGMENTS = (
    "new users",
    "returning users",
    "repeated targets",
    "first-time targets",
    "items not in training",
    "rare items",
    "frequent items",
    "after a search",
    "without a search",
    *(f"target: {name}" for name in EVENT_TYPE_CODES),
)
SEGMENT_METRICS = ("recall_20", "ndcg_20", "mrr_20")
QUESTIONS = "questions"  # number of tasks, among the metrics of a model


def segment_metric(segment: str, metric: str) -> str:
    """Returns the name of a segment's metric, as in `first-time targets: mrr_20`; that of all tasks has no segment."""
    return f"{segment}: {metric}" if segment else metric


def segment_masks(timeline: Timeline, tasks: PredictionTasks, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the membership mask [B] of each segment.

    Four groups of segments contain every task exactly once:

    * by user: new users have no event before the session, returning users have;
    * by novelty of the target for its user: a first-time target is an item that the user never acted on before, in an
      earlier session or in this one; every other target is repeated;
    * by training events of the target: none ("items not in training", which includes items outside the vocabulary),
      1 to 9 ("rare items"), or more ("frequent items");
    * by session: with or without a search before the target.

    Further segments are by event type of the target.

    Args:
        timeline: all events.
        tasks: B prediction tasks.
        counts: training count of each item [V]; those of padding and of the unknown item are ignored.
    """
    returning = tasks.first > timeline.user_start[timeline.user[tasks.first]]
    repeated = timeline.repeats[tasks.target] > 0
    item = timeline.item[tasks.target]
    events = np.where(item < FIRST_ITEM, 0, counts[item])
    searches = np.concatenate([[0], np.cumsum(timeline.kind == EVENT_TYPE_CODES[SEARCH])])
    searched = searches[tasks.target] > searches[tasks.first]
    masks = (
        ~returning,
        returning,
        repeated,
        ~repeated,
        events == 0,
        (events > 0) & (events < MIN_FREQUENT_EVENTS),
        events >= MIN_FREQUENT_EVENTS,
        searched,
        ~searched,
        *(timeline.kind[tasks.target] == code for code in EVENT_TYPE_CODES.values()),
    )
    return dict(zip(SEGMENTS, masks, strict=True))
