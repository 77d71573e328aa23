"""Action histories of simulated households, and the recurring needs in them.

Letters in shapes: N actions, R needs (categories that the household came for), C categories.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

SECONDS_PER_DAY = 86_400.0
_DEFAULT_INTERVAL = 30 * SECONDS_PER_DAY  # counts as one interval of a shop
_MIN_INTERVAL = 3_600.0
_RECENT_SECONDS = 60 * SECONDS_PER_DAY
_SHRINKAGE_INTERVALS = 1.0  # the category's usual interval counts as this many of the household's own
_CATEGORY_SHRINKAGE_INTERVALS = 5.0  # the shop's, as this many of the category's


class History(NamedTuple):
    """A household's actions, oldest first: numbers of items, categories and sessions, seconds since 1970, each [N].

    A household's session numbers rise with time.
    """

    item: np.ndarray
    category: np.ndarray
    session: np.ndarray
    seconds: np.ndarray

    def before(self, seconds: float) -> History:
        """Returns the actions before a time."""
        end = int(np.searchsorted(self.seconds, seconds))
        return History(*(column[:end] for column in self))

    def append(self, items: np.ndarray, categories: np.ndarray, seconds: float) -> History:
        """Returns the history followed by a session with some items [M] at one time."""
        session = int(self.session.max(initial=-1)) + 1
        added = (items, categories, np.full(len(items), session), np.full(len(items), seconds))
        return History(*(np.concatenate(columns) for columns in zip(self, added, strict=True)))

    def session_categories(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the distinct categories of each session and the session of each, both [N]."""
        size = int(self.category.max(initial=-1)) + 1
        key = np.unique(self.session * size + self.category)
        return key % max(size, 1), key // max(size, 1)


def join_histories(histories: Iterable[History]) -> History:
    """Returns several histories as one, in this order, with different numbers for different sessions."""
    nothing = np.zeros(0, np.int64)
    parts, offset = [History(nothing, nothing, nothing, nothing.astype(float))], 0
    for history in histories:
        parts.append(history._replace(session=history.session + offset))
        offset += int(history.session.max(initial=-1)) + 1
    return History(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class Needs(NamedTuple):
    """Recurring needs of a household: its categories, each [R].

    Attributes:
        category: its number.
        visits: number of sessions with it.
        first, last: seconds since 1970 of the first and of the latest such session.
        recent: number of those sessions in the 60 days before the present.
    """

    category: np.ndarray
    visits: np.ndarray
    first: np.ndarray
    last: np.ndarray
    recent: np.ndarray

    def intervals(self, usual_interval: np.ndarray) -> np.ndarray:
        """Returns the typical seconds between purchases [R], shrunk to the usual interval of the category [C]."""
        own = self.last - self.first + _SHRINKAGE_INTERVALS * usual_interval[self.category]
        intervals: np.ndarray = np.maximum(own / (self.visits - 1 + _SHRINKAGE_INTERVALS), _MIN_INTERVAL)
        return intervals


def find_needs(history: History, now: float | None = None) -> Needs:
    """Returns the needs of a household, one for each category of its history.

    Args:
        history: actions before the present.
        now: the present, seconds since 1970; default: the latest action.
    """
    num_sessions = int(history.session.max(initial=-1)) + 1
    # The key sorts by category and then by session, which is by time.
    _, row = np.unique(history.category * num_sessions + history.session, return_index=True)
    category, seconds = history.category[row], history.seconds[row]
    start = np.flatnonzero(np.diff(category, prepend=-1))
    end = np.append(start[1:], len(category))
    since = (seconds.max(initial=0.0) if now is None else now) - _RECENT_SECONDS
    recent = np.add.reduceat(seconds >= since, start, dtype=np.int64) if len(start) else start
    return Needs(category[start], end - start, seconds[start], seconds[end - 1], recent)


def usual_intervals(needs: list[Needs], num_categories: int) -> np.ndarray:
    """Returns the mean seconds between purchases by category [C], shrunk to the shop's mean."""
    spans, counts = np.zeros(num_categories), np.zeros(num_categories)
    for own in needs:
        spans[own.category] += own.last - own.first
        counts[own.category] += own.visits - 1
    of_shop = (spans.sum() + _DEFAULT_INTERVAL) / (counts.sum() + 1)
    shrunk: np.ndarray = (spans + _CATEGORY_SHRINKAGE_INTERVALS * of_shop) / (counts + _CATEGORY_SHRINKAGE_INTERVALS)
    return shrunk
