import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tasks.evaluation.baselines import BASELINE_FITTERS
from recsys_tasks.evaluation.metrics import bootstrap_interval, list_metrics
from recsys_tasks.evaluation.protocol import TEST, PredictionTasks, rank_targets, select_prediction_tasks
from recsys_tasks.evaluation.report import evaluate
from recsys_tasks.evaluation.segments import SEGMENTS, segment_masks
from recsys_tasks.features.sequences import build_timeline
from recsys_tasks.names import (
    EVENT_TYPE_CODES,
    FIRST_ITEM,
    PERSONAL_FREQUENCY,
    POPULARITY,
    PURCHASE,
    SEARCH,
    UNKNOWN_ITEM,
    VIEW,
)
from tests.shops import ITEMS, baseline_data, encoded_shop, random_timeline, training_data


def test_each_task_is_in_one_segment_of_each_kind() -> None:
    shop = encoded_shop()
    tasks = select_prediction_tasks(shop, TEST)
    found = segment_masks(shop.timeline, tasks, shop.vocabulary.training_counts())
    assert tuple(found) == SEGMENTS
    assert found["returning users"].all()
    assert found["frequent items"].all()
    assert found["target: purchase"].all()
    assert not found["after a search"].any()


def test_a_search_counts_only_if_it_came_before_the_target() -> None:
    item = np.asarray([UNKNOWN_ITEM, 3, 4, 3, UNKNOWN_ITEM, 4])
    kind = np.asarray([EVENT_TYPE_CODES[name] for name in (SEARCH, VIEW, PURCHASE, VIEW, SEARCH, VIEW)])
    session = np.asarray([0, 0, 0, 1, 1, 1])
    seconds = np.arange(6) * 60.0
    timeline = build_timeline(np.zeros(6, int), session, item, kind, seconds, seconds[[0, 0, 0, 3, 3, 3]])
    tasks = PredictionTasks(np.asarray([0, 3, 3]), np.asarray([2, 4, 5]))
    found = segment_masks(timeline, tasks, np.full(5, 10))
    assert found["after a search"].tolist() == [True, False, True]
    assert found["new users"].tolist() == [True, False, False]
    assert found["repeated targets"].tolist() == [False, False, True]
    assert found["first-time targets"].tolist() == [True, True, False]
    assert found["items not in training"].tolist() == [False, True, False]
    assert found["target: purchase"].tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("events", "segment"),
    [(0, "items not in training"), (1, "rare items"), (9, "rare items"), (10, "frequent items")],
)
def test_a_target_is_rare_with_one_to_nine_training_events(events: int, segment: str) -> None:
    timeline = random_timeline(seed=0)
    first = timeline.session_start[:-1][np.diff(timeline.session_start) > 1]
    tasks = PredictionTasks(first, first + 1)
    counts = np.full(FIRST_ITEM + ITEMS, events)
    known = timeline.item[tasks.target] >= FIRST_ITEM
    assert segment_masks(timeline, tasks, counts)[segment][known].all()


@given(st.integers(0, 10_000))
@settings(max_examples=50)
def test_each_group_of_segments_contains_each_task_once(seed: int) -> None:
    timeline, random = random_timeline(seed), np.random.default_rng(seed)
    first = timeline.session_start[:-1][np.diff(timeline.session_start) > 1]
    tasks = PredictionTasks(first, first + 1)
    found = segment_masks(timeline, tasks, random.integers(0, 12, FIRST_ITEM + ITEMS))
    groups = (
        ("new users", "returning users"),
        ("repeated targets", "first-time targets"),
        ("items not in training", "rare items", "frequent items"),
        ("after a search", "without a search"),
    )
    for names in groups:
        assert (np.sum([found[name] for name in names], axis=0) == 1).all()
    for row, (user, target) in enumerate(zip(timeline.user[tasks.first], tasks.target, strict=True)):
        if timeline.item[target] >= FIRST_ITEM:
            earlier = timeline.item[timeline.user_start[user] : target]
            assert found["first-time targets"][row] == (timeline.item[target] not in earlier)


def test_a_report_has_every_model_with_intervals_around_its_means() -> None:
    shop = encoded_shop()
    data = training_data(shop)
    tasks = select_prediction_tasks(shop, TEST)
    results = {
        name: rank_targets(fit(baseline_data(shop)), shop.timeline, tasks, exclude_session_items=True)
        for name, fit in BASELINE_FITTERS.items()
    }
    found = evaluate(results, data, tasks)
    assert set(found.table) == set(BASELINE_FITTERS)
    for name in BASELINE_FITTERS:
        low, high = found.intervals[name]["recall_20"]
        assert low <= found.table[name]["recall_20"] <= high
    assert found.table[PERSONAL_FREQUENCY]["mrr_20"] > found.table[POPULARITY]["mrr_20"]
    # All users see the same popular items, except those in their session.
    assert found.table[POPULARITY]["coverage_20"] < found.table[PERSONAL_FREQUENCY]["coverage_20"]
    assert "returning users" in found.as_markdown()


def test_the_metrics_table_has_the_segments_and_the_numbers_of_questions() -> None:
    shop = encoded_shop()
    tasks = select_prediction_tasks(shop, TEST)
    fit = BASELINE_FITTERS[PERSONAL_FREQUENCY]
    result = rank_targets(fit(baseline_data(shop)), shop.timeline, tasks, exclude_session_items=True)
    report = evaluate({"model": result}, training_data(shop), tasks)
    found = report.metrics_table()["model"]
    repeated = segment_masks(shop.timeline, tasks, shop.vocabulary.training_counts())["repeated targets"]
    assert found["questions"] == len(tasks)
    assert found["repeated targets: questions"] == repeated.sum()
    assert found["new users: questions"] == 0
    assert found["repeated targets: mrr_20"] == report.by_segment["model"]["repeated targets"]["mrr_20"]
    assert found["mrr_20"] == report.table["model"]["mrr_20"]


def test_session_items_are_not_listed_where_sessions_do_not_repeat_items() -> None:
    shop = encoded_shop()
    tasks = select_prediction_tasks(shop, TEST)
    lists = rank_targets(
        BASELINE_FITTERS[POPULARITY](baseline_data(shop)), shop.timeline, tasks, exclude_session_items=True
    ).lists
    for row, (first, target) in enumerate(zip(tasks.first, tasks.target, strict=True)):
        assert not set(lists[row]) & set(shop.timeline.item[first:target].tolist())
        assert len(set(lists[row])) == 20


def test_lists_of_rare_items_are_novel_and_not_popular() -> None:
    counts = np.asarray([0, 0, 1000, 10, 10, 10])
    popular, rare = (list_metrics(np.full((3, 20), item), counts) for item in (2, 3))
    assert popular["coverage_20"] == rare["coverage_20"] == 1 / 4
    assert rare["novelty_20"] > popular["novelty_20"]
    assert rare["popularity_20"] < 1 < popular["popularity_20"]


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), min_size=1, max_size=60))
def test_a_bootstrap_interval_is_within_the_values_and_reproducible(rows: list[tuple[int, float]]) -> None:
    groups, values = (np.asarray(column) for column in zip(*rows, strict=True))
    low, high = bootstrap_interval(values, groups)
    assert values.min() - 1e-9 <= low <= high <= values.max() + 1e-9
    assert (low, high) == bootstrap_interval(values, groups)


def test_the_bootstrap_resamples_users_not_requests() -> None:
    random = np.random.default_rng(0)
    user_means = random.random(40)
    values = np.repeat(user_means, 25)
    low, high = bootstrap_interval(values, np.repeat(np.arange(40), 25))
    assert high - low == pytest.approx(2 * 1.96 * user_means.std() / np.sqrt(40), rel=0.25)
