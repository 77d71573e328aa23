"""No target has a later event of a parallel session in its history."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tasks.features.overlapping_sessions import OrderedEvents, replace_overlapping_sessions

TEST_START = 50.0
SESSION = st.tuples(st.integers(0, 100), st.lists(st.integers(0, 30), min_size=1, max_size=4))  # start, steps
USERS = st.lists(st.lists(SESSION, min_size=1, max_size=4), min_size=1, max_size=4)


def _ordered_events(users: list[list[tuple[int, list[int]]]]) -> OrderedEvents:
    user, session, seconds, starts = [], [], [], []
    number = 0
    for row, sessions in enumerate(users):
        for start, steps in sorted(sessions):
            times = start + np.cumsum([0, *steps])
            user += [row] * len(times)
            session += [number] * len(times)
            seconds += times.tolist()
            starts += [start] * len(times)
            number += 1
    count = len(user)
    item = np.arange(count)
    return OrderedEvents(
        np.asarray(user),
        np.asarray(session),
        item,
        np.ones(count, int),
        np.asarray(seconds, float),
        np.asarray(starts, float),
        np.zeros(count, int),
        np.zeros((1, 0), int),
        np.ones(count),
    )


@settings(max_examples=200, deadline=None)
@given(USERS)
def test_no_target_sees_a_later_event(users: list[list[tuple[int, list[int]]]]) -> None:
    events = _ordered_events(users)
    found, _ = replace_overlapping_sessions(events, len(users), TEST_START)
    for at in np.flatnonzero(found.weight > 0).tolist():
        is_history = (found.user == found.user[at]) & (np.arange(len(found.user)) < at)
        is_history &= found.session != found.session[at]
        assert (found.seconds[is_history] <= found.session_seconds[at]).all()


@settings(max_examples=200, deadline=None)
@given(USERS)
def test_every_test_session_stays_a_target_once_with_all_that_came_before_it(
    users: list[list[tuple[int, list[int]]]],
) -> None:
    events = _ordered_events(users)
    found, copied_users = replace_overlapping_sessions(events, len(users), TEST_START)
    is_test = events.session_seconds >= TEST_START
    targets = found.item[(found.weight > 0) & (found.session_seconds >= TEST_START)]
    assert sorted(targets.tolist()) == events.item[is_test].tolist()
    assert (np.diff(found.user) >= 0).all()
    for number, user in enumerate(copied_users, start=len(users)):
        copy = found.take(np.flatnonzero(found.user == number))
        start = copy.session_seconds[-1]
        earlier = (events.user == user) & (events.session_seconds <= start) & (events.seconds <= start)
        assert set(copy.item[copy.weight == 0].tolist()) <= set(events.item[earlier].tolist())
        assert (np.diff(copy.seconds[copy.weight == 0]) >= 0).all()


def test_without_overlaps_nothing_changes() -> None:
    events = _ordered_events([[(0, [1, 2]), (60, [1])], [(0, [1]), (5, [2])]])
    found, copied_users = replace_overlapping_sessions(events, 2, TEST_START)
    assert copied_users == []
    for name, column in events._asdict().items():
        np.testing.assert_array_equal(getattr(found, name), column)
