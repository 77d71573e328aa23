"""Parts of the questions that a mean over all of them hides."""

from __future__ import annotations

import numpy as np

from recsys_tasks.evaluation.protocol import Questions
from recsys_tasks.features.sequences import Timeline
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, SEARCH


def segments(timeline: Timeline, asked: Questions) -> dict[str, np.ndarray]:
    """Which questions [B] belong to each segment.

    Segments are by the user (with or without an event before the session), by the target (acted on before by the user
    or not, never seen in training, its event type) and by the session (with or without a search so far).
    """
    returning = asked.first > timeline.user_start[timeline.user[asked.first]]
    repeated = timeline.repeats[asked.target] > 0
    unseen = timeline.item[asked.target] < FIRST_ITEM
    searches = np.concatenate([[0], np.cumsum(timeline.kind == EVENT_TYPE_CODES[SEARCH])])
    searched = searches[asked.target] > searches[asked.first]
    return {
        "new users": ~returning,
        "returning users": returning,
        "repeated targets": repeated,
        "first-time targets": ~repeated & ~unseen,
        "items not in training": unseen,
        "after a search": searched,
        "without a search": ~searched,
        **{f"target: {name}": timeline.kind[asked.target] == code for name, code in EVENT_TYPE_CODES.items()},
    }
