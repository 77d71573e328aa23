"""Timelines as flat arrays, and the model input that is cut from them. Training and serving share this code.

Letters in shapes: N events, U users, S sessions, B requests, H events of history, L tokens of a session.
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


# From how many seconds on a gap is in bucket 2, 3, …: about 1.6 buckets an e-fold of minutes.
_GAP_STEPS = 60.0 * np.expm1(np.arange(1, GAP_BUCKETS - 1) / 1.6)
_GAP_STEP_LIST: list[float] = _GAP_STEPS.tolist()
_COUNT_OF = np.minimum(1 + 2 * np.log(np.maximum(np.arange(256), 1)), COUNT_BUCKETS - 1).astype(np.int64)
_COUNT_OF[:4] = range(4)


def gap_bucket(seconds: np.ndarray) -> np.ndarray:
    """Bucket of a gap in seconds: 0 for a negative one (none), 1 below a minute or so, then logarithmic."""
    return np.where(seconds < 0, 0, 1 + np.searchsorted(_GAP_STEPS, seconds, side="right"))


def gap_bucket_of(seconds: float) -> int:
    """`gap_bucket` of one gap, in less time."""
    return 0 if seconds < 0 else 1 + bisect_right(_GAP_STEP_LIST, seconds)


def count_bucket(count: np.ndarray) -> np.ndarray:
    """Bucket of a count: 0 to 3 themselves, then logarithmic."""
    return _COUNT_OF[np.minimum(count, len(_COUNT_OF) - 1)]


def hour_of(seconds: np.ndarray) -> np.ndarray:
    """Hour of the day, 0 to 23, UTC."""
    return (seconds // 3600 % 24).astype(np.int64)


def weekday_of(seconds: np.ndarray) -> np.ndarray:
    """Day of the week, 0 (Monday) to 6, UTC."""
    return ((seconds // SECONDS_PER_DAY + _MONDAY - 1) % 7).astype(np.int64)


@dataclass(frozen=True)
class Timeline:
    """Events [N] in the order of user, session, place in it; times in seconds since 1970.

    Attributes:
        user: 0-based and non-decreasing; session: 0-based and non-decreasing over all users.
        item: the vocabulary's number; kind: the event type's code.
        seconds: the event's time; session_seconds: when its session began.
        gap: bucket of the time since the user's event before; session_gap: the same for the session's first event.
        repeats: bucket of how often the user had the item before; recurrence: bucket of the time since then.
        next_same: index of the user's next event with the item, or N.
        text: which of `queries` a search is about, 0 for none; queries [Q, A]: their words, as numbers of content
            tokens, 0 where there are fewer; A is 0 where nothing is searched.
        weight: how much each event counts as what is to be predicted; 0 for one that is no new wish.
        buys: whether the session buys something with this event or a later one: what purchase intent is measured by.
        user_start [U + 1], session_start [S + 1]: where each begins.
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
    buys: np.ndarray
    text: np.ndarray
    queries: np.ndarray
    user_start: np.ndarray
    session_start: np.ndarray

    def __len__(self) -> int:
        """Number of events."""
        return len(self.item)

    @property
    def session_first_seconds(self) -> np.ndarray:
        """When each session began [S]."""
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
    """Derives the features of ordered events [N]; of an event only `next_same` and `buys` depend on later ones. Without
    weights each counts 1."""
    count = len(item)
    user_start = _starts(user)
    session_start = _starts(session)
    first_of_user = np.zeros(count, bool)
    first_of_user[user_start[:-1]] = True
    before = np.concatenate([seconds[:1], seconds[:-1]])
    gap = gap_bucket(np.where(first_of_user, -1.0, np.maximum(seconds - before, 0)))
    opens = session_start[:-1]
    session_index = np.repeat(np.arange(len(opens)), np.diff(session_start))
    since_previous = np.where(first_of_user[opens], -1.0, np.maximum(session_seconds[opens] - before[opens], 0))
    repeats, recurrence, next_same = _recurrences(user, item, seconds)
    bought = np.concatenate([[0], np.cumsum(kind == EVENT_TYPE_CODES[PURCHASE])])
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
        buys=bought[session_start[1:]][session_index] > bought[:-1],
        user_start=user_start,
        session_start=session_start,
    )


def new_wishes(session: np.ndarray, item: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Which of ordered events [N] are more than a step on the way to buying an item: not a cart after a view of the
    same item in the same session, nor a purchase after either. Nobody has to recommend what is being bought already.
    """
    grouped = stable_order(session.astype(np.int64) * (int(item.max(initial=0)) + 1) + item)
    same = np.zeros(len(item), bool)
    same[1:] = (session[grouped[1:]] == session[grouped[:-1]]) & (item[grouped[1:]] == item[grouped[:-1]])
    first = np.maximum.accumulate(np.where(same, 0, np.arange(len(item)))) if len(item) else np.arange(0)
    ordered, as_far = kind[grouped], np.zeros(len(item), bool)
    for code in np.unique(kind).tolist():
        reached = np.concatenate([[0], np.cumsum(ordered >= code)])
        own = ordered == code
        as_far[own] = (reached[:-1] - reached[first])[own] > 0
    found = np.ones(len(item), bool)
    found[grouped] = ~same | as_far
    return found


def stable_order(keys: np.ndarray) -> np.ndarray:
    """What a stable `argsort` gives for integers from 0 on, digit by digit of 16 bits, which NumPy sorts fastest."""
    order = np.argsort((keys & 0xFFFF).astype(np.uint16), kind="stable")
    for shift in range(16, int(keys.max(initial=0)).bit_length(), 16):
        digit = (keys >> shift & 0xFFFF).astype(np.uint16)
        order = order[np.argsort(digit[order], kind="stable")]
    return order


def _starts(groups: np.ndarray) -> np.ndarray:
    """Where each run of equal values begins, and the end."""
    if len(groups) == 0:
        return np.zeros(1, np.int64)
    return np.concatenate([[0], np.flatnonzero(groups[1:] != groups[:-1]) + 1, [len(groups)]])


def _recurrences(user: np.ndarray, item: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = len(item)
    pair = user.astype(np.int64) * (int(item.max(initial=0)) + 1) + item
    grouped = stable_order(pair)  # runs of one user and item, in time order
    ordered_pair = pair[grouped]
    same_run = np.zeros(count, bool)
    same_run[1:] = (ordered_pair[1:] == ordered_pair[:-1]) & (item[grouped[1:]] != UNKNOWN_ITEM)
    run_start = np.maximum.accumulate(np.where(same_run, 0, np.arange(count))) if count else np.arange(0)
    repeats, recurrence = np.empty(count, np.int64), np.empty(count, np.int64)
    repeats[grouped] = count_bucket(np.arange(count) - run_start)
    ordered = seconds[grouped]
    before = np.concatenate([ordered[:1], ordered[:-1]])
    recurrence[grouped] = gap_bucket(np.where(same_run, np.maximum(ordered - before, 0), -1.0))
    next_same = np.full(count, count)
    later = np.flatnonzero(same_run)
    next_same[grouped[later - 1]] = grouped[later]
    return repeats, recurrence, next_same


def event_inputs(timeline: Timeline, index: np.ndarray, valid: np.ndarray, now: np.ndarray) -> Arrays:
    """What the encoder reads of events `index` [B, W]; zero where not `valid`. Days count from `now` [B]."""
    seconds = timeline.seconds[index]
    columns = {
        "item": timeline.item[index],
        "kind": timeline.kind[index],
        "hour": hour_of(seconds),
        "weekday": weekday_of(seconds),
        "gap": timeline.gap[index],
        "repeats": timeline.repeats[index],
        "recurrence": timeline.recurrence[index],
    }
    taken = {name: np.where(valid, values, 0) for name, values in columns.items()}
    days = (seconds - now[:, None]) / SECONDS_PER_DAY
    words = timeline.queries[np.where(valid, timeline.text[index], 0)]
    return {**taken, "days": days.astype(np.float32), "words": words}


def query_inputs(timeline: Timeline, first: np.ndarray, target: np.ndarray, history: int) -> tuple[Arrays, Arrays]:
    """Encoder and decoder input of sessions that begin at `first` [B] and are asked for the event at `target` [B].

    The encoder sees the user's last `history` events before the session, the decoder the session up to the
    target. A session without an event yet is one whose `first` equals `target`: then its time is that of the
    event at `target`, which must exist to say so.
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
        "hour": hour_of(now),
        "weekday": weekday_of(now),
        "session_gap": timeline.session_gap[first],
    }
    return event_inputs(timeline, index, valid, now), query


def _session_tokens(timeline: Timeline, first: np.ndarray, target: np.ndarray) -> tuple[Arrays, np.ndarray]:
    """Items, kinds and gaps of the session's last tokens [B, L], the beginning (0) first, and their number [B]."""
    begin = np.maximum(first, target - MAX_TOKENS + 1)
    count = target - begin
    column = np.arange(int(count.max()) + 1)
    used = (column > 0) & (column <= count[:, None])
    index = np.minimum(begin[:, None] + np.maximum(column - 1, 0), len(timeline) - 1)
    columns = {"tokens": timeline.item, "token_kinds": timeline.kind, "token_gaps": timeline.gap}
    found = {name: np.where(used, values[index], 0) for name, values in columns.items()}
    return {**found, "token_words": timeline.queries[np.where(used, timeline.text[index], 0)]}, count
