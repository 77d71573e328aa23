"""Segments of the prediction tasks, for metrics that an overall mean hides."""

from __future__ import annotations

import numpy as np

from recsys_tasks.evaluation.protocol import PredictionTasks
from recsys_tasks.features.sequences import Timeline
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, SEARCH


def segment_masks(timeline: Timeline, tasks: PredictionTasks) -> dict[str, np.ndarray]:
    """Returns the membership mask [B] of each segment.

    Segments are by user (with or without an event before the session), by target (repeated for the user, first-time,
    not in training, event type) and by session (with or without a search so far).
    """
    returning = tasks.first > timeline.user_start[timeline.user[tasks.first]]
    repeated = timeline.repeats[tasks.target] > 0
    unseen = timeline.item[tasks.target] < FIRST_ITEM
    searches = np.concatenate([[0], np.cumsum(timeline.kind == EVENT_TYPE_CODES[SEARCH])])
    searched = searches[tasks.target] > searches[tasks.first]
    return {
        "new users": ~returning,
        "returning users": returning,
        "repeated targets": repeated,
        "first-time targets": ~repeated & ~unseen,
        "items not in training": unseen,
        "after a search": searched,
        "without a search": ~searched,
        **{f"target: {name}": timeline.kind[tasks.target] == code for name, code in EVENT_TYPE_CODES.items()},
    }
