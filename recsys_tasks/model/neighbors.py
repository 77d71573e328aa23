"""Item neighbors from co-occurrence in sessions.

Letters in shapes: N events, S sessions, B sessions to predict for, L tokens of a session, V items.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from recsys_tasks.features.item_neighbors import ItemNeighbors

_DISCOUNT, _POPULARITY_EXPONENT, _MIN_COUNT = 0.75, 0.6, 1e-3  # δ and a of neighbor weights; smallest discounted count


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
