"""Overlapping sessions of one user: keeps later events of a parallel session out of the history of a target."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd


class OrderedEvents(NamedTuple):
    """Events [N] ordered by user, session and position in the session: the arguments of `build_timeline`."""

    user: np.ndarray
    session: np.ndarray
    item: np.ndarray
    kind: np.ndarray
    seconds: np.ndarray
    session_seconds: np.ndarray
    text: np.ndarray
    queries: np.ndarray
    weight: np.ndarray

    def take(self, rows: np.ndarray) -> OrderedEvents:
        """Returns the events at some rows."""
        return OrderedEvents(*(column if column is self.queries else column[rows] for column in self))


def replace_overlapping_sessions(
    events: OrderedEvents, num_users: int, test_start: float
) -> tuple[OrderedEvents, list[int]]:
    """Returns events in which no target has a later event in its history, and the user that each copy is of.

    Sessions are ordered by their start. A session that begins before an earlier one of its user ends would therefore
    see later events of that one in its history. Its events get weight 0: they are no targets. For each such session of
    the test part, a copy is appended as a user of its own, numbered from `num_users` on, whose history is exactly what
    the user had done before the session began.

    Args:
        events: ordered by user, session start, session and position.
        num_users: number of users.
        test_start: start of the test part, in seconds since 1970.
    """
    starts = np.append(np.flatnonzero(np.diff(events.session, prepend=-1)), len(events.session))
    overlapping = _overlapping_sessions(events, starts[:-1])
    weight = events.weight.copy()
    copies: list[OrderedEvents] = []
    copied_users: list[int] = []
    next_session = int(events.session.max(initial=-1)) + 1
    for session in overlapping.tolist():
        begin, end = int(starts[session]), int(starts[session + 1])
        weight[begin:end] = 0.0
        if events.session_seconds[begin] >= test_start:
            copies.append(_causal_copy(events, begin, end, num_users + len(copies), next_session))
            copied_users.append(int(events.user[begin]))
            next_session = int(copies[-1].session[-1]) + 1
    parts = [events._replace(weight=weight), *copies]
    columns = (
        np.concatenate(values) for values in zip(*(part._replace(queries=weight[:0]) for part in parts), strict=True)
    )
    return OrderedEvents(*columns)._replace(queries=events.queries), copied_users


def _overlapping_sessions(events: OrderedEvents, first: np.ndarray) -> np.ndarray:
    """Returns the sessions that begin before the end of an earlier one of the same user."""
    if not len(first):
        return first
    user = events.user[first]
    latest_end = pd.Series(np.maximum.reduceat(events.seconds, first)).groupby(user).cummax()
    earlier_end = latest_end.groupby(user).shift(fill_value=-np.inf).to_numpy()
    return np.flatnonzero(earlier_end > events.session_seconds[first])


def _causal_copy(events: OrderedEvents, begin: int, end: int, user: int, session: int) -> OrderedEvents:
    """Returns a session's events [begin, end) after the user's events before its start, in the order of time.

    Args:
        user, session: number of the copy's user and of its first session.
    """
    past = np.arange(np.searchsorted(events.user, events.user[begin]), begin)
    past = past[events.seconds[past] <= events.session_seconds[begin]]
    rows = np.concatenate([past[np.argsort(events.seconds[past], kind="stable")], np.arange(begin, end)])
    copied = events.take(rows)
    opens_session = np.diff(copied.session, prepend=copied.session[0]) != 0
    return copied._replace(
        user=np.full(len(rows), user),
        session=session + np.cumsum(opens_session),
        weight=np.where(np.arange(len(rows)) < len(past), 0.0, copied.weight),
    )
