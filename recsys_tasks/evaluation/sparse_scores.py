"""Sparse item scores: rows normalized, blended, and compared with their targets without a dense matrix.

Letters in shapes: B tasks, V item numbers.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from recsys_tasks.evaluation.metrics import MISSED
from recsys_tasks.evaluation.protocol import PredictionTasks
from recsys_tasks.features.sequences import Timeline, expand_ranges


def normalize_rows(scores: sparse.csr_matrix) -> sparse.csr_matrix:
    """Returns non-negative scores [B, V] divided by their row's sum; a row without scores stays empty."""
    totals = np.asarray(scores.sum(1)).ravel()
    return (sparse.diags(1 / np.where(totals > 0, totals, 1.0)) @ scores).tocsr()


def blend_rows(first: sparse.csr_matrix, second: sparse.csr_matrix, weight: float) -> sparse.csr_matrix:
    """Returns the weighted mean of normalized rows [B, V]; `weight` is the second's.

    Where one of them has no scores in a row, the other one alone counts.
    """
    has_first, has_second = (np.diff(scores.indptr) > 0 for scores in (first, second))
    share = np.where(has_first, np.where(has_second, weight, 0.0), 1.0)
    return (sparse.diags(1 - share) @ first + sparse.diags(share) @ second).tocsr()


def sparse_target_ranks(
    scores: sparse.csr_matrix, timeline: Timeline, tasks: PredictionTasks, exclude_session_items: bool
) -> np.ndarray:
    """Returns the rank [B] of each target among the items with a positive score [B, V]; `MISSED` if it has none.

    Ties count against the target. `exclude_session_items` excludes other items of the session so far.
    """
    rows, target = np.arange(len(tasks)), timeline.item[tasks.target]
    own = np.asarray(scores[rows, target]).ravel()
    row = np.repeat(rows, np.diff(scores.indptr))
    is_ahead = scores.data >= own[row]
    ranks = np.bincount(row[is_ahead], minlength=len(tasks))
    if exclude_session_items:
        session_row, index = expand_ranges(tasks.first, tasks.target - tasks.first)
        pairs = np.unique(np.stack([session_row, timeline.item[index]], 1), axis=0)
        pairs = pairs[pairs[:, 1] != target[pairs[:, 0]]]
        value = np.asarray(scores[pairs[:, 0], pairs[:, 1]]).ravel()
        ranks -= np.bincount(pairs[(value > 0) & (value >= own[pairs[:, 0]]), 0], minlength=len(tasks))
    return np.where(own > 0, ranks, MISSED)
