"""Nearest sessions: what sessions like this one went on to do, without any training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class NeighbourConfig:
    """How to look: at which sessions, and how strongly earlier items of the session still count."""

    per_item: int = 500
    nearest: int = 200
    last_items: int = 10
    fading: float = 0.7


class SessionNeighbours:
    """VMIS-kNN (Kersbergen et al. 2022, Serenade), as products of sparse matrices.

    The similarity of a past session is the sum over items it shares with the running one, of the items' inverse
    frequency and of how recently they came in the running session; of each item only the latest sessions are looked
    at. An item's score is the sum of the similarities of the nearest sessions that hold it, times the root of its
    inverse frequency, which on validation did better than the inverse frequency or none.
    """

    def __init__(self, session: np.ndarray, item: np.ndarray, items: int, config: NeighbourConfig) -> None:
        """Events [N] of past sessions, numbered from 0 in the order of time, and how many item numbers there are."""
        self.config = config
        held = sessions_by_items(session, item, items)
        count = held.shape[0]
        of_item = held.T.tocsr()
        of_item.sort_indices()
        frequency = np.diff(of_item.indptr)
        self.rarity = np.log(max(count, 1) / np.maximum(frequency, 1)).astype(np.float32)
        latest = np.arange(of_item.nnz) >= np.repeat(of_item.indptr[1:] - config.per_item, frequency)
        rows = np.repeat(np.arange(items), frequency)[latest]
        self._sessions_of = sparse.csr_matrix((of_item.data[latest], (rows, of_item.indices[latest])), (items, count))
        self._items_of = held @ sparse.diags(np.sqrt(self.rarity))

    def scores(self, tokens: np.ndarray) -> sparse.csr_matrix:
        """Scores [B, V] after the last items of sessions [B, L], newest last, 0 where there is none."""
        tokens = tokens[:, -self.config.last_items :]
        asked = faded(tokens, self.config.fading, len(self.rarity)) @ sparse.diags(self.rarity)
        return (_largest(asked @ self._sessions_of, self.config.nearest) @ self._items_of).tocsr()


def nearest_items(session: np.ndarray, item: np.ndarray, items: int, count: int) -> np.ndarray:
    """The items that come in the same sessions most, by cosine [V, count]; 0 where an item has fewer.

    Of events [N]; how many item numbers there are.
    """
    nearest = np.zeros((items, count), np.int64)
    if not count:
        return nearest
    similar = cosines(sessions_by_items(session, item, items)).tocoo()
    order = np.lexsort((similar.col, -similar.data, similar.row))
    row, column = similar.row[order], similar.col[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    best = place < count
    nearest[row[best], place[best]] = column[best]
    return nearest


def cosines(held: sparse.csr_matrix) -> sparse.csr_matrix:
    """Cosines of the sessions that two items come in [V, V], of which items each session holds [S, V]; none with
    itself."""
    length = np.sqrt(np.maximum(np.asarray(held.sum(0)).ravel(), 1))
    unit = held @ sparse.diags((1 / length).astype(np.float32))
    similar = (unit.T @ unit).tocsr()
    similar.setdiag(0)
    similar.eliminate_zeros()
    return similar


def sessions_by_items(session: np.ndarray, item: np.ndarray, items: int) -> sparse.csr_matrix:
    """Which sessions hold which items [S, V], of events [N]: 1 also where an item comes twice."""
    shape = (int(session.max(initial=-1)) + 1, items)
    held = sparse.csr_matrix((np.ones(len(item), np.float32), (session, item)), shape)
    held.data[:] = 1
    return held


def faded(tokens: np.ndarray, fading: float, items: int) -> sparse.csr_matrix:
    """Weights [B, V] of the items of sessions [B, L], newest last, each step back times `fading`; 0 is no item."""
    rows, columns = np.nonzero(tokens)
    weight = (fading ** np.arange(tokens.shape[1])[::-1][columns]).astype(np.float32)
    return sparse.csr_matrix((weight, (rows, tokens[rows, columns])), (len(tokens), items))


def _largest(matrix: sparse.csr_matrix, count: int) -> sparse.csr_matrix:
    """A matrix with the largest entries of each row only; of equal ones the latest columns."""
    matrix.sort_indices()
    kept = []
    for begin, end in zip(matrix.indptr, matrix.indptr[1:], strict=False):
        size = end - begin
        if size <= count:
            kept.append(np.arange(begin, end))
        else:
            key = matrix.data[begin:end].astype(np.float64) * (1 + 1e-9 * np.arange(size))
            kept.append(begin + np.argpartition(key, size - count)[size - count :])
    starts = np.concatenate([[0], np.cumsum([len(part) for part in kept])])
    index = np.concatenate(kept) if kept else np.zeros(0, np.int64)
    return sparse.csr_matrix((matrix.data[index], matrix.indices[index], starts), matrix.shape)
