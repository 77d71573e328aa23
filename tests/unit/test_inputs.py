"""What the endpoint makes of one user's history and session, against what training makes of many."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tasks.engine.inputs import CODES, Did, History, Moment, Tokens, beginning, history_inputs
from recsys_tasks.engine.scoring import Known
from recsys_tasks.features.sequences import GAP_BUCKETS, MAX_TOKENS, build_timeline, query_inputs
from recsys_tasks.names import FIRST_ITEM, UNKNOWN_ITEM

NOW = 1.7e9
MOST = 30
EVENTS = st.lists(
    st.tuples(
        st.integers(UNKNOWN_ITEM, FIRST_ITEM + 4),
        st.integers(1, 4),
        st.integers(0, 10**6),
        st.lists(st.integers(0, 5), min_size=8, max_size=8),
    ),
    max_size=2 * MOST,
)


def _history(events: list[tuple[int, int, int, list[int]]], after: float) -> History:
    events = sorted(events, key=lambda event: event[2])
    return History(
        np.asarray([event[0] for event in events], np.int64),
        np.asarray([event[1] for event in events], np.int64),
        np.asarray([after + event[2] for event in events], np.float64),
        np.asarray([event[3] for event in events], np.int64).reshape(-1, 8),
    )


def _tokens(past: History, session: History) -> Tokens:
    """The tokens of a session's last events, made one after the other."""
    skipped = max(len(session.item) - MAX_TOKENS + 1, 0)
    found, seconds = beginning(8), [*past.seconds[-1:], *session.seconds]
    for place, did in enumerate(zip(*session, strict=True)):
        before = seconds[place + len(seconds) - len(session.item) - 1] if len(past.item) or place else None
        if place >= skipped:
            found = found.and_then([Did(*did)], before)
    return found


@given(EVENTS, EVENTS, st.integers(0, 3))
@settings(deadline=None)
def test_one_session_is_read_as_many_are(before: list, during: list, times: int) -> None:  # type: ignore[type-arg]
    past = _history(before, NOW - 2e6)
    session = _history(during * (1 + 4 * times), NOW)  # some longer than what is read of them
    last = max([NOW, *session.seconds.tolist()])
    asked = History(np.zeros(1, np.int64), np.zeros(1, np.int64), np.asarray([last]), np.zeros((1, 8), np.int64))
    item, kind, seconds, words = (np.concatenate(columns) for columns in zip(past, session, asked, strict=True))
    count = len(past.item)
    later = np.arange(len(item)) >= count
    timeline = build_timeline(
        np.zeros_like(item),
        np.where(later, count, np.arange(len(item))),
        item,
        kind,
        seconds,
        np.where(later, NOW, seconds),
        np.where(words.any(1), np.arange(1, len(words) + 1), 0),
        np.concatenate([np.zeros((1, 8), np.int64), words]),
    )
    events, query = query_inputs(timeline, np.asarray([count]), np.asarray([len(item) - 1]), len(item))
    kept = history_inputs(past)
    tokens, found = _tokens(past, session), Moment.of(past, kept, NOW)
    assert tokens.columns.shape[1] <= MAX_TOKENS
    for row, name in enumerate(("tokens", "token_kinds", "token_gaps")):
        np.testing.assert_array_equal(tokens.columns[None, row], query[name], err_msg=name)
    np.testing.assert_array_equal(tokens.words[None], query["token_words"])
    codes = tokens.inputs(0, found.codes)["codes"]
    for name, expected in {"kind": "token_kinds", "gap": "token_gaps"}.items():
        np.testing.assert_array_equal(codes[..., CODES.index(name)], query[expected], err_msg=name)
    for name, expected in {"hour": "hour", "weekday": "weekday", "since": "session_gap"}.items():
        np.testing.assert_array_equal(np.unique(codes[..., CODES.index(name)]), query[expected], err_msg=name)
    np.testing.assert_array_equal(codes[0, :, CODES.index("place")], np.arange(codes.shape[1]))
    if count:  # of padding nothing is read
        np.testing.assert_array_equal(found.inputs["ages"], query["age_bucket"] + GAP_BUCKETS * query["is_last"])
        np.testing.assert_allclose(kept["days"] - found.inputs["days"], events["days"], atol=1e-4)
        for name in ("item", "kind", "hour", "weekday", "gap", "repeats", "recurrence", "words"):
            np.testing.assert_array_equal(kept[name], events[name], err_msg=name)


@given(st.lists(st.integers(-3, 40), min_size=1, max_size=3_000), st.integers(1, 20))
@settings(deadline=None)
def test_the_best_are_those_that_sorting_finds(scores: list[int], k: int) -> None:
    possible = [number for number, score in enumerate(scores) if score > 0 and number >= FIRST_ITEM]
    expected = sorted(possible, key=lambda n: (-scores[n], n))
    known = Known(np.asarray(scores, np.float32))
    for offset in (None, np.zeros(len(scores), np.float32)):
        found = known.best(k, offset)
        assert found.numbers.tolist() == sorted(expected[:k])
        assert found.scores.tolist() == [scores[number] for number in found.numbers]
