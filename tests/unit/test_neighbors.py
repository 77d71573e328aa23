import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tasks.features.item_neighbors import NO_NEIGHBOR, latest_items
from recsys_tasks.model.neighbors import NeighborConfig, SessionNeighbors, count_item_neighbors, nearest_items

ITEMS = 12


def _expected_scores(sessions: list[list[int]], session_items: list[int], config: NeighborConfig) -> np.ndarray:
    count = len(sessions)
    inverse_frequency = np.zeros(ITEMS)
    latest_sessions = {}
    for item in range(ITEMS):
        containing = [number for number, items in enumerate(sessions) if item in items]
        inverse_frequency[item] = np.log(count / max(len(containing), 1))
        latest_sessions[item] = set(containing[-config.sessions_per_item :])
    similar = np.zeros(count)
    for age, item in enumerate(reversed(session_items[-config.max_session_items :])):
        for number in latest_sessions[item]:
            similar[number] += config.item_decay**age * inverse_frequency[item]
    nearest = sorted(range(count), key=lambda number: (-similar[number], -number))[: config.num_neighbors]
    scores = np.zeros(ITEMS)
    for number in nearest:
        for item in set(sessions[number]):
            scores[item] += similar[number] * np.sqrt(inverse_frequency[item])
    return scores


sessions = st.lists(st.lists(st.integers(2, ITEMS - 1), min_size=1, max_size=5), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(sessions, st.lists(st.integers(2, ITEMS - 1), min_size=1, max_size=6))
def test_the_matrix_products_equal_the_sums_over_neighbors(log: list[list[int]], session_items: list[int]) -> None:
    config = NeighborConfig(sessions_per_item=3, num_neighbors=100, max_session_items=4)
    session = np.repeat(np.arange(len(log)), [len(items) for items in log])
    model = SessionNeighbors(session, np.concatenate(log), ITEMS, config)
    tokens = np.asarray([[0] * (6 - len(session_items)) + session_items])
    found = np.asarray(model.scores(tokens).todense())[0]
    assert found == pytest.approx(_expected_scores(log, session_items, config), abs=1e-4)


def test_only_the_nearest_sessions_contribute() -> None:
    log = [[2, 3, 5], [2, 4], [6, 7], [6, 8], [9, 10]]
    session = np.repeat(np.arange(len(log)), [len(items) for items in log])
    model = SessionNeighbors(session, np.concatenate(log), ITEMS, NeighborConfig(num_neighbors=1))
    scores = np.asarray(model.scores(np.asarray([[2, 3]])).todense())[0]
    assert scores[5] > 0
    assert scores[4] == 0


def test_an_empty_session_has_no_neighbors() -> None:
    model = SessionNeighbors(np.asarray([0, 0]), np.asarray([2, 3]), ITEMS, NeighborConfig())
    assert model.scores(np.zeros((2, 5), np.int64)).nnz == 0


@given(sessions, st.integers(0, 6))
def test_the_nearest_items_have_the_highest_session_cosines(log: list[list[int]], count: int) -> None:
    session = np.repeat(np.arange(len(log)), [len(items) for items in log])
    found = nearest_items(session, np.concatenate(log), ITEMS, count)
    assert found.shape == (ITEMS, count)
    sessions_of = [{number for number, items in enumerate(log) if item in items} for item in range(ITEMS)]
    for item in range(ITEMS):
        cosine = {
            other: len(sessions_of[item] & sessions_of[other])
            / np.sqrt(len(sessions_of[item]) * len(sessions_of[other]))
            for other in range(ITEMS)
            if other != item and sessions_of[item] & sessions_of[other]
        }
        best = sorted(cosine.values(), reverse=True)[:count]
        neighbors = found[item][found[item] > 0]
        assert len(set(neighbors.tolist())) == len(neighbors) == len(best)
        assert [cosine[other] for other in neighbors.tolist()] == pytest.approx(best)


@settings(max_examples=60, deadline=None)
@given(sessions, st.integers(1, 4))
def test_the_weights_of_an_items_neighbors_sum_to_one(log: list[list[int]], count: int) -> None:
    session = np.repeat(np.arange(len(log)), [len(items) for items in log])
    neighbors = count_item_neighbors(session, np.concatenate(log), ITEMS, count)
    assert np.diff(neighbors.start).max() <= count
    together = {(one, other) for items in log for one in items for other in items if one != other}
    for item in range(ITEMS):
        found = neighbors.candidates(np.asarray([item]))
        assert {(item, other) for other in found.item.tolist()} <= together
        if len(found.item):
            assert np.exp(found.log_weight).sum() == pytest.approx(1, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(sessions)
def test_a_pair_of_one_session_has_no_weight_when_that_session_is_left_out(log: list[list[int]]) -> None:
    session = np.repeat(np.arange(len(log)), [len(items) for items in log])
    neighbors = count_item_neighbors(session, np.concatenate(log), ITEMS, ITEMS)
    for one in range(2, ITEMS):
        for other in range(2, ITEMS):
            if one == other:
                continue
            shared = sum(one in items and other in items for items in log)
            found = float(neighbors.left_out_log_weight(np.asarray([one]), np.asarray([other]))[0])
            place = np.flatnonzero(neighbors.candidates(np.asarray([one])).item == other)
            if not shared:
                assert found == NO_NEIGHBOR
            elif len(place):
                weight = float(neighbors.candidates(np.asarray([one])).log_weight[place[0]])
                rest = max(shared - 1 - 0.75, 1e-3)
                assert found == pytest.approx(weight + np.log(rest / (shared - 0.75)), abs=1e-3)


def test_the_latest_items_come_newest_first_without_searches() -> None:
    tokens = np.asarray([0, 5, 1, 7])  # the start token, an item, a search, an item
    assert latest_items(tokens, 5).tolist() == [7, 0, 5, 0, 0]
    assert latest_items(tokens, 2).tolist() == [7, 0]
