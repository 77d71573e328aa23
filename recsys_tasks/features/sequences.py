"""Event timelines as flat arrays, and the model inputs sliced from them. Training and serving share this code.

Shapes: N events, U users, S sessions, B requests, H history events, L session tokens, Q queries, A words of a query.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from recsys_tasks.names import EVENT_TYPE_CODES, PADDING_ITEM, PURCHASE, UNKNOWN_ITEM

GAP_BUCKETS = 24
COUNT_BUCKETS = 12
SECONDS_PER_DAY = 86_400.0
MAX_TOKENS = 200
QUERY_WORDS = 8
_MONDAY = 4  # 1 January 1970 was a Thursday: days since then plus 3, modulo 7, is 0 on a Monday

Arrays = dict[str, np.ndarray]


# Lower bounds of gap buckets 2, 3, … in seconds: about 1.6 buckets per factor e.
_GAP_BOUNDS = 60.0 * np.expm1(np.arange(1, GAP_BUCKETS - 1) / 1.6)
_GAP_BOUND_LIST: list[float] = _GAP_BOUNDS.tolist()
_BUCKET_OF_COUNT = np.minimum(1 + 2 * np.log(np.maximum(np.arange(256), 1)), COUNT_BUCKETS - 1).astype(np.int64)
_BUCKET_OF_COUNT[:4] = range(4)


def gap_bucket(seconds: np.ndarray) -> np.ndarray:
    """Returns the bucket of a gap in seconds: 0 if negative (no gap), 1 below about a minute, then logarithmic."""
    return np.where(seconds < 0, 0, 1 + np.searchsorted(_GAP_BOUNDS, seconds, side="right"))


def scalar_gap_bucket(seconds: float) -> int:
    """Returns the `gap_bucket` of a single gap; faster than the array version."""
    return 0 if seconds < 0 else 1 + bisect_right(_GAP_BOUND_LIST, seconds)


def count_bucket(count: np.ndarray) -> np.ndarray:
    """Returns the bucket of a count: 0 to 3 have their own, then logarithmic."""
    return _BUCKET_OF_COUNT[np.minimum(count, len(_BUCKET_OF_COUNT) - 1)]


def hour_of_day(seconds: np.ndarray) -> np.ndarray:
    """Returns the UTC hour of the day, 0 to 23, of times in seconds since 1970."""
    return (seconds // 3600 % 24).astype(np.int64)


def day_of_week(seconds: np.ndarray) -> np.ndarray:
    """Returns the UTC day of the week, 0 (Monday) to 6, of times in seconds since 1970."""
    return ((seconds // SECONDS_PER_DAY + _MONDAY - 1) % 7).astype(np.int64)


@dataclass(frozen=True)
class Timeline:
    """Events [N] ordered by user, session and position in the session; times in seconds since 1970.

    Attributes:
        user: 0-based user index, non-decreasing.
        session: 0-based session index over all users, non-decreasing.
        item: item number.
        kind: event type code.
        seconds: time of the event; session_seconds: start of its session.
        gap: bucket of the time since the user's previous event; session_gap: the same for the session's first event.
        repeats: bucket of the number of the user's earlier events with the item; recurrence: bucket of the time since
            the latest of them.
        next_same: index of the user's next event with the item; N for none.
        weight: weight of the event as a training target; 0 if it is not a novel intent.
        leads_to_purchase: whether this event or a later one of the session is a purchase: target of purchase intent.
        text: row of `queries` of a search event; 0 for other events.
        queries: content tokens of the words of each distinct query [Q, A], 0 for padding; A is 0 without searches.
        user_start: index of each user's first event, then N [U + 1]; session_start: the same for sessions [S + 1].
    """

    user: np.ndarray
    session: np.ndarray
    item: np.ndarray
    kind: np.ndarray
    seconds: np.ndarray
    session_seconds: np.ndarray
    gap: np.ndarray
    session_gap: np.ndarray
    repeats: np.ndarray
    recurrence: np.ndarray
    next_same: np.ndarray
    weight: np.ndarray
    leads_to_purchase: np.ndarray
    text: np.ndarray
    queries: np.ndarray
    user_start: np.ndarray
    session_start: np.ndarray

    def __len__(self) -> int:
        """Number of events."""
        return len(self.item)

    @property
    def session_first_seconds(self) -> np.ndarray:
        """Start of each session [S]."""
        first: np.ndarray = self.session_seconds[self.session_start[:-1]]
        return first


def build_timeline(
    user: np.ndarray,
    session: np.ndarray,
    item: np.ndarray,
    kind: np.ndarray,
    seconds: np.ndarray,
    session_seconds: np.ndarray,
    text: np.ndarray | None = None,
    queries: np.ndarray | None = None,
    weight: np.ndarray | None = None,
) -> Timeline:
    """Returns the timeline of ordered events [N].

    Only `next_same` and `leads_to_purchase` of an event depend on later events. The default weight is 1.
    """
    count = len(item)
    user_start = _starts(user)
    session_start = _starts(session)
    first_of_user = np.zeros(count, bool)
    first_of_user[user_start[:-1]] = True
    previous_seconds = np.concatenate([seconds[:1], seconds[:-1]])
    gap = gap_bucket(np.where(first_of_user, -1.0, np.maximum(seconds - previous_seconds, 0)))
    session_first = session_start[:-1]
    session_index = np.repeat(np.arange(len(session_first)), np.diff(session_start))
    since_previous = np.where(
        first_of_user[session_first],
        -1.0,
        np.maximum(session_seconds[session_first] - previous_seconds[session_first], 0),
    )
    repeats, recurrence, next_same = _recurrences(user, item, seconds)
    num_purchases = np.concatenate([[0], np.cumsum(kind == EVENT_TYPE_CODES[PURCHASE])])
    return Timeline(
        user=user,
        session=session_index,
        item=item,
        kind=kind,
        seconds=seconds,
        session_seconds=session_seconds,
        gap=gap,
        session_gap=gap_bucket(since_previous)[session_index],
        repeats=repeats,
        recurrence=recurrence,
        next_same=next_same,
        weight=np.ones(count, np.float32) if weight is None else weight.astype(np.float32),
        text=np.zeros(count, np.int64) if text is None else text,
        queries=np.zeros((1, 0), np.int64) if queries is None else queries,
        leads_to_purchase=num_purchases[session_start[1:]][session_index] > num_purchases[:-1],
        user_start=user_start,
        session_start=session_start,
    )


def novel_intents(session: np.ndarray, item: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Returns which of the ordered events [N] are novel intents, the targets of training and evaluation.

    An event is not one if it only advances an earlier event on the same item in the same session towards a purchase: a
    cart after a view, or a purchase after either. Recommending an item that is already being bought has no value.
    """
    order = stable_argsort(session.astype(np.int64) * (int(item.max(initial=0)) + 1) + item)
    same = np.zeros(len(item), bool)
    same[1:] = (session[order[1:]] == session[order[:-1]]) & (item[order[1:]] == item[order[:-1]])
    run_start = np.maximum.accumulate(np.where(same, 0, np.arange(len(item)))) if len(item) else np.arange(0)
    ordered_kind, is_no_advance = kind[order], np.zeros(len(item), bool)
    for code in np.unique(kind).tolist():
        num_reached = np.concatenate([[0], np.cumsum(ordered_kind >= code)])
        of_kind = ordered_kind == code
        is_no_advance[of_kind] = (num_reached[:-1] - num_reached[run_start])[of_kind] > 0
    novel = np.ones(len(item), bool)
    novel[order] = ~same | is_no_advance
    return novel


def expand_ranges(begin: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the row of each range [begin, begin + length) [B] and the indices in it, one after the other [E]."""
    row = np.repeat(np.arange(len(begin)), length)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length) + begin[row]


def stable_argsort(keys: np.ndarray) -> np.ndarray:
    """Returns the stable `argsort` of non-negative integers, as an LSD radix sort over 16-bit digits."""
    order = np.argsort((keys & 0xFFFF).astype(np.uint16), kind="stable")
    for shift in range(16, int(keys.max(initial=0)).bit_length(), 16):
        digit = (keys >> shift & 0xFFFF).astype(np.uint16)
        order = order[np.argsort(digit[order], kind="stable")]
    return order


def _starts(groups: np.ndarray) -> np.ndarray:
    """Returns the start of each run of equal values, then the length."""
    if len(groups) == 0:
        return np.zeros(1, np.int64)
    return np.concatenate([[0], np.flatnonzero(groups[1:] != groups[:-1]) + 1, [len(groups)]])


def _recurrences(user: np.ndarray, item: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns `repeats`, `recurrence` and `next_same` of each event; see `Timeline`."""
    count = len(item)
    pair = user.astype(np.int64) * (int(item.max(initial=0)) + 1) + item
    order = stable_argsort(pair)  # runs of one user and item, by time
    ordered_pair = pair[order]
    same_run = np.zeros(count, bool)
    same_run[1:] = (ordered_pair[1:] == ordered_pair[:-1]) & (item[order[1:]] != UNKNOWN_ITEM)
    run_start = np.maximum.accumulate(np.where(same_run, 0, np.arange(count))) if count else np.arange(0)
    repeats, recurrence = np.empty(count, np.int64), np.empty(count, np.int64)
    repeats[order] = count_bucket(np.arange(count) - run_start)
    ordered_seconds = seconds[order]
    previous_seconds = np.concatenate([ordered_seconds[:1], ordered_seconds[:-1]])
    recurrence[order] = gap_bucket(np.where(same_run, np.maximum(ordered_seconds - previous_seconds, 0), -1.0))
    next_same = np.full(count, count)
    repeated = np.flatnonzero(same_run)
    next_same[order[repeated - 1]] = order[repeated]
    return repeats, recurrence, next_same


def encoder_inputs(timeline: Timeline, index: np.ndarray, valid: np.ndarray, now: np.ndarray) -> Arrays:
    """Returns the encoder's inputs for events.

    Args:
        timeline: the events.
        index: event indices [B, W].
        valid: which of them exist [B, W]; inputs of the others are 0.
        now: time of each request [B], from which `days` count.
    """
    seconds = timeline.seconds[index]
    columns = {
        "item": timeline.item[index],
        "kind": timeline.kind[index],
        "hour": hour_of_day(seconds),
        "weekday": day_of_week(seconds),
        "gap": timeline.gap[index],
        "repeats": timeline.repeats[index],
        "recurrence": timeline.recurrence[index],
    }
    masked = {name: np.where(valid, values, 0) for name, values in columns.items()}
    days = (seconds - now[:, None]) / SECONDS_PER_DAY
    words = timeline.queries[np.where(valid, timeline.text[index], 0)]
    return {**masked, "days": days.astype(np.float32), "words": words}


def session_inputs(timeline: Timeline, first: np.ndarray, target: np.ndarray, history: int) -> tuple[Arrays, Arrays]:
    """Returns encoder and decoder inputs of sessions whose next event is to be predicted.

    The encoder sees the user's last `history` events before the session, the decoder the session up to the target.

    Args:
        timeline: the events.
        first: index of each session's first event [B].
        target: index of the event to predict [B]. If it equals `first`, the session is empty, and the event at `target`
            only gives its time.
        history: maximum number of history events.
    """
    start = np.maximum(timeline.user_start[timeline.user[first]], first - history)
    length = first - start
    column = np.arange(max(1, int(length.max())))
    valid = column < length[:, None]
    index = np.where(valid, start[:, None] + column, first[:, None])
    now = timeline.session_seconds[first]
    age = gap_bucket(np.maximum(now[:, None] - timeline.seconds[index], 0))
    tokens, count = _session_tokens(timeline, first, target)
    query = {
        "history": np.where(valid, timeline.item[index], PADDING_ITEM),
        "age_bucket": age,
        "is_last": (timeline.next_same[index] >= first[:, None]).astype(np.int64),
        **tokens,
        "length": count + 1,
        "hour": hour_of_day(now),
        "weekday": day_of_week(now),
        "session_gap": timeline.session_gap[first],
    }
    return encoder_inputs(timeline, index, valid, now), query


def _session_tokens(timeline: Timeline, first: np.ndarray, target: np.ndarray) -> tuple[Arrays, np.ndarray]:
    """Returns item, kind, gap and words of the latest session tokens [B, L], after a start token (0), and their number
    [B] without the start token."""
    begin = np.maximum(first, target - MAX_TOKENS + 1)
    count = target - begin
    column = np.arange(int(count.max()) + 1)
    valid = (column > 0) & (column <= count[:, None])
    index = np.minimum(begin[:, None] + np.maximum(column - 1, 0), len(timeline) - 1)
    columns = {"tokens": timeline.item, "token_kinds": timeline.kind, "token_gaps": timeline.gap}
    tokens = {name: np.where(valid, values[index], 0) for name, values in columns.items()}
    return {**tokens, "token_words": timeline.queries[np.where(valid, timeline.text[index], 0)]}, count
