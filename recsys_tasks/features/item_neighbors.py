"""Item neighbors: for each item, the items that occur with it in sessions. Training and serving share this code.

Letters in shapes: V items in the vocabulary, E pairs of an item and a neighbor, L tokens, C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recsys_tasks.names import FIRST_ITEM, PADDING_ITEM

NEIGHBOR_FILES = ("neighbor_starts.npy", "neighbor_items.npy", "neighbor_weights.npy")
NO_NEIGHBOR = -1e4  # log weight of an item that is not a neighbor


class NeighborCandidates(NamedTuple):
    """Neighbors of tokens [C]: their item numbers, the tokens' indices, and the log weights."""

    item: np.ndarray
    token: np.ndarray
    log_weight: np.ndarray


@dataclass(frozen=True)
class ItemNeighbors:
    """Weighted neighbors of each item; the weights of an item's neighbors sum to 1.

    Attributes:
        start: index of each item's first neighbor, then E [V + 1].
        item: neighbors, in ascending order for each item [E].
        log_weight: log of the weights [E].
        log_weight_left_out: the same with one session less in which both items occur [E]; None outside training.
    """

    start: np.ndarray
    item: np.ndarray
    log_weight: np.ndarray
    log_weight_left_out: np.ndarray | None = None

    @classmethod
    def none(cls, num_items: int) -> ItemNeighbors:
        """Returns a table without neighbors."""
        return cls(np.zeros(num_items + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))

    @property
    def has_neighbors(self) -> np.ndarray:
        """Whether each item has a neighbor [V]."""
        found: np.ndarray = self.start[1:] > self.start[:-1]
        return found

    def candidates(self, tokens: np.ndarray) -> NeighborCandidates:
        """Returns the neighbors of item numbers [L]; numbers beyond the table have none."""
        known = np.minimum(tokens, len(self.start) - 2)
        begin, end = self.start[known], np.where(tokens == known, self.start[known + 1], self.start[known])
        length = end - begin
        first = np.cumsum(length) - length
        index = np.repeat(begin - first, length) + np.arange(int(length.sum()))
        return NeighborCandidates(self.item[index], np.repeat(np.arange(len(tokens)), length), self.log_weight[index])

    def left_out_log_weight(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Log weights [...] of items `target` as neighbors of `source` [...], without one session that has both.

        A training session is among the sessions that were counted. Left in, every pair that it asks for would have been
        seen at least once, unlike in new sessions.
        """
        if self.log_weight_left_out is None or not len(self._keys):
            return np.full(source.shape, NO_NEIGHBOR, np.float32)
        wanted = source.astype(np.int64) * (len(self.start) - 1) + target
        place = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        found = self._keys[place] == wanted
        return np.where(found, self.log_weight_left_out[place], np.float32(NO_NEIGHBOR))

    @cached_property
    def _keys(self) -> np.ndarray:
        """Ascending number of each pair [E]."""
        num_items = len(self.start) - 1
        return np.repeat(np.arange(num_items, dtype=np.int64), np.diff(self.start)) * num_items + self.item

    def save(self, folder: Path) -> None:
        """Writes the table, without the training column, as `NEIGHBOR_FILES` into a folder."""
        for name, column in zip(NEIGHBOR_FILES, (self.start, self.item, self.log_weight), strict=True):
            np.save(folder / name, column)

    @classmethod
    def load(cls, folder: Path) -> ItemNeighbors:
        """Reads what `save` wrote, memory-mapped so that processes share the pages."""
        columns = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in NEIGHBOR_FILES)
        return cls(*(np.asarray(column) for column in columns))


def latest_items(tokens: np.ndarray, count: int) -> np.ndarray:
    """Returns the latest session items [count], newest first, of a session's tokens [T], padded with 0.

    Tokens are item numbers, the start token (0) and unknown items included, oldest first.
    """
    items = np.full(count, PADDING_ITEM, tokens.dtype)
    latest = tokens[: -count - 1 : -1]
    items[: len(latest)] = np.where(latest >= FIRST_ITEM, latest, PADDING_ITEM)
    return items
