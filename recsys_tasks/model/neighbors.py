"""Nearest-neighbor recommendation from co-occurrence in sessions: VMIS-kNN and item neighbors. Needs no training.

Letters in shapes: N events, S sessions, B sessions to predict for, L tokens of a session, V items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from recsys_tasks.features.item_neighbors import ItemNeighbors

_DISCOUNT, _POPULARITY_EXPONENT, _MIN_COUNT = 0.75, 0.6, 1e-3  # δ and a of neighbor weights; smallest discounted count


@dataclass(frozen=True)
class NeighborConfig:
    """Parameters of VMIS-kNN.

    Attributes:
        sessions_per_item: number of latest sessions considered for each item.
        num_neighbors: number of nearest sessions that contribute to the scores.
        max_session_items: number of latest items of the running session that are used.
        item_decay: factor on an item's weight for each later item of the running session.
    """

    sessions_per_item: int = 500
    num_neighbors: int = 200
    max_session_items: int = 10
    item_decay: float = 0.7


class SessionNeighbors:
    """VMIS-kNN (Kersbergen et al. 2022, Serenade) as products of sparse matrices.

    The similarity of a past session to the running one is the sum, over their shared items, of the item's inverse
    frequency times its recency in the running session. An item's score is the summed similarity of the nearest sessions
    that contain it, times the square root of its inverse frequency. On validation the square root did better than the
    inverse frequency or no factor.
    """

    def __init__(self, session: np.ndarray, item: np.ndarray, num_items: int, config: NeighborConfig) -> None:
        """Builds the matrices from events of past sessions.

        Args:
            session: number of each event's session [N], from 0 in order of time.
            item: number of each event's item [N].
            num_items: size of the vocabulary, V.
            config: parameters.
        """
        self.config = config
        session_items = session_item_matrix(session, item, num_items)
        num_sessions = session_items.shape[0]
        item_sessions = session_items.T.tocsr()
        item_sessions.sort_indices()
        frequency = np.diff(item_sessions.indptr)
        self.inverse_frequency = np.log(max(num_sessions, 1) / np.maximum(frequency, 1)).astype(np.float32)
        is_latest = np.arange(item_sessions.nnz) >= np.repeat(
            item_sessions.indptr[1:] - config.sessions_per_item, frequency
        )
        rows = np.repeat(np.arange(num_items), frequency)[is_latest]
        self._item_sessions = sparse.csr_matrix(
            (item_sessions.data[is_latest], (rows, item_sessions.indices[is_latest])), (num_items, num_sessions)
        )
        self._session_items = session_items @ sparse.diags(np.sqrt(self.inverse_frequency))

    def scores(self, tokens: np.ndarray) -> sparse.csr_matrix:
        """Scores [B, V] of the next item after session items [B, L], newest last, padded with 0."""
        tokens = tokens[:, -self.config.max_session_items :]
        weights = decayed_item_weights(tokens, self.config.item_decay, len(self.inverse_frequency))
        similarity = weights @ sparse.diags(self.inverse_frequency) @ self._item_sessions
        return (_largest_per_row(similarity, self.config.num_neighbors) @ self._session_items).tocsr()


def nearest_items(session: np.ndarray, item: np.ndarray, num_items: int, count: int) -> np.ndarray:
    """The `count` nearest items of each item by cosine of their sessions [V, count], padded with 0.

    Args:
        session, item: of events [N].
        num_items: size of the vocabulary, V.
        count: neighbors per item.
    """
    nearest = np.zeros((num_items, count), np.int64)
    if not count:
        return nearest
    cosines = item_cosines(session_item_matrix(session, item, num_items)).tocoo()
    order = np.lexsort((cosines.col, -cosines.data, cosines.row))
    row, column = cosines.row[order], cosines.col[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    kept = rank < count
    nearest[row[kept], rank[kept]] = column[kept]
    return nearest


def count_item_neighbors(session: np.ndarray, item: np.ndarray, num_items: int, count: int) -> ItemNeighbors:
    """The `count` strongest neighbors of each item, as a table of weights that sum to 1 for each item.

    The weight of i as a neighbor of j is proportional to (c_ij - δ) / (n_i + m)^a, where c_ij sessions have both, n_i
    have i, and m is the mean of n. Absolute discounting (δ) and the shrinkage of n keep chance pairs of rare items
    low, and a < 1 favors popular items, unlike cosine similarity. Chosen on validation: see `benchmarks/README.md`.

    Args:
        session, item: of events [N].
        num_items: size of the vocabulary, V.
        count: maximum number of neighbors of an item.
    """
    session_items = session_item_matrix(session, item, num_items)
    frequency = np.asarray(session_items.sum(0)).ravel()
    mean = frequency[frequency > 0].mean() if frequency.any() else 1.0
    scale = (frequency + mean) ** -_POPULARITY_EXPONENT
    together = (session_items.T @ session_items).tocsr()
    together.setdiag(0)
    together.eliminate_zeros()
    weights = together.copy()
    weights.data = np.maximum(together.data - _DISCOUNT, _MIN_COUNT) * scale[together.indices]
    weights = _largest_per_row(weights, count)
    source = np.repeat(np.arange(num_items), np.diff(weights.indptr))
    totals = np.bincount(source, weights.data, num_items)[source]
    counts = weights.data / scale[weights.indices] + _DISCOUNT
    left_out = np.maximum(counts - 1 - _DISCOUNT, _MIN_COUNT) * scale[weights.indices]
    return ItemNeighbors(
        weights.indptr.astype(np.int64),
        weights.indices.astype(np.int32),
        np.log(weights.data / totals).astype(np.float32),
        np.log(left_out / totals).astype(np.float32),
    )


def item_cosines(session_items: sparse.csr_matrix) -> sparse.csr_matrix:
    """Cosines [V, V] between items' columns of a session-item matrix [S, V], with a zero diagonal."""
    length = np.sqrt(np.maximum(np.asarray(session_items.sum(0)).ravel(), 1))
    unit = session_items @ sparse.diags((1 / length).astype(np.float32))
    cosines = (unit.T @ unit).tocsr()
    cosines.setdiag(0)
    cosines.eliminate_zeros()
    return cosines


def session_item_matrix(session: np.ndarray, item: np.ndarray, num_items: int) -> sparse.csr_matrix:
    """Binary matrix [S, V]: 1 where a session contains an item, once or more often. From events [N]."""
    shape = (int(session.max(initial=-1)) + 1, num_items)
    matrix = sparse.csr_matrix((np.ones(len(item), np.float32), (session, item)), shape)
    matrix.data[:] = 1
    return matrix


def decayed_item_weights(tokens: np.ndarray, decay: float, num_items: int) -> sparse.csr_matrix:
    """Weights [B, V] of session items [B, L]: 1 for the newest (last), times `decay` per step back; 0 is padding."""
    rows, columns = np.nonzero(tokens)
    weight = (decay ** np.arange(tokens.shape[1])[::-1][columns]).astype(np.float32)
    return sparse.csr_matrix((weight, (rows, tokens[rows, columns])), (len(tokens), num_items))


def _largest_per_row(matrix: sparse.csr_matrix, count: int) -> sparse.csr_matrix:
    """A matrix with only the `count` largest entries of each row; of equal entries the later columns win."""
    matrix.sort_indices()
    kept = []
    for begin, end in zip(matrix.indptr, matrix.indptr[1:], strict=False):
        size = end - begin
        if size <= count:
            kept.append(np.arange(begin, end))
        else:
            key = matrix.data[begin:end].astype(np.float64) * (1 + 1e-9 * np.arange(size))
            kept.append(begin + np.argpartition(key, size - count)[size - count :])
    starts = np.concatenate([[0], np.cumsum([len(indices) for indices in kept])])
    index = np.concatenate(kept) if kept else np.zeros(0, np.int64)
    largest = sparse.csr_matrix((matrix.data[index], matrix.indices[index], starts), matrix.shape)
    largest.sort_indices()
    return largest
