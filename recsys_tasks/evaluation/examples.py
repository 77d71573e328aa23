"""Examples of a model's recommendations for a few test users, by item title."""

from __future__ import annotations

import hashlib

import numpy as np

from recsys_tasks.evaluation.protocol import PredictionTasks, Scorer, rank_targets
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.names import FIRST_ITEM

_NUM_USERS = 6
_MAX_PAST_ITEMS, _MAX_LISTED_ITEMS = 5, 5


def format_examples(
    scorer: Scorer, encoded: EncodedSnapshot, tasks: PredictionTasks, exclude_session_items: bool
) -> str:
    """Returns Markdown with the past, the session and the recommended items of a fixed sample of users.

    Users are sampled by a digest of their id. The id is not shown, since the file outlives a user who is forgotten.
    """
    chosen = tasks[_select_users(encoded, tasks)]
    lists = rank_targets(scorer, encoded.timeline, chosen, exclude_session_items).lists
    formatted = [_format_example(encoded, chosen, row, lists[row]) for row in range(len(chosen))]
    return "\n".join(["# Examples", "", "✓ marks the next item.", "", *formatted])


def _select_users(encoded: EncodedSnapshot, tasks: PredictionTasks) -> np.ndarray:
    user = encoded.timeline.user[tasks.first]
    first_of_each = np.unique(user, return_index=True)[1]
    named = [row for row in first_of_each.tolist() if encoded.user_ids[user[row]] is not None]
    named.sort(key=lambda row: hashlib.sha256(str(encoded.user_ids[user[row]]).encode()).digest())
    return np.asarray(named[:_NUM_USERS], np.int64)


def _format_example(encoded: EncodedSnapshot, tasks: PredictionTasks, row: int, listed: np.ndarray) -> str:
    timeline, first, target = encoded.timeline, int(tasks.first[row]), int(tasks.target[row])
    begin = max(int(timeline.user_start[timeline.user[first]]), first - _MAX_PAST_ITEMS)
    wanted = int(timeline.item[target])
    lines = [
        f"**{row + 1}.** before: {_names(encoded, timeline.item[begin:first])}",
        f"session: {_names(encoded, timeline.item[first:target])}",
        "",
        *(
            f"{position}. {_name(encoded, number)}{' ✓' if number == wanted else ''}"
            for position, number in enumerate(listed[:_MAX_LISTED_ITEMS].tolist(), start=1)
        ),
        "",
        f"next item: {_name(encoded, wanted)}",
        "",
    ]
    return "\n".join(lines)


def _names(encoded: EncodedSnapshot, items: np.ndarray) -> str:
    return "; ".join(_name(encoded, number) for number in items.tolist()) or "nothing"


def _name(encoded: EncodedSnapshot, number: int) -> str:
    """Returns an item title with Markdown escaped."""
    if number < FIRST_ITEM:
        return "(item outside the vocabulary, or a search)"
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>#|" else sign for sign in encoded.vocabulary.title(number))
