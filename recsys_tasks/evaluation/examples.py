"""Examples of a model's recommendations for a few test users, by item title."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import numpy as np

from recsys_tasks.evaluation.protocol import PredictionTasks, RankingResult
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import FIRST_ITEM

_NUM_USERS = 6
_MAX_PAST_ITEMS, _MAX_LISTED_ITEMS = 5, 5
_HEADER = "✓ marks the next item. Searches and items without a title are left out."
_NO_EXAMPLES = "No test session of a user with an id has a next item with a title."


def format_examples(
    rank: Callable[[PredictionTasks], RankingResult], encoded: EncodedSnapshot, tasks: PredictionTasks
) -> str:
    """Returns Markdown with the past, the session and the recommended items of a fixed sample of users.

    Shows item titles only: searches and items without a title are left out, and the next item of an example has one.
    Users are sampled by a digest of their id. The id is not shown, since the file outlives a user who is forgotten.
    """
    chosen = tasks[_select_examples(encoded, tasks)]
    lists = rank(chosen).lists
    formatted = [_format_example(encoded, chosen, row, lists[row]) for row in range(len(chosen))]
    return "\n".join(["# Examples", "", _HEADER, "", *(formatted or [_NO_EXAMPLES, ""])])


def _select_examples(encoded: EncodedSnapshot, tasks: PredictionTasks) -> np.ndarray:
    """Returns the rows of `tasks` to show: the first one with a titled next item of each sampled user."""
    timeline = encoded.timeline
    titled = np.flatnonzero(_is_titled(encoded.vocabulary)[timeline.item[tasks.target]])
    user = timeline.user[tasks.first[titled]]
    first_of_each = titled[np.unique(user, return_index=True)[1]]
    user_id_of = {row: encoded.user_ids[timeline.user[tasks.first[row]]] for row in first_of_each.tolist()}
    identified = [row for row, user_id in user_id_of.items() if user_id is not None]
    identified.sort(key=lambda row: hashlib.sha256(str(user_id_of[row]).encode()).digest())
    return np.asarray(identified[:_NUM_USERS], np.int64)


def _is_titled(vocabulary: Vocabulary) -> np.ndarray:
    """Returns whether each item number [V] is an item with a title."""
    return np.asarray([False] * FIRST_ITEM + [bool(title.strip()) for title in vocabulary.titles])


def _format_example(encoded: EncodedSnapshot, tasks: PredictionTasks, row: int, listed: np.ndarray) -> str:
    timeline, first, target = encoded.timeline, int(tasks.first[row]), int(tasks.target[row])
    is_titled = _is_titled(encoded.vocabulary)
    past = timeline.item[timeline.user_start[timeline.user[first]] : first]
    session, next_item = timeline.item[first:target], int(timeline.item[target])
    recommended = listed[is_titled[listed]][:_MAX_LISTED_ITEMS].tolist()
    lines = [
        f"**{row + 1}.** before: {_join_titles(encoded, past[is_titled[past]][-_MAX_PAST_ITEMS:].tolist())}",
        f"session: {_join_titles(encoded, session[is_titled[session]].tolist())}",
        "",
        *(
            f"{position}. {_escape_title(encoded, number)}{' ✓' if number == next_item else ''}"
            for position, number in enumerate(recommended, start=1)
        ),
        "",
        f"next item: {_escape_title(encoded, next_item)}",
        "",
    ]
    return "\n".join(lines)


def _join_titles(encoded: EncodedSnapshot, items: Iterable[int]) -> str:
    return "; ".join(_escape_title(encoded, number) for number in items) or "nothing"


def _escape_title(encoded: EncodedSnapshot, number: int) -> str:
    """Returns an item's title with Markdown escaped."""
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>#|" else sign for sign in encoded.vocabulary.title(number))
