"""What a model recommends to some people of the test, in the names of products."""

from __future__ import annotations

import hashlib

import numpy as np

from recsys_tasks.evaluation.protocol import Questions, Scorer, answer
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.names import FIRST_ITEM

_PEOPLE = 6
_PAST, _SHOWN = 5, 5


def examples(scorer: Scorer, encoded: EncodedSnapshot, asked: Questions, skip_session: bool) -> str:
    """Markdown of what the same users see whenever they are among the questions: their past, their session, the list.

    Users are chosen by a digest of their id, which is not shown: what is kept here outlives a user who is forgotten.
    """
    chosen = asked[_same_people(encoded, asked)]
    lists = answer(scorer, encoded.timeline, chosen, skip_session).lists
    told = [_told(encoded, chosen, row, lists[row]) for row in range(len(chosen))]
    return "\n".join(["# Examples", "", "✓ marks what came next.", "", *told])


def _same_people(encoded: EncodedSnapshot, asked: Questions) -> np.ndarray:
    user = encoded.timeline.user[asked.first]
    first_of_each = np.unique(user, return_index=True)[1]
    named = [row for row in first_of_each.tolist() if encoded.user_ids[user[row]] is not None]
    named.sort(key=lambda row: hashlib.sha256(str(encoded.user_ids[user[row]]).encode()).digest())
    return np.asarray(named[:_PEOPLE], np.int64)


def _told(encoded: EncodedSnapshot, asked: Questions, row: int, listed: np.ndarray) -> str:
    timeline, first, target = encoded.timeline, int(asked.first[row]), int(asked.target[row])
    begin = max(int(timeline.user_start[timeline.user[first]]), first - _PAST)
    wanted = int(timeline.item[target])
    lines = [
        f"**{row + 1}.** before: {_names(encoded, timeline.item[begin:first])}",
        f"session: {_names(encoded, timeline.item[first:target])}",
        "",
        *(
            f"{place}. {_name(encoded, number)}{' ✓' if number == wanted else ''}"
            for place, number in enumerate(listed[:_SHOWN].tolist(), start=1)
        ),
        "",
        f"came next: {_name(encoded, wanted)}",
        "",
    ]
    return "\n".join(lines)


def _names(encoded: EncodedSnapshot, items: np.ndarray) -> str:
    return "; ".join(_name(encoded, number) for number in items.tolist()) or "nothing"


def _name(encoded: EncodedSnapshot, number: int) -> str:
    """A title in which nothing is Markdown."""
    if number < FIRST_ITEM:
        return "(an item that is not in the vocabulary, or a search)"
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>#|" else sign for sign in encoded.vocabulary.title(number))
