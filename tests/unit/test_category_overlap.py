"""How far lists follow the session, beside what users chose next."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_tasks.evaluation.category_overlap import NEXT_ITEM, NEXT_SESSION, measure_category_overlap
from recsys_tasks.evaluation.protocol import PredictionTasks
from recsys_tasks.features.sequences import Timeline, build_timeline
from recsys_tasks.names import FIRST_ITEM

_DIAPERS, _WIPES, _SOAP, _MILK, _BREAD, _NAMELESS = range(FIRST_ITEM, FIRST_ITEM + 6)
_PATHS = (
    "Baby > Diapers > Size 1",
    "Baby > Diapers > Wipes",
    "Baby > Diapers > Soap",
    "Food > Milk",
    "Food > Bread",
    "",
)


def _timeline(*sessions: tuple[int, list[int]]) -> Timeline:
    """Sessions of a user's items, an hour apart."""
    users, items = zip(*sessions, strict=True)
    lengths = [len(session) for session in items]
    session = np.repeat(np.arange(len(sessions)), lengths)
    start = np.repeat(3_600.0 * np.arange(len(sessions)), lengths)
    item = np.concatenate([np.asarray(session) for session in items])
    return build_timeline(np.repeat(users, lengths), session, item, np.ones_like(item), start, start)


def test_shares_are_of_lists_and_of_what_followed() -> None:
    timeline = _timeline((0, [_DIAPERS, _MILK, _WIPES]), (0, [_MILK, _BREAD]), (1, [_BREAD, _DIAPERS]))
    tasks = PredictionTasks(np.asarray([0, 5]), np.asarray([2, 6]))
    lists = np.asarray([[_DIAPERS, _MILK, _BREAD, _NAMELESS], [_MILK, _WIPES, 0, 0]])
    table = measure_category_overlap({"model": lists}, _PATHS, timeline, tasks).table
    # The first session has diapers and milk so far, the second bread.
    assert table["model"].share == pytest.approx((2 / 4 + 0) / 2)
    assert table["model"].hit_share == 0.5
    assert table[NEXT_ITEM].share == 0.5  # wipes are in the category of diapers; diapers not in that of bread
    assert (table[NEXT_SESSION].sessions, table[NEXT_SESSION].share) == (1, 0.5)


def test_only_the_latest_distinct_items_of_the_session_count() -> None:
    timeline = _timeline((0, [_MILK, _BREAD, _DIAPERS, _WIPES, _WIPES, _DIAPERS]))
    tasks = PredictionTasks(np.asarray([0]), np.asarray([5]))
    table = measure_category_overlap({"model": np.asarray([[_MILK, _BREAD]])}, _PATHS, timeline, tasks).table
    assert table["model"].share == 0.5  # bread is among the latest three, milk is not


def test_sessions_with_one_category_are_reported_apart() -> None:
    timeline = _timeline((0, [_DIAPERS, _WIPES, _SOAP, _WIPES, _MILK]), (1, [_DIAPERS, _MILK, _DIAPERS, _WIPES]))
    tasks = PredictionTasks(np.asarray([0, 5]), np.asarray([4, 8]))
    report = measure_category_overlap({"model": np.asarray([[_WIPES], [_BREAD]])}, _PATHS, timeline, tasks)
    assert (report.table["model"].sessions, report.table["model"].share) == (2, 0.5)
    assert (report.single_category["model"].sessions, report.single_category["model"].share) == (1, 1.0)
    assert report.single_category[NEXT_ITEM].share == 0.0
    assert "of one category" in report.as_markdown()


def test_sessions_without_categories_are_left_out() -> None:
    timeline = _timeline((0, [_NAMELESS, _MILK]))
    tasks = PredictionTasks(np.asarray([0]), np.asarray([1]))
    report = measure_category_overlap({"model": np.asarray([[_MILK]])}, _PATHS, timeline, tasks)
    assert not report.table
    assert "Not measured" in report.as_markdown()
