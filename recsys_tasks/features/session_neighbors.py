"""Session neighbors: the past sessions that are nearest to the current one, and the items in them.

VMIS-kNN (Kersbergen et al. 2022, Serenade). Evaluation and serving share this code.
Letters in shapes: V items in the vocabulary, S past sessions, E items of past sessions, F entries of the sessions per
item, T tokens of a session, C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from recsys_tasks.features.sequences import expand_ranges
from recsys_tasks.names import FIRST_ITEM

SESSION_FILES = (
    "session_starts.npy",
    "session_items.npy",
    "item_session_starts.npy",
    "item_sessions.npy",
    "inverse_frequencies.npy",
)


class SessionNeighborConfig(NamedTuple):
    """Parameters of VMIS-kNN.

    Attributes:
        sessions_per_item: number of latest sessions considered for each item.
        num_neighbors: number of nearest sessions that contribute to the scores.
        max_session_items: number of latest items of the current session that are used.
        item_decay: factor on an item's weight for each later item of the current session.
        max_candidates: number of items with the highest scores that are candidates.
    """

    sessions_per_item: int = 500
    num_neighbors: int = 200
    max_session_items: int = 10
    item_decay: float = 0.7
    max_candidates: int = 200


DEFAULT_CONFIG: Final = SessionNeighborConfig()


class ScoredCandidates(NamedTuple):
    """Distinct items [C] in ascending order, and their scores [C], above 0."""

    items: np.ndarray
    scores: np.ndarray

    @property
    def log_shares(self) -> np.ndarray:
        """Logs of the scores divided by their sum [C]."""
        logs: np.ndarray = np.log(self.scores / self.scores.sum()).astype(np.float32)
        return logs


_NO_ITEMS = np.zeros(0, np.int64)
_NO_CANDIDATES = ScoredCandidates(_NO_ITEMS, np.zeros(0))


@dataclass(frozen=True)
class SessionNeighbors:
    """Past sessions, and for each item the latest of them that contain it.

    The similarity of a past session to the current one is the sum, over their shared items, of the item's inverse
    frequency times its recency in the current session. An item's score is the summed similarity of the nearest sessions
    that contain it, times the square root of its inverse frequency. On validation the square root did better than the
    inverse frequency or no factor.

    Attributes:
        session_start, session_item: CSR offsets [S + 1] and distinct items [E] of each session.
        item_start, item_session: CSR offsets [V + 1] and sessions [F] of each item, latest last.
        inverse_frequency: log(S / number of the item's sessions) [V].
        config: parameters.
    """

    session_start: np.ndarray
    session_item: np.ndarray
    item_start: np.ndarray
    item_session: np.ndarray
    inverse_frequency: np.ndarray
    config: SessionNeighborConfig = DEFAULT_CONFIG

    @classmethod
    def from_events(
        cls, session: np.ndarray, item: np.ndarray, num_items: int, config: SessionNeighborConfig = DEFAULT_CONFIG
    ) -> SessionNeighbors:
        """Builds the tables from events of past sessions.

        Args:
            session: number of each event's session [N], from 0 in order of time.
            item: number of each event's item [N].
            num_items: size of the vocabulary, V.
            config: parameters.
        """
        num_sessions = int(session.max(initial=-1)) + 1
        pairs = np.unique(session.astype(np.int64) * num_items + item)  # by session, then item
        session, item = pairs // num_items, pairs % num_items
        by_item = np.argsort(item, kind="stable")  # by item, then session
        frequency = np.bincount(item, minlength=num_items)
        end = np.cumsum(frequency)
        rank_from_end = np.repeat(end, frequency) - np.arange(len(by_item))
        latest = by_item[rank_from_end <= config.sessions_per_item]
        inverse_frequency = np.log(max(num_sessions, 1) / np.maximum(frequency, 1))
        # Sessions that no item lists are never looked up.
        listed = np.unique(session[latest])
        number = np.zeros(num_sessions, np.int64)
        number[listed] = np.arange(len(listed))
        is_listed = np.isin(session, listed)
        return cls(
            _starts(number[session[is_listed]], len(listed)),
            item[is_listed].astype(np.int32),
            _starts(item[latest], num_items),
            number[session[latest]].astype(np.int32),
            inverse_frequency.astype(np.float32),
            config,
        )

    @classmethod
    def none(cls, num_items: int) -> SessionNeighbors:
        """Returns tables without sessions."""
        return cls.from_events(np.zeros(0, np.int64), np.zeros(0, np.int64), num_items)

    def candidates(self, tokens: np.ndarray, excluded: np.ndarray = _NO_ITEMS) -> ScoredCandidates:
        """Returns the items of the sessions that are nearest to a session.

        Args:
            tokens: item numbers of the session [T], oldest first, the start token (0) and unknown items included;
                numbers beyond the table are unknown.
            excluded: items that are no candidates.
        """
        latest = tokens[-self.config.max_session_items :]
        weight = self.config.item_decay ** np.arange(len(latest))[::-1]
        is_known = (latest >= FIRST_ITEM) & (latest < len(self.inverse_frequency))
        items = latest[is_known]
        weight = weight[is_known] * self.inverse_frequency[items]
        row, index = expand_ranges(self.item_start[items], self.item_start[items + 1] - self.item_start[items])
        if not len(index):
            return _NO_CANDIDATES
        sessions, similarity = _sum_by_key(self.item_session[index], weight[row])
        nearest = _largest(similarity, self.config.num_neighbors)
        begin = self.session_start[sessions[nearest]]
        row, index = expand_ranges(begin, self.session_start[sessions[nearest] + 1] - begin)
        found = self.session_item[index]
        candidates, scores = _sum_by_key(found, similarity[nearest][row] * np.sqrt(self.inverse_frequency[found]))
        is_allowed = (scores > 0) & ~np.isin(candidates, excluded)
        candidates, scores = candidates[is_allowed], scores[is_allowed]
        best = _largest(scores, self.config.max_candidates)
        return ScoredCandidates(candidates[best].astype(np.int64), scores[best])

    def is_valid_for(self, num_items: int) -> bool:
        """Whether the tables belong to a vocabulary of that size, and all indices exist."""
        num_sessions = len(self.session_start) - 1
        return (
            num_sessions >= 0
            and self.item_start.shape == (num_items + 1,)
            and self.inverse_frequency.shape == (num_items,)
            and self.session_item.max(initial=0) < num_items
            and self.item_session.max(initial=-1) < num_sessions
            and self.session_start[-1] == len(self.session_item)
            and self.item_start[-1] == len(self.item_session)
        )

    def save(self, folder: Path) -> None:
        """Writes the tables as `SESSION_FILES` into a folder."""
        for name, column in zip(SESSION_FILES, self._columns, strict=True):
            np.save(folder / name, column)

    @classmethod
    def load(cls, folder: Path) -> SessionNeighbors:
        """Reads what `save` wrote, memory-mapped so that processes share the pages."""
        starts, items, item_starts, sessions, frequencies = (
            np.asarray(np.load(folder / name, mmap_mode="r", allow_pickle=False)) for name in SESSION_FILES
        )
        return cls(starts, items, item_starts, sessions, frequencies)

    @property
    def _columns(self) -> tuple[np.ndarray, ...]:
        return (self.session_start, self.session_item, self.item_start, self.item_session, self.inverse_frequency)


def _starts(keys: np.ndarray, count: int) -> np.ndarray:
    """CSR offsets [count + 1] of ascending keys [N]."""
    return np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=count))])


def _sum_by_key(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys in ascending order, and the sum of the values of each."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return ordered[first], np.add.reduceat(values[order], first)


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest values, in ascending order; ties go to the later index."""
    if len(values) <= count:
        return np.arange(len(values))
    threshold = np.partition(values, len(values) - count)[len(values) - count]
    above = np.flatnonzero(values > threshold)
    equal = np.flatnonzero(values == threshold)
    return np.sort(np.concatenate([above, equal[len(equal) - (count - len(above)) :]]))
