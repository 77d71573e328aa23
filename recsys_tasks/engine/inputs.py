"""What the graphs read of one user's history and session: as `features.sequences` makes it for many at once, in less
time. The part of a history is made once and kept.

Letters in shapes: N events, H events of a history (at least 1), L tokens of a session.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recsys_tasks.features.sequences import (
    GAP_BUCKETS,
    SECONDS_PER_DAY,
    Arrays,
    build_timeline,
    gap_bucket,
    gap_bucket_of,
    hour_of,
    weekday_of,
)

CODES = ("kind", "gap", "place", "hour", "weekday", "since")
"""What a token says beside its item, in the order in which the decoder reads it."""


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


class Did(NamedTuple):
    """One thing that a session did: the item's number, its kind, seconds since 1970, and words of a search [A]."""

    item: int
    kind: int
    seconds: float
    words: np.ndarray


class Tokens(NamedTuple):
    """What the decoder reads of a session, the beginning (0) first: columns [4, L] of items, kinds, buckets of gaps and
    places; words [L, A] of searches."""

    columns: np.ndarray
    words: np.ndarray

    def inputs(self, begin: int, moment: np.ndarray) -> Arrays:
        """The decoder's inputs [1, L - begin] of those from a place on, of a session that began at a moment."""
        columns = self.columns[:, begin:]
        codes = np.empty((1, columns.shape[1], len(CODES)), np.int64)
        codes[0, :, :3] = columns[1:].T
        codes[0, :, 3:] = moment
        return {"place": columns[None, 3], "codes": codes}

    def first(self, count: int) -> Tokens:
        """So many of them."""
        return Tokens(self.columns[:, :count], self.words[:count])

    def and_then(self, later: Sequence[Did], before: float | None) -> Tokens:
        """These and what the session did after that, oldest first; `before` is when the last thing was done."""
        rows = []
        for place, (item, kind, seconds, _) in enumerate(later, start=len(self.words)):
            gap = -1.0 if before is None else max(seconds - before, 0.0)
            rows.append((item, kind, gap_bucket_of(gap), place))
            before = seconds
        columns = np.asarray(rows, np.int64).reshape(-1, 4).T
        words = [did.words for did in later]
        return Tokens(
            np.concatenate([self.columns, columns], 1), np.concatenate([self.words, words]) if words else self.words
        )


def beginning(words: int) -> Tokens:
    """Tokens of a session that did nothing yet, searches of which have so many words."""
    return Tokens(np.zeros((4, 1), np.int64), np.zeros((1, words), np.int64))


class Moment(NamedTuple):
    """What stays the same as long as a session goes on: the decoder's inputs of ages of the history's events, as places
    in the curves of copying [1, H], and of the days since the history's last event [1]; and the last of its `CODES`."""

    inputs: Arrays
    codes: np.ndarray

    @classmethod
    def of(cls, past: History, kept: Arrays, now: float) -> Moment:
        """Of a session that began at a time.

        Args:
            past: the history; kept: what `history_inputs` made of it.
            now: when the session began.
        """
        last = float(past.seconds[-1]) if len(past.seconds) else None
        seconds = np.full((1, 1), now) if last is None else past.seconds[None]
        ages = gap_bucket(np.maximum(now - seconds, 0.0)) + GAP_BUCKETS * kept["is_last"]
        days = np.asarray([0.0 if last is None else (now - last) / SECONDS_PER_DAY], np.float32)
        moment = np.asarray([now])
        since = gap_bucket_of(-1.0 if last is None else max(now - last, 0.0))
        codes = np.asarray([hour_of(moment)[0], weekday_of(moment)[0], since])
        return cls({"ages": ages, "days": days}, codes)
