"""Training batches cut from a timeline: windows of one user's events each, without a loop over events."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from recsys_tasks.features.sequences import SECONDS_PER_DAY, Timeline, event_inputs, hour_of, weekday_of
from recsys_tasks.model.tensors import Events, Past, SessionInputs, Window
from recsys_tasks.names import PADDING_ITEM

Spans = tuple[np.ndarray, np.ndarray]
_HALF_LIFE = 1 / 3


def epoch_windows(
    timeline: Timeline,
    stops: np.ndarray,
    width: int,
    tokens: int,
    rng: np.random.Generator,
    chance: np.ndarray | None = None,
) -> Iterator[Spans]:
    """Batches of windows [start, stop) that cover every event before its user's stop [U] once.

    Windows have at most `width` events, cut at random offsets; those of a batch are of similar length, with
    about `tokens` events together. With a `chance` [N] of the events that windows end with, some are left out.
    """
    starts = timeline.user_start[:-1]
    some = stops > starts
    starts, stops = starts[some], stops[some]
    offset = np.where(stops - starts > width, rng.integers(1, width + 1, len(starts)), width)
    pieces = 1 + np.maximum(0, -(-(stops - starts - offset) // width))
    owner = np.repeat(np.arange(len(starts)), pieces)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    later = starts[owner] + offset[owner] + (nth - 1) * width
    begin = np.where(nth == 0, starts[owner], later)
    end = np.minimum(starts[owner] + offset[owner] + nth * width, stops[owner])
    if chance is not None:
        taken = rng.random(len(end)) < chance[end - 1]
        begin, end = begin[taken], end[taken]
    # Similar lengths together, so that little is padded, but not always the same windows.
    by_length = np.argsort((end - begin) * (1 + rng.random(len(begin)) / 8), kind="stable")[::-1]
    begin, end = begin[by_length], end[by_length]
    cuts = _batch_cuts(end - begin, tokens)
    for batch in rng.permutation(len(cuts) - 1):
        part = slice(cuts[batch], cuts[batch + 1])
        yield begin[part], end[part]


def _batch_cuts(lengths: np.ndarray, tokens: int) -> list[int]:
    """Where batches of about `tokens` events begin, among windows from long to short."""
    cuts = [0]
    while cuts[-1] < len(lengths):
        longest = int(lengths[cuts[-1]]) * 9 // 8
        cuts.append(min(cuts[-1] + max(1, tokens // longest), len(lengths)))
    return cuts


def training_stops(timeline: Timeline, split: np.ndarray, last_part: int = 0) -> np.ndarray:
    """Where the events of each user end [U] whose session is of a part up to `last_part`; later parts follow."""
    taken = split[timeline.session] <= last_part
    counts = np.concatenate([[0], np.cumsum(taken)])
    return timeline.user_start[:-1] + counts[timeline.user_start[1:]] - counts[timeline.user_start[:-1]]


def window_batch(timeline: Timeline, start: np.ndarray, stop: np.ndarray, history: bool = True) -> Window:
    """The windows [start, stop) of a timeline as one batch, padded at the end.

    Without `history` each window must lie in one session.
    """
    length = stop - start
    column = np.arange(int(length.max()))
    valid = column < length[:, None]
    index = np.where(valid, start[:, None] + column, stop[:, None] - 1)
    session = timeline.session[index] - timeline.session[index[:, :1]]
    opens = np.ones(index.shape, bool)
    opens[:, 1:] = session[:, 1:] != session[:, :-1]
    first = np.maximum.accumulate(np.where(opens, column, 0), 1)
    before = np.maximum(index - 1, 0)

    def following(values: np.ndarray) -> Tensor:
        return _tensor(np.where(valid & ~opens, values[before], 0))

    began = timeline.session_seconds[index]
    inputs = SessionInputs(
        item=following(timeline.item),
        kind=following(timeline.kind),
        gap=following(timeline.gap),
        words=_tensor(timeline.queries[np.where(valid & ~opens, timeline.text[before], 0)]),
        place=_tensor(column - first),
        hour=_tensor(hour_of(began)),
        weekday=_tensor(weekday_of(began)),
        since=_tensor(timeline.session_gap[index]),
    )
    return Window(
        item=_tensor(np.where(valid, timeline.item[index], PADDING_ITEM)),
        inputs=inputs,
        session=_tensor(session),
        weight=_tensor(timeline.weight[index]),
        buys=_tensor(timeline.buys[index].astype(np.float32)),
        past=_past(timeline, index, valid, session, first, stop) if history else None,
    )


def _past(
    timeline: Timeline, index: np.ndarray, valid: np.ndarray, session: np.ndarray, first: np.ndarray, stop: np.ndarray
) -> Past:
    (count, width), sessions = index.shape, int(session.max()) + 1
    rows = np.arange(count)[:, None]
    now = timeline.session_seconds[stop - 1]
    session_first = np.full((count, sessions), width)
    session_first[rows, session] = first
    session_days = np.zeros((count, sessions), np.float32)
    session_days[rows, session] = (timeline.session_seconds[index] - now[:, None]) / SECONDS_PER_DAY
    return Past(
        Events(**{name: _tensor(values) for name, values in event_inputs(timeline, index, valid, now).items()}),
        session_days=_tensor(session_days),
        session_first=_tensor(session_first),
        next_same=_tensor(np.minimum(timeline.next_same[index] - index[:, :1], width)),
        same_in_session=_tensor(_first_in_session(timeline.item[index], session, sessions)),
    )


def _first_in_session(item: np.ndarray, session: np.ndarray, sessions: int) -> np.ndarray:
    """Where in each session the item of each event comes first [B, S, W]; W where it does not."""
    batch, width = item.shape
    rows = np.arange(batch)[:, None]
    pairs = rows * (int(item.max()) + 1) + item
    distinct, number = np.unique(pairs, return_inverse=True)
    number = number.reshape(item.shape) - np.searchsorted(distinct, rows * (int(item.max()) + 1))
    table = np.full((batch, sessions, int(number.max()) + 1), width, np.int16)
    backwards = np.arange(width)[::-1]
    table[rows, session[:, ::-1], number[:, ::-1]] = backwards  # of equals, the first is written last
    wanted = np.broadcast_to(number[:, None], (batch, sessions, width))
    return np.take_along_axis(table, wanted, 2)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


def events_until(starts: np.ndarray, stops: np.ndarray, count: int) -> np.ndarray:
    """Indices, of `count` events, of those of each user from `starts` to `stops` [U]."""
    edges = np.zeros(count + 1, np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, stops, -1)
    return np.flatnonzero(np.cumsum(edges[:-1]) > 0)


def news(seconds: np.ndarray, since: float, stops: np.ndarray, starts: np.ndarray) -> np.ndarray | None:
    """How much events [N] count for a model that goes on and knows all from before a time: 1 for later ones, and for
    those of before as much as makes about as much of them, so that what it knew is not forgotten (experience replay).
    None where nothing is later.

    Training events are those of each user from `starts` to `stops` [U].
    """
    later = seconds >= since
    taken = np.zeros(len(seconds), bool)
    taken[events_until(starts, stops, len(seconds))] = True
    new, old = int((taken & later).sum()), int((taken & ~later).sum())
    if not new:
        return None
    return np.where(later, 1.0, min(1.0, new / max(old, 1)))


def freshness(seconds: np.ndarray, stops: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Chance of events [N], halved for each third of the training events that come after them in time.

    Training events are those of each user from `starts` to `stops` [U].
    """
    trained = np.sort(seconds[events_until(starts, stops, len(seconds))])
    later = len(trained) - np.searchsorted(trained, seconds, side="right")
    chance: np.ndarray = 0.5 ** (later / max(len(trained), 1) / _HALF_LIFE)
    return chance
