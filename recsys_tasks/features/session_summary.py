"""Summary of a session so far and of the history before it: what purchase intent reads beside the network's state.

Training summarizes many prefixes of a timeline at once, the engine one running session; `test_session_summary.py`
checks that both give the same features.

Letters in shapes: B session prefixes, N events, H history events, L session events, K event types, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from recsys_tasks.features.sequences import (
    GAP_BUCKETS,
    MAX_TOKENS,
    Timeline,
    day_of_week,
    expand_ranges,
    hour_of_day,
    stable_argsort,
)
from recsys_tasks.names import ADD_TO_CART, EVENT_TYPE_CODES, FIRST_ITEM, PURCHASE, UNKNOWN_ITEM

_KINDS = tuple(EVENT_TYPE_CODES)
_CART, _PURCHASE = EVENT_TYPE_CODES[ADD_TO_CART], EVENT_TYPE_CODES[PURCHASE]
_VISIT_GAP_SECONDS = 1_800.0  # a longer pause in the history begins a new visit
_SATURDAY = 5

SUMMARY_FEATURES = (
    *(f"log_session_{kind}" for kind in _KINDS),
    *(f"latest_is_{kind}" for kind in _KINDS),
    "is_empty",
    "log_distinct_items",
    "log_unknown_items",
    "has_purchase",
    "has_open_cart",
    "latest_repeats_item",
    "log_seconds",
    "log_seconds_per_event",
    "latest_gap",
    "log_earlier_items",
    "latest_is_earlier_item",
    *(f"log_history_{kind}" for kind in _KINDS),
    "log_visits",
    "is_new",
    "session_gap",
    "hour_sine",
    "hour_cosine",
    "is_weekend",
)
"""Names of the features, in the order of their columns."""
ITEM_FEATURES = ("latest_item_log_rate", "mean_item_log_rate", "latest_item_log_sessions")
"""Names of the features that `ItemStatistics` adds to them."""
BASELINE_FEATURES = tuple(
    name
    for name in SUMMARY_FEATURES
    if name.startswith(("log_session", "log_history"))
    or name in ("is_empty", "log_distinct_items", "has_purchase", "has_open_cart", "latest_gap", "log_visits")
    or name in ("log_seconds", "log_seconds_per_event", "session_gap")
)
"""Features of the baseline: what the session holds so far, its duration, and how much the user did before."""
_SMOOTHING_SESSIONS = 20.0


_LOGARITHMIC = np.asarray([name.startswith("log_") for name in SUMMARY_FEATURES])
_Count = Any
"""Numbers [B] of prefixes, or the one number of a running session."""


class SessionCounts(NamedTuple):
    """What the features of prefixes are computed from; the first two have one entry per event type."""

    session_kinds: Sequence[_Count]
    history_kinds: Sequence[_Count]
    latest_kind: _Count
    distinct_items: _Count  # known items of the session
    unknown_items: _Count  # events of the session without a known item
    has_open_cart: _Count  # whether an item was put in the cart after the latest purchase of the session
    latest_repeats_item: _Count
    latest_gap: _Count  # gap bucket of the session's latest event; 0 for its first event
    seconds: _Count  # from the start of the session to its latest event
    earlier_items: _Count  # events of the session with an item of the history
    latest_is_earlier_item: _Count
    visits: _Count  # in the history, separated by pauses
    session_gap: _Count  # gap bucket of the time since the history
    hour: _Count
    weekday: _Count


def summary_features(counts: SessionCounts) -> np.ndarray:
    """Returns the features [B, F] of prefixes, or [1, F] of a running session, in the order of `SUMMARY_FEATURES`."""
    events = sum(counts.session_kinds)
    angle = 2 * np.pi * counts.hour / 24
    columns = (
        *counts.session_kinds,
        *(counts.latest_kind == code for code in EVENT_TYPE_CODES.values()),
        events == 0,
        counts.distinct_items,
        counts.unknown_items,
        counts.session_kinds[_PURCHASE - 1] > 0,
        counts.has_open_cart,
        counts.latest_repeats_item,
        counts.seconds,
        counts.seconds / np.maximum(events, 1),
        counts.latest_gap / GAP_BUCKETS,
        counts.earlier_items,
        counts.latest_is_earlier_item,
        *counts.history_kinds,
        counts.visits,
        sum(counts.history_kinds) == 0,
        counts.session_gap / GAP_BUCKETS,
        np.sin(angle),
        np.cos(angle),
        counts.weekday >= _SATURDAY,
    )
    features = np.atleast_2d(np.asarray(columns, np.float64).T)
    features[:, _LOGARITHMIC] = np.log1p(features[:, _LOGARITHMIC])
    return features


class ItemStatistics(NamedTuple):
    """How often sessions with an item have a purchase: log of the smoothed share, and log(1 + sessions), [V] each.

    An item that is unknown, or newer than the statistics, has the share of all sessions.
    """

    log_rate: np.ndarray
    log_sessions: np.ndarray

    @classmethod
    def of_sessions(cls, session: np.ndarray, item: np.ndarray, buys: np.ndarray, num_items: int) -> ItemStatistics:
        """Returns the statistics of events.

        Args:
            session, item: number of each event's session and item [N].
            buys: whether each event's session has a purchase [N].
            num_items: V.
        """
        pairs, at = np.unique(session.astype(np.int64) * num_items + item, return_index=True)
        items, bought = pairs % num_items, buys[at]
        is_known = items >= FIRST_ITEM
        share = (buys[np.unique(session, return_index=True)[1]].sum() + 1) / (len(np.unique(session)) + 2)
        sessions, purchases = (
            np.bincount(items[chosen], minlength=num_items) for chosen in (is_known, is_known & bought)
        )
        rate = (purchases + _SMOOTHING_SESSIONS * share) / (sessions + _SMOOTHING_SESSIONS)
        return cls(np.log(rate), np.log1p(sessions))

    def of_items(self, item: np.ndarray) -> ItemStatistics:
        """Returns the statistics of each of the items [N]."""
        row = np.where(item < len(self.log_rate), item, UNKNOWN_ITEM)
        return ItemStatistics(self.log_rate[row], self.log_sessions[row])

    def features(self, item: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Returns the `ITEM_FEATURES` [B, 3] of sessions that are ranges [begin, end) [B] of events with items [N]."""
        return item_features(self.of_items(item), float(self.log_rate[UNKNOWN_ITEM]), begin, end)


def item_features(events: ItemStatistics, log_share: float, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Returns the `ITEM_FEATURES` [B, 3] of sessions.

    Args:
        events: statistics of each event's item [N].
        log_share: log of the share of all sessions with a purchase, for empty sessions.
        begin, end: range of each session's events [B].
    """
    if not len(events.log_rate):
        return np.tile([log_share, log_share, 0.0], (len(begin), 1))
    latest, is_empty = np.maximum(end - 1, 0), end == begin
    sums = np.concatenate([[0.0], np.cumsum(events.log_rate)])
    mean = (sums[end] - sums[begin]) / np.maximum(end - begin, 1)
    columns = (
        np.where(is_empty, log_share, events.log_rate[latest]),
        np.where(is_empty, log_share, mean),
        np.where(is_empty, 0.0, events.log_sessions[latest]),
    )
    return np.stack(columns, 1)


def summarize_session(
    session: tuple[np.ndarray, np.ndarray, np.ndarray],
    seconds: float,
    context: np.ndarray,
    history: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> np.ndarray:
    """Returns the features [1, F] of a running session.

    Args:
        session: items, kinds and gap buckets of its events [L], oldest first.
        seconds: from its start to its latest event.
        context: hour, weekday and gap bucket of the time since the history.
        history: items, kinds and seconds since 1970 of the events before the session [H].
    """
    item, kind, gap = session
    past_item, past_kind, past_seconds = history
    count, num_kinds = len(item), len(_KINDS)
    is_earlier = (item >= FIRST_ITEM) & np.isin(item, past_item)
    latest_cart, latest_purchase = (np.flatnonzero(kind == code).max(initial=-1) for code in (_CART, _PURCHASE))
    num_visits = len(past_item) and 1 + int((np.diff(past_seconds) > _VISIT_GAP_SECONDS).sum())
    known = item[item >= FIRST_ITEM]
    counts = SessionCounts(
        np.bincount(kind, minlength=num_kinds + 1)[1:].tolist(),
        np.bincount(past_kind, minlength=num_kinds + 1)[1:].tolist(),
        kind[-1] if count else 0,
        len(np.unique(known)),
        count - len(known),
        latest_cart > latest_purchase,
        count > 1 and item[-1] >= FIRST_ITEM and bool((item[:-1] == item[-1]).any()),
        gap[-1] if count > 1 else 0,
        max(seconds, 0.0),
        is_earlier.sum(),
        count > 0 and is_earlier[-1],
        num_visits,
        context[2],
        context[0],
        context[1],
    )
    return summary_features(counts)


def first_token(first: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Index of the first event [B] that is read of sessions [first, target) [B]."""
    return np.maximum(first, target - MAX_TOKENS + 1)


def summarize_prefixes(timeline: Timeline, first: np.ndarray, target: np.ndarray, history: int) -> np.ndarray:
    """Returns the features [B, F] of sessions before an event.

    Args:
        timeline: the events.
        first: index of each session's first event [B].
        target: index of the event that ends the prefix [B]; an empty prefix if it equals `first`.
        history: maximum number of history events.
    """
    begin = first_token(first, target)
    past = np.maximum(timeline.user_start[timeline.user[first]], first - history)
    latest = np.maximum(target - 1, 0)
    is_empty, is_longer = target == begin, target > begin + 1
    kinds = [timeline.kind == code for code in EVENT_TYPE_CODES.values()]
    is_known = timeline.item >= FIRST_ITEM
    in_session, in_history = _previous_same_items(timeline)
    pauses = np.concatenate([[False], np.diff(timeline.seconds) > _VISIT_GAP_SECONDS])
    latest_cart, latest_purchase = (_latest(timeline.kind == code)[target] for code in (_CART, _PURCHASE))
    start = timeline.session_seconds[first]
    earlier_items, distinct_items, latest_is_earlier = _count_items(
        in_session, in_history, is_known, begin, target, past
    )
    return summary_features(
        SessionCounts(
            session_kinds=[_count(of_kind, begin, target) for of_kind in kinds],
            history_kinds=[_count(of_kind, past, first) for of_kind in kinds],
            latest_kind=np.where(is_empty, 0, timeline.kind[latest]),
            distinct_items=distinct_items,
            unknown_items=_count(~is_known, begin, target),
            has_open_cart=(latest_cart >= begin) & (latest_cart > latest_purchase),
            latest_repeats_item=is_longer & (in_session[latest] >= begin),
            latest_gap=np.where(is_longer, timeline.gap[latest], 0),
            seconds=np.where(is_empty, 0.0, np.maximum(timeline.seconds[latest] - start, 0.0)),
            earlier_items=earlier_items,
            latest_is_earlier_item=latest_is_earlier,
            visits=np.where(first > past, 1 + _count(pauses, np.minimum(past + 1, first), first), 0),
            session_gap=timeline.session_gap[first],
            hour=hour_of_day(start),
            weekday=day_of_week(start),
        )
    )


def _count(is_counted: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Number of marked events [N] in the ranges [begin, end) [B]."""
    counts = np.concatenate([[0], np.cumsum(is_counted)])
    return counts[end] - counts[begin]


def _latest(is_marked: np.ndarray) -> np.ndarray:
    """Index of the latest marked event before each position [N + 1]; -1 if there is none."""
    index = np.where(is_marked, np.arange(len(is_marked)), -1)
    return np.maximum.accumulate(np.concatenate([[-1], index]))


def _count_items(
    in_session: np.ndarray,
    in_history: np.ndarray,
    is_known: np.ndarray,
    begin: np.ndarray,
    end: np.ndarray,
    past: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Events with an item of the history, distinct known items, and whether the latest event is one of the former, in
    the ranges [begin, end) [B] with histories from `past` [B].

    The ranges of a session overlap, and what counts depends on where they begin; each is expanded to its events.
    """
    length = end - begin
    row, index = expand_ranges(begin, length)
    is_earlier = in_history[index] >= past[row]
    is_first = is_known[index] & (in_session[index] < begin[row])
    size = len(begin)
    latest = np.maximum(end - 1, 0)
    return (
        np.bincount(row, is_earlier, size),
        np.bincount(row, is_first, size),
        (length > 0) & (in_history[latest] >= past),
    )


def _previous_same_items(timeline: Timeline) -> tuple[np.ndarray, np.ndarray]:
    """Index [N] of the previous event of the same session, and of the latest event of the user's earlier sessions,
    with the item of each event; -1 if there is none, or the item is unknown."""
    count = len(timeline)
    none = np.full(count, -1)
    if not count:
        return none, none
    order = stable_argsort(timeline.user.astype(np.int64) * (int(timeline.item.max()) + 1) + timeline.item)
    user, item, session = timeline.user[order], timeline.item[order], timeline.session[order]
    same_item = np.zeros(count, bool)
    same_item[1:] = (user[1:] == user[:-1]) & (item[1:] == item[:-1]) & (item[1:] >= FIRST_ITEM)
    same_session = np.zeros(count, bool)
    same_session[1:] = same_item[1:] & (session[1:] == session[:-1])
    previous = np.concatenate([[-1], order[:-1]])
    opens = np.maximum.accumulate(np.where(same_session, 0, np.arange(count)))  # first event of the session and item
    in_session, in_history = none.copy(), none.copy()
    in_session[order] = np.where(same_session, previous, -1)
    in_history[order] = np.where(same_item[opens], previous[opens], -1)
    return in_session, in_history
