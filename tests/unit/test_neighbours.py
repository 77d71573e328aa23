import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tasks.model.neighbors import NeighbourConfig, SessionNeighbours, nearest_items

ITEMS = 12


def _by_hand(sessions: list[list[int]], asked: list[int], config: NeighbourConfig) -> np.ndarray:
    count = len(sessions)
    rarity = np.zeros(ITEMS)
    looked_at = {}
    for item in range(ITEMS):
        holding = [number for number, items in enumerate(sessions) if item in items]
        rarity[item] = np.log(count / max(len(holding), 1))
        looked_at[item] = set(holding[-config.per_item :])
    similar = np.zeros(count)
    for age, item in enumerate(reversed(asked[-config.last_items :])):
        for number in looked_at[item]:
            similar[number] += config.fading**age * rarity[item]
    nearest = sorted(range(count), key=lambda number: (-similar[number], -number))[: config.nearest]
    scores = np.zeros(ITEMS)
    for number in nearest:
        for item in set(sessions[number]):
            scores[item] += similar[number] * np.sqrt(rarity[item])
    return scores


sessions = st.lists(st.lists(st.integers(2, ITEMS - 1), min_size=1, max_size=5), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(sessions, st.lists(st.integers(2, ITEMS - 1), min_size=1, max_size=6))
def test_the_matrices_compute_the_sums_over_neighbours(log: list[list[int]], asked: list[int]) -> None:
    config = NeighbourConfig(per_item=3, nearest=100, last_items=4)
    session = np.repeat(np.arange(len(log)), [len(items) for items in log])
    neighbours = SessionNeighbours(session, np.concatenate(log), ITEMS, config)
    tokens = np.asarray([[0] * (6 - len(asked)) + asked])
    found = np.asarray(neighbours.scores(tokens).todense())[0]
    assert found == pytest.approx(_by_hand(log, asked, config), abs=1e-4)


def test_only_the_nearest_sessions_speak() -> None:
    log = [[2, 3, 5], [2, 4], [6, 7], [6, 8], [9, 10]]
    session = np.repeat(np.arange(len(log)), [len(items) for items in log])
    neighbours = SessionNeighbours(session, np.concatenate(log), ITEMS, NeighbourConfig(nearest=1))
    scores = np.asarray(neighbours.scores(np.asarray([[2, 3]])).todense())[0]
    assert scores[5] > 0
    assert scores[4] == 0


def test_an_empty_session_has_no_neighbours() -> None:
    neighbours = SessionNeighbours(np.asarray([0, 0]), np.asarray([2, 3]), ITEMS, NeighbourConfig())
    assert neighbours.scores(np.zeros((2, 5), np.int64)).nnz == 0


@given(sessions, st.integers(0, 6))
def test_an_items_nearest_are_those_it_shares_most_sessions_with(log: list[list[int]], count: int) -> None:
    session = np.repeat(np.arange(len(log)), [len(items) for items in log])
    found = nearest_items(session, np.concatenate(log), ITEMS, count)
    assert found.shape == (ITEMS, count)
    held = [{number for number, items in enumerate(log) if item in items} for item in range(ITEMS)]
    for item in range(ITEMS):
        cosine = {
            other: len(held[item] & held[other]) / np.sqrt(len(held[item]) * len(held[other]))
            for other in range(ITEMS)
            if other != item and held[item] & held[other]
        }
        best = sorted(cosine.values(), reverse=True)[:count]
        named = found[item][found[item] > 0]
        assert len(set(named.tolist())) == len(named) == len(best)
        assert [cosine[other] for other in named.tolist()] == pytest.approx(best)
