"""Training windows: batches of consecutive events of one user each, cut from a timeline by vectorized NumPy.

Letters in shapes: N events, U users, B windows, W events of a window, S sessions of a window.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from recsys_tasks.features.item_neighbors import NO_NEIGHBOR, ItemNeighbors
from recsys_tasks.features.sequences import SECONDS_PER_DAY, Timeline, day_of_week, encoder_inputs, hour_of_day
from recsys_tasks.model.tensors import Events, SessionInputs, WindowBatch, WindowHistory
from recsys_tasks.names import PADDING_ITEM

Spans = tuple[np.ndarray, np.ndarray]  # first event and end of windows
_HALF_LIFE = 1 / 3  # share of the training events after which the recency weight halves


def epoch_windows(
    timeline: Timeline,
    stops: np.ndarray,
    window_size: int,
    batch_tokens: int,
    rng: np.random.Generator,
    probability: np.ndarray | None = None,
) -> Iterator[Spans]:
    """Batches of windows [start, stop) that cover every training event once.

    The windows of a batch have similar lengths.

    Args:
        timeline: the events.
        stops: end of each user's training events [U].
        window_size: maximum number of events of a window; windows are cut at random offsets.
        batch_tokens: approximate number of events of a batch.
        rng: source of randomness.
        probability: inclusion probability of a window, by its last event [N]; None includes all windows.
    """
    starts = timeline.user_start[:-1]
    has_events = stops > starts
    starts, stops = starts[has_events], stops[has_events]
    offset = np.where(stops - starts > window_size, rng.integers(1, window_size + 1, len(starts)), window_size)
    num_windows = 1 + np.maximum(0, -(-(stops - starts - offset) // window_size))
    owner = np.repeat(np.arange(len(starts)), num_windows)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(num_windows) - num_windows, num_windows)
    later = starts[owner] + offset[owner] + (nth - 1) * window_size
    begin = np.where(nth == 0, starts[owner], later)
    end = np.minimum(starts[owner] + offset[owner] + nth * window_size, stops[owner])
    if probability is not None:
        included = rng.random(len(end)) < probability[end - 1]
        begin, end = begin[included], end[included]
    # Similar lengths in a batch reduce padding; the noise varies which windows share one.
    by_length = np.argsort((end - begin) * (1 + rng.random(len(begin)) / 8), kind="stable")[::-1]
    begin, end = begin[by_length], end[by_length]
    cuts = _batch_cuts(end - begin, batch_tokens)
    for batch in rng.permutation(len(cuts) - 1):
        part = slice(cuts[batch], cuts[batch + 1])
        yield begin[part], end[part]


def _batch_cuts(lengths: np.ndarray, batch_tokens: int) -> list[int]:
    """Boundaries of batches of about `batch_tokens` events, for windows sorted from long to short."""
    cuts = [0]
    while cuts[-1] < len(lengths):
        longest = int(lengths[cuts[-1]]) * 9 // 8
        cuts.append(min(cuts[-1] + max(1, batch_tokens // longest), len(lengths)))
    return cuts


def training_stops(timeline: Timeline, split: np.ndarray, last_part: int = 0) -> np.ndarray:
    """End of each user's events [U] in sessions whose part of the split [S] is at most `last_part`."""
    included = split[timeline.session] <= last_part
    counts = np.concatenate([[0], np.cumsum(included)])
    return timeline.user_start[:-1] + counts[timeline.user_start[1:]] - counts[timeline.user_start[:-1]]


def window_batch(
    timeline: Timeline,
    start: np.ndarray,
    stop: np.ndarray,
    history: bool = True,
    neighbors: ItemNeighbors | None = None,
    neighbor_tokens: int = 0,
) -> WindowBatch:
    """The windows [start, stop) of a timeline as a batch, padded at the end.

    Args:
        timeline: the events.
        start, stop: first event and end of each window [B].
        history: whether windows have several sessions; without it each must lie within one.
        neighbors: of the items; None without that component.
        neighbor_tokens: number of latest session items to look up, L.
    """
    length = stop - start
    column = np.arange(int(length.max()))
    valid = column < length[:, None]
    index = np.where(valid, start[:, None] + column, stop[:, None] - 1)
    session = timeline.session[index] - timeline.session[index[:, :1]]
    opens_session = np.ones(index.shape, bool)
    opens_session[:, 1:] = session[:, 1:] != session[:, :-1]
    first = np.maximum.accumulate(np.where(opens_session, column, 0), 1)
    previous = np.maximum(index - 1, 0)

    def shifted(values: np.ndarray) -> Tensor:
        return _tensor(np.where(valid & ~opens_session, values[previous], 0))

    session_seconds = timeline.session_seconds[index]
    inputs = SessionInputs(
        item=shifted(timeline.item),
        kind=shifted(timeline.kind),
        gap=shifted(timeline.gap),
        words=_tensor(timeline.queries[np.where(valid & ~opens_session, timeline.text[previous], 0)]),
        position=_tensor(column - first),
        hour=_tensor(hour_of_day(session_seconds)),
        weekday=_tensor(day_of_week(session_seconds)),
        session_gap=_tensor(timeline.session_gap[index]),
    )
    return WindowBatch(
        item=_tensor(np.where(valid, timeline.item[index], PADDING_ITEM)),
        inputs=inputs,
        session=_tensor(session),
        weight=_tensor(timeline.weight[index]),
        past=_window_history(timeline, index, valid, session, first, stop) if history else None,
        **_recent_neighbors(timeline, index, column - first, neighbors, neighbor_tokens),
    )


def _recent_neighbors(
    timeline: Timeline, index: np.ndarray, position: np.ndarray, neighbors: ItemNeighbors | None, count: int
) -> dict[str, Tensor]:
    """The latest `count` items of the session before each event, and the event's weight as their neighbor."""
    if neighbors is None or not count:
        return {}
    back = np.arange(1, count + 1)
    recent = timeline.item[np.maximum(index[..., None] - back, 0)]
    is_usable = (back <= position[..., None]) & neighbors.has_neighbors[recent]
    recent = np.where(is_usable, recent, PADDING_ITEM)
    log_weight = np.full(recent.shape, NO_NEIGHBOR, np.float32)
    target = np.broadcast_to(timeline.item[index][..., None], recent.shape)
    log_weight[is_usable] = neighbors.left_out_log_weight(recent[is_usable], target[is_usable])
    return {"recent": _tensor(recent), "recent_log_weight": _tensor(log_weight)}


def _window_history(
    timeline: Timeline, index: np.ndarray, valid: np.ndarray, session: np.ndarray, first: np.ndarray, stop: np.ndarray
) -> WindowHistory:
    (count, width), num_sessions = index.shape, int(session.max()) + 1
    rows = np.arange(count)[:, None]
    now = timeline.session_seconds[stop - 1]
    session_first = np.full((count, num_sessions), width)
    session_first[rows, session] = first
    session_days = np.zeros((count, num_sessions), np.float32)
    session_days[rows, session] = (timeline.session_seconds[index] - now[:, None]) / SECONDS_PER_DAY
    return WindowHistory(
        Events(**{name: _tensor(values) for name, values in encoder_inputs(timeline, index, valid, now).items()}),
        session_days=_tensor(session_days),
        session_first=_tensor(session_first),
        next_same=_tensor(np.minimum(timeline.next_same[index] - index[:, :1], width)),
        same_in_session=_tensor(_first_in_session(timeline.item[index], session, num_sessions)),
    )


def _first_in_session(item: np.ndarray, session: np.ndarray, num_sessions: int) -> np.ndarray:
    """First column of each event's item in each session [B, S, W]; W where the session does not contain it."""
    batch, width = item.shape
    rows = np.arange(batch)[:, None]
    pairs = rows * (int(item.max()) + 1) + item
    distinct, number = np.unique(pairs, return_inverse=True)
    number = number.reshape(item.shape) - np.searchsorted(distinct, rows * (int(item.max()) + 1))
    table = np.full((batch, num_sessions, int(number.max()) + 1), width, np.int16)
    backwards = np.arange(width)[::-1]
    table[rows, session[:, ::-1], number[:, ::-1]] = backwards  # the first occurrence is written last, and stays
    wanted = np.broadcast_to(number[:, None], (batch, num_sessions, width))
    return np.take_along_axis(table, wanted, 2)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


def events_until(starts: np.ndarray, stops: np.ndarray, count: int) -> np.ndarray:
    """Indices, below `count`, of each user's events from `starts` to `stops` [U]."""
    edges = np.zeros(count + 1, np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, stops, -1)
    return np.flatnonzero(np.cumsum(edges[:-1]) > 0)


def replay_weights(seconds: np.ndarray, since: float, stops: np.ndarray, starts: np.ndarray) -> np.ndarray | None:
    """Weights of events [N] for a warm start: 1 for new events, and a constant for older ones (experience replay).

    The older events' total weight is at most that of the new events, which keeps the model from forgetting them.

    Args:
        seconds: time of each event [N].
        since: time up to which the model has seen the events.
        stops, starts: range of each user's training events [U].

    Returns:
        The weights; None if no training event is new.
    """
    is_new = seconds >= since
    is_training = np.zeros(len(seconds), bool)
    is_training[events_until(starts, stops, len(seconds))] = True
    num_new, num_old = int((is_training & is_new).sum()), int((is_training & ~is_new).sum())
    if not num_new:
        return None
    return np.where(is_new, 1.0, min(1.0, num_new / max(num_old, 1)))


def recency_weights(seconds: np.ndarray, stops: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Weights of events [N]: 1 for the latest, halved for each third of the training events that come later.

    Args:
        seconds: time of each event [N].
        stops, starts: range of each user's training events [U].
    """
    training_seconds = np.sort(seconds[events_until(starts, stops, len(seconds))])
    num_later = len(training_seconds) - np.searchsorted(training_seconds, seconds, side="right")
    weights: np.ndarray = 0.5 ** (num_later / max(len(training_seconds), 1) / _HALF_LIFE)
    return weights
