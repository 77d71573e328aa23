"""What the graphs read of one user's history and session: as `features.sequences` makes it for many at once, in less
time. The part of a history is made once and kept.

Letters in shapes: N events, H events of a history (at least 1), L tokens of a session.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys_tasks.features.sequences import (
    MAX_TOKENS,
    SECONDS_PER_DAY,
    Arrays,
    build_timeline,
    gap_bucket,
    hour_of,
    weekday_of,
)


class History(NamedTuple):
    """Events, oldest first: item numbers [N], kinds [N], seconds since 1970 [N], words of searches [N, A]."""

    item: np.ndarray
    kind: np.ndarray
    seconds: np.ndarray
    words: np.ndarray

    def up_to(self, end: int, most: int) -> History:
        """The last ones before a place."""
        return History(*(column[max(0, end - most) : end] for column in self))


def joined(*parts: History) -> History:
    """Some events after others."""
    item, kind, seconds, words = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return History(item.astype(np.int64), kind.astype(np.int64), seconds, words.astype(np.int64))


def history_inputs(past: History) -> Arrays:
    """What does not change with the session: the encoder's inputs [1, H], days counted from the last event, and
    whether an event is the last with its item. Without an event there is one of padding."""
    count = len(past.item)
    if not count:
        nothing = np.zeros((1, 1), np.int64)
        names = ("item", "kind", "hour", "weekday", "gap", "repeats", "recurrence", "is_last")
        return dict.fromkeys(names, nothing) | {"days": np.zeros((1, 1), np.float32), "words": past.words[None]}
    seconds = past.seconds.astype(np.float64)
    timeline = build_timeline(np.zeros(count, np.int64), np.arange(count), past.item, past.kind, seconds, seconds)
    columns = {
        "item": past.item,
        "kind": past.kind,
        "hour": hour_of(seconds),
        "weekday": weekday_of(seconds),
        "gap": timeline.gap,
        "repeats": timeline.repeats,
        "recurrence": timeline.recurrence,
        "is_last": (timeline.next_same == count).astype(np.int64),
        "days": ((seconds - seconds[-1]) / SECONDS_PER_DAY).astype(np.float32),
        "words": past.words,
    }
    return {name: values[None] for name, values in columns.items()}


def session_inputs(past: History, kept: Arrays, session: History, now: float) -> Arrays:
    """The decoder's inputs of a session that began at a time: tokens [1, L], the beginning (0) first, ages of the
    history's events [1, H].

    Args:
        past: the history; kept: what `history_inputs` made of it.
        session: its events, oldest first.
        now: when it began.
    """
    last = past.seconds[-1:]  # of the history, if there is one
    before = np.concatenate([last, session.seconds])
    gaps = np.full(len(session.item), -1.0)
    gaps[len(gaps) - len(before) + 1 :] = np.maximum(np.diff(before), 0.0)
    recent = slice(max(0, len(gaps) - MAX_TOKENS + 1), None)
    count = len(gaps[recent])
    tokens = np.zeros((3, count + 1), np.int64)
    tokens[:, 1:] = session.item[recent], session.kind[recent], gap_bucket(gaps[recent])
    moment = np.asarray([now])
    seconds = past.seconds[None] if len(last) else moment[None]
    return {
        "history": kept["item"],
        "age_bucket": gap_bucket(np.maximum(now - seconds, 0.0)),
        "is_last": kept["is_last"],
        "tokens": tokens[None, 0],
        "token_kinds": tokens[None, 1],
        "token_gaps": tokens[None, 2],
        "token_words": np.concatenate([np.zeros((1, session.words.shape[1]), np.int64), session.words[recent]])[None],
        "length": np.asarray([count + 1]),
        "hour": hour_of(moment),
        "weekday": weekday_of(moment),
        "session_gap": gap_bucket(np.maximum(moment - last, 0.0) if len(last) else np.full(1, -1.0)),
        "days": kept["days"] + np.float32((last[0] - now) / SECONDS_PER_DAY if len(last) else 0.0),
    }
