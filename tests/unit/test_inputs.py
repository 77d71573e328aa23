"""Inputs of one request equal the batched inputs of training; precomputed scores select the top k."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tasks.engine.inputs import (
    TOKEN_FEATURES,
    History,
    SessionContext,
    SessionEvent,
    Tokens,
    history_inputs,
    start_tokens,
)
from recsys_tasks.engine.scoring import PrecomputedScores
from recsys_tasks.features.sequences import GAP_BUCKETS, MAX_TOKENS, build_timeline, session_inputs
from recsys_tasks.names import FIRST_ITEM, UNKNOWN_ITEM

NOW = 1.7e9
MAX_EVENTS = 60
EVENTS = st.lists(
    st.tuples(
        st.integers(UNKNOWN_ITEM, FIRST_ITEM + 4),
        st.integers(1, 4),
        st.integers(0, 10**6),
        st.lists(st.integers(0, 5), min_size=8, max_size=8),
    ),
    max_size=MAX_EVENTS,
)


def _history(events: list[tuple[int, int, int, list[int]]], start: float) -> History:
    events = sorted(events, key=lambda event: event[2])
    return History(
        np.asarray([event[0] for event in events], np.int64),
        np.asarray([event[1] for event in events], np.int64),
        np.asarray([start + event[2] for event in events], np.float64),
        np.asarray([event[3] for event in events], np.int64).reshape(-1, 8),
    )


def _tokens(past: History, session: History) -> Tokens:
    """The tokens of a session's last events, appended one by one."""
    num_skipped = max(len(session.item) - MAX_TOKENS + 1, 0)
    tokens, seconds = start_tokens(8), [*past.seconds[-1:], *session.seconds]
    for index, event in enumerate(zip(*session, strict=True)):
        previous = seconds[index + len(seconds) - len(session.item) - 1] if len(past.item) or index else None
        if index >= num_skipped:
            tokens = tokens.append([SessionEvent(*event)], previous)
    return tokens


@given(EVENTS, EVENTS, st.integers(0, 3))
@settings(deadline=None)
def test_request_inputs_equal_training_inputs(earlier: list, current: list, times: int) -> None:  # type: ignore[type-arg]
    past = _history(earlier, NOW - 2e6)
    session = _history(current * (1 + 4 * times), NOW)  # some longer than MAX_TOKENS
    last = max([NOW, *session.seconds.tolist()])
    target = History(np.zeros(1, np.int64), np.zeros(1, np.int64), np.asarray([last]), np.zeros((1, 8), np.int64))
    item, kind, seconds, words = (np.concatenate(columns) for columns in zip(past, session, target, strict=True))
    count = len(past.item)
    in_session = np.arange(len(item)) >= count
    timeline = build_timeline(
        np.zeros_like(item),
        np.where(in_session, count, np.arange(len(item))),
        item,
        kind,
        seconds,
        np.where(in_session, NOW, seconds),
        np.where(words.any(1), np.arange(1, len(words) + 1), 0),
        np.concatenate([np.zeros((1, 8), np.int64), words]),
    )
    events, query = session_inputs(timeline, np.asarray([count]), np.asarray([len(item) - 1]), len(item))
    inputs = history_inputs(past, MAX_EVENTS * 16)
    tokens, context = _tokens(past, session), SessionContext.from_history(past, inputs, NOW)
    assert tokens.columns.shape[1] <= MAX_TOKENS
    for row, name in enumerate(("tokens", "token_kinds", "token_gaps")):
        np.testing.assert_array_equal(tokens.columns[None, row], query[name], err_msg=name)
    np.testing.assert_array_equal(tokens.words[None], query["token_words"])
    codes = tokens.inputs(0, context.features)["codes"]
    for name, expected in {"kind": "token_kinds", "gap": "token_gaps"}.items():
        np.testing.assert_array_equal(codes[..., TOKEN_FEATURES.index(name)], query[expected], err_msg=name)
    for name, expected in {"hour": "hour", "weekday": "weekday", "since": "session_gap"}.items():
        np.testing.assert_array_equal(np.unique(codes[..., TOKEN_FEATURES.index(name)]), query[expected], err_msg=name)
    np.testing.assert_array_equal(codes[0, :, TOKEN_FEATURES.index("place")], np.arange(codes.shape[1]))
    if count:  # padding is not read
        np.testing.assert_array_equal(context.inputs["ages"], query["age_bucket"] + GAP_BUCKETS * query["is_last"])
        np.testing.assert_allclose(inputs["days"] - context.inputs["days"], events["days"], atol=1e-4)
        for name in ("item", "kind", "hour", "weekday", "gap", "repeats", "recurrence", "words"):
            np.testing.assert_array_equal(inputs[name], events[name], err_msg=name)


@given(st.lists(st.integers(-3, 40), min_size=1, max_size=3_000), st.integers(1, 20))
@settings(deadline=None)
def test_top_k_equals_sorting(scores: list[int], k: int) -> None:
    possible = [number for number, score in enumerate(scores) if score > 0 and number >= FIRST_ITEM]
    expected = sorted(possible, key=lambda n: (-scores[n], n))
    precomputed = PrecomputedScores(np.asarray(scores, np.float32))
    for offset in (None, np.zeros(len(scores), np.float32)):
        top = precomputed.top_k(k, offset)
        assert top.numbers.tolist() == sorted(expected[:k])
        assert top.scores.tolist() == [scores[number] for number in top.numbers]
