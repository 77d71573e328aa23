"""Moments at which users are shown a list, found in a timeline: the running session and the history before it."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_tasks.evaluation.protocol import PredictionTasks
from recsys_tasks.evaluation.served_lists import Moments
from recsys_tasks.features.sequences import Timeline, build_timeline

_DAY = 86_400.0


@pytest.fixture
def timeline() -> Timeline:
    """User 0 has sessions at days 0 and 1, with events each minute; user 1 has one at day 2."""
    seconds = np.asarray([0.0, 60, 120, _DAY, _DAY + 60, 2 * _DAY, 2 * _DAY + 60])
    user = np.asarray([0, 0, 0, 0, 0, 1, 1])
    session = np.asarray([0, 0, 0, 1, 1, 2, 2])
    starts = np.asarray([0.0, _DAY, 2 * _DAY])[session]
    kinds = np.ones(7, np.int64)
    return build_timeline(user, session, np.arange(3, 10), kinds, seconds, starts)


@pytest.mark.parametrize(
    ("user", "at", "first", "stop", "start"),
    [
        (0, _DAY + 30, 3, 4, _DAY),  # within a session, before its second event
        (0, _DAY + 60, 3, 4, _DAY),  # an event of the same instant is not known yet
        (0, _DAY + 90, 3, 5, _DAY),  # after its last event
        (0, _DAY + 60 + 1_800, 3, 5, _DAY),  # it still runs
        (0, _DAY + 60 + 1_801, 5, 5, _DAY + 60 + 1_801),  # it ended: all of the user's events are history
        (0, _DAY - 5, 3, 3, _DAY - 5),  # before the second session
        (0, -1.0, 0, 0, -1.0),  # before everything
        (1, 2 * _DAY + 61, 5, 7, 2 * _DAY),
        (1, 3 * _DAY, 7, 7, 3 * _DAY),  # after the last event of the last user
    ],
)
def test_a_session_runs_for_half_an_hour_after_its_latest_event(
    timeline: Timeline, user: int, at: float, first: int, stop: int, start: float
) -> None:
    found = Moments.of_users(timeline, np.asarray([user]), np.asarray([at]))
    assert [column.tolist() for column in found] == [[user], [first], [stop], [start]]


def test_a_task_is_the_moment_before_its_target(timeline: Timeline) -> None:
    found = Moments.of_tasks(timeline, PredictionTasks(np.asarray([3, 5]), np.asarray([4, 6])))
    by_time = Moments.of_users(timeline, found.user, timeline.seconds[[4, 6]])
    assert [column.tolist() for column in found] == [column.tolist() for column in by_time]


def test_no_moment_gives_none(timeline: Timeline) -> None:
    none = np.zeros(0)
    assert all(len(column) == 0 for column in Moments.of_users(timeline, none.astype(int), none))
