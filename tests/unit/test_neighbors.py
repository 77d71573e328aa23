from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tasks.features.item_neighbors import NO_NEIGHBOR, latest_items
from recsys_tasks.features.session_neighbors import SessionNeighborConfig, SessionNeighbors
from recsys_tasks.model.neighbors import count_item_neighbors, nearest_items

ITEMS = 12


def _expected_scores(sessions: list[list[int]], session_items: list[int], config: SessionNeighborConfig) -> np.ndarray:
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


def _neighbors(log: list[list[int]], config: SessionNeighborConfig) -> SessionNeighbors:
    session = np.repeat(np.arange(len(log)), [len(items) for items in log])
    items = np.concatenate([np.asarray(items, np.int64) for items in log])
    return SessionNeighbors.from_events(session, items, ITEMS, config)


def _scores(found: SessionNeighbors, tokens: list[int], excluded: Sequence[int] = ()) -> np.ndarray:
    candidates = found.candidates(np.asarray(tokens), np.asarray(excluded, np.int64))
    scores = np.zeros(ITEMS)
    scores[candidates.items] = candidates.scores
    return scores


@settings(max_examples=60, deadline=None)
@given(sessions, st.lists(st.integers(2, ITEMS - 1), min_size=1, max_size=6))
def test_the_scores_of_candidates_are_the_sums_over_the_nearest_sessions(
    log: list[list[int]], session_items: list[int]
) -> None:
    config = SessionNeighborConfig(sessions_per_item=3, num_neighbors=100, max_session_items=4)
    found = _neighbors(log, config)
    assert found.is_valid_for(ITEMS)
    assert _scores(found, session_items) == pytest.approx(_expected_scores(log, session_items, config), abs=1e-4)


def test_only_the_nearest_sessions_and_the_best_candidates_count() -> None:
    log = [[2, 3, 5], [2, 4], [6, 7], [6, 8], [9, 10]]
    scores = _scores(_neighbors(log, SessionNeighborConfig(num_neighbors=1)), [2, 3])
    assert scores[5] > 0
    assert scores[4] == 0
    best = _scores(_neighbors(log, SessionNeighborConfig(max_candidates=1)), [2, 3])
    assert best[best > 0].tolist() == [_scores(_neighbors(log, SessionNeighborConfig()), [2, 3]).max()]


def test_excluded_items_are_no_candidates() -> None:
    found = _neighbors([[2, 3, 5], [2, 4], [6]], SessionNeighborConfig())
    assert np.flatnonzero(_scores(found, [2], excluded=[2, 3])).tolist() == [4, 5]


@pytest.mark.parametrize("tokens", [[], [0], [1, 0, 1], [ITEMS + 3]])
def test_a_session_without_known_items_has_no_candidates(tokens: list[int]) -> None:
    assert not len(_neighbors([[2, 3]], SessionNeighborConfig()).candidates(np.asarray(tokens, np.int64)).items)


def test_saved_tables_load_unchanged(tmp_path: Path) -> None:
    found = _neighbors([[2, 3, 5], [2, 4]], SessionNeighborConfig())
    found.save(tmp_path)
    assert _scores(SessionNeighbors.load(tmp_path), [2]).tolist() == _scores(found, [2]).tolist()
    assert not SessionNeighbors.load(tmp_path).is_valid_for(ITEMS - 1)


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
