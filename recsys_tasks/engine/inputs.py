"""Encoder and decoder inputs of one history and session.

Same values as `features.sequences` builds in batches, at lower latency. History inputs are built once and cached.

Letters in shapes: N events, H history events (at least 1), L session tokens, A words of a query, C token features.
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
    day_of_week,
    gap_bucket,
    hour_of_day,
    scalar_gap_bucket,
)

TOKEN_FEATURES = ("kind", "gap", "place", "hour", "weekday", "since")
"""Categorical features of a token beside its item, in the order of the decoder's input `codes`."""


class History(NamedTuple):
    """Events, oldest first: item numbers [N], kinds [N], seconds since 1970 [N], query words [N, A]."""

    item: np.ndarray
    kind: np.ndarray
    seconds: np.ndarray
    words: np.ndarray

    def first(self, count: int) -> History:
        """The first `count` events."""
        return History(*(column[:count] for column in self))

    def last(self, count: int) -> History:
        """The last `count` events."""
        return History(*(column[-count:] for column in self))


def concatenate(*histories: History) -> History:
    """Concatenates histories."""
    item, kind, seconds, words = (np.concatenate(columns) for columns in zip(*histories, strict=True))
    return History(item.astype(np.int64), kind.astype(np.int64), seconds, words.astype(np.int64))


def history_inputs(history: History, max_events: int) -> Arrays:
    """Returns the encoder's inputs [1, H] of the last `max_events` events, which do not depend on the session.

    Repetitions are counted over the whole history. `days` counts from the last event; `is_last` marks the last event
    with its item. An empty history gives one padding event.
    """
    count = len(history.item)
    if not count:
        zeros = np.zeros((1, 1), np.int64)
        names = ("item", "kind", "hour", "weekday", "gap", "repeats", "recurrence", "is_last")
        return dict.fromkeys(names, zeros) | {"days": np.zeros((1, 1), np.float32), "words": history.words[None]}
    seconds = history.seconds.astype(np.float64)
    timeline = build_timeline(np.zeros(count, np.int64), np.arange(count), history.item, history.kind, seconds, seconds)
    columns = {
        "item": history.item,
        "kind": history.kind,
        "hour": hour_of_day(seconds),
        "weekday": day_of_week(seconds),
        "gap": timeline.gap,
        "repeats": timeline.repeats,
        "recurrence": timeline.recurrence,
        "is_last": (timeline.next_same == count).astype(np.int64),
        "days": ((seconds - seconds[-1]) / SECONDS_PER_DAY).astype(np.float32),
        "words": history.words,
    }
    return {name: values[None, -max_events:] for name, values in columns.items()}


class SessionEvent(NamedTuple):
    """One event of a session: item number, kind, seconds since 1970, query words [A]."""

    item: int
    kind: int
    seconds: float
    words: np.ndarray


class Tokens(NamedTuple):
    """Decoder tokens of a session, the start token (0) first: columns [4, L] of items, kinds, gap buckets and
    positions; query words [L, A]."""

    columns: np.ndarray
    words: np.ndarray

    def inputs(self, start: int, context: np.ndarray) -> Arrays:
        """Returns the decoder's inputs [1, L - start] from a token on.

        Args:
            start: index of the first token.
            context: features that all tokens of the session share, see `SessionContext`.
        """
        columns = self.columns[:, start:]
        codes = np.empty((1, columns.shape[1], len(TOKEN_FEATURES)), np.int64)
        codes[0, :, :3] = columns[1:].T
        codes[0, :, 3:] = context
        return {"place": columns[None, 3], "codes": codes}

    def first(self, count: int) -> Tokens:
        """The first `count` tokens."""
        return Tokens(self.columns[:, :count], self.words[:count])

    def append(self, events: Sequence[SessionEvent], previous_seconds: float | None) -> Tokens:
        """Returns these tokens followed by those of later events, oldest first.

        Args:
            events: of the session.
            previous_seconds: time of the event before them; None if there is none.
        """
        rows = []
        for position, (item, kind, seconds, _) in enumerate(events, start=len(self.words)):
            gap = -1.0 if previous_seconds is None else max(seconds - previous_seconds, 0.0)
            rows.append((item, kind, scalar_gap_bucket(gap), position))
            previous_seconds = seconds
        columns = np.asarray(rows, np.int64).reshape(-1, 4).T
        words = [event.words for event in events]
        return Tokens(
            np.concatenate([self.columns, columns], 1), np.concatenate([self.words, words]) if words else self.words
        )


def start_tokens(num_words: int) -> Tokens:
    """Tokens of an empty session: the start token, with `num_words` query words."""
    return Tokens(np.zeros((4, 1), np.int64), np.zeros((1, num_words), np.int64))


class SessionContext(NamedTuple):
    """What is constant during a session: decoder inputs and shared token features.

    Attributes:
        inputs: `ages` [1, H], buckets of the history events' ages for the copy scores; `days` [1], days since the last
            history event.
        features: hour, weekday and gap since the history, the last three of `TOKEN_FEATURES`.
    """

    inputs: Arrays
    features: np.ndarray

    @classmethod
    def from_history(cls, history: History, inputs: Arrays, now: float) -> SessionContext:
        """Returns the context of a session.

        Args:
            history: events before the session.
            inputs: `history_inputs` of it.
            now: start of the session, seconds since 1970.
        """
        last = float(history.seconds[-1]) if len(history.seconds) else None
        seconds = np.full((1, 1), now) if last is None else history.seconds[None]
        ages = gap_bucket(np.maximum(now - seconds, 0.0)) + GAP_BUCKETS * inputs["is_last"]
        days = np.asarray([0.0 if last is None else (now - last) / SECONDS_PER_DAY], np.float32)
        start = np.asarray([now])
        since = scalar_gap_bucket(-1.0 if last is None else max(now - last, 0.0))
        features = np.asarray([hour_of_day(start)[0], day_of_week(start)[0], since])
        return cls({"ages": ages, "days": days}, features)
