"""Shoppers' intents: needs that recur, missions, discoveries, and what is learned from held-out sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from recsys_tasks.simulation.histories import SECONDS_PER_DAY, History, find_needs, usual_intervals
from recsys_tasks.simulation.intents import HeldOutSession, IntentModel, Popularity, fit_intents
from recsys_tasks.simulation.missions import Missions, fit_missions
from tests.shops import baskets_of

CATEGORIES, ITEMS_PER_CATEGORY = 6, 5
ITEMS_OF = [np.arange(ITEMS_PER_CATEGORY) + ITEMS_PER_CATEGORY * number for number in range(CATEGORIES)]
NUM_ITEMS = CATEGORIES * ITEMS_PER_CATEGORY
CATEGORY_OF = np.arange(NUM_ITEMS) // ITEMS_PER_CATEGORY
FLAT = Popularity(np.ones(NUM_ITEMS), np.ones((1, NUM_ITEMS)), np.ones(NUM_ITEMS))
ONE_MISSION = Missions(np.ones(1), np.full((1, CATEGORIES), 1 / CATEGORIES))


def _history(*actions: tuple[int, float]) -> History:
    """A history of (item, day), one session a day."""
    item, day = (np.asarray(column) for column in zip(*sorted(actions, key=lambda action: action[1]), strict=True))
    session = np.unique(day, return_inverse=True)[1]
    return History(item, item // ITEMS_PER_CATEGORY, session, day * SECONDS_PER_DAY)


def _session(past: History, day: float, *items: int) -> HeldOutSession:
    numbers = np.asarray(items)
    return HeldOutSession(past, 0, day * SECONDS_PER_DAY, numbers, numbers // ITEMS_PER_CATEGORY, np.ones(CATEGORIES))


def _fit(
    sessions: list[HeldOutSession], popularity: Popularity = FLAT, baskets: Sequence[Sequence[int]] = ()
) -> IntentModel:
    usual = usual_intervals([find_needs(session.past) for session in sessions], CATEGORIES)
    random = np.random.default_rng(0)
    return fit_intents(sessions, ONE_MISSION, usual, ITEMS_OF, popularity, baskets_of(baskets, CATEGORY_OF), random)


def test_a_need_has_its_visits_and_an_interval_shrunk_to_the_category() -> None:
    history = _history((0, 0), (1, 10), (1, 20), (5, 20), (7, 20))
    needs = find_needs(history)
    assert needs.category.tolist() == [0, 1]
    assert needs.visits.tolist() == [3, 1]
    assert (needs.last / SECONDS_PER_DAY).tolist() == [20, 20]
    usual = np.full(CATEGORIES, 40 * SECONDS_PER_DAY)
    assert (needs.intervals(usual) / SECONDS_PER_DAY).tolist() == [(20 + 40) / 3, 40]


def test_the_past_of_a_session_ends_before_it() -> None:
    history = _history((0, 0), (1, 10), (2, 20))
    assert history.before(10 * SECONDS_PER_DAY).item.tolist() == [0]
    assert history.append(np.asarray([9, 8]), np.asarray([1, 1]), 30 * SECONDS_PER_DAY).session.tolist() == [
        0,
        1,
        2,
        3,
        3,
    ]


def test_a_need_that_was_just_met_rests_where_households_wait() -> None:
    """Half of the needs are of households that buy each ten days; the model sees them one and eleven days later."""
    sessions = []
    for number in range(60):
        weekly = [(number % 5, 10.0 * visit) for visit in range(6)]  # last on day 50
        due = [(5 + number % 5, 10.0 * visit - 9) for visit in range(6)]  # last on day 41
        sessions.append(_session(_history(*weekly, *due), 51.5, 5 + number % 5))
    model = _fit(sessions)
    needs = find_needs(sessions[0].past)
    just_met, due_now = model.need_rates(needs, 51.5 * SECONDS_PER_DAY)
    assert due_now > 3 * just_met


def test_a_counter_is_the_model_of_households_without_a_rhythm() -> None:
    """Needs drawn in proportion to their rates alone give a flat hazard."""
    random = np.random.default_rng(0)
    sessions = []
    for _ in range(400):
        actions = [(item, float(random.integers(0, 365))) for item in (0, 5, 10) for _ in range(20)]
        sessions.append(_session(_history(*actions), 366.0, int(random.choice([0, 5, 10]))))
    model = _fit(sessions)
    hazard = model.rate_factors[0]
    assert hazard[:6] == pytest.approx(np.full(6, hazard[:6].mean()), rel=0.35)


def test_a_need_of_the_last_weeks_is_stronger_where_habits_change() -> None:
    """Two needs of the same number of visits and interval: one of the first months, one of the last."""
    old = [(number, 10.0 * visit) for number in (0, 5) for visit in range(12)]
    new = [(number, 250.0 + 10.0 * visit) for number in (10, 15) for visit in range(12)]
    past = _history(*old, *new)
    changed = _fit([_session(past, 361.0, item) for item in (10, 15) * 40])
    rates = changed.need_rates(find_needs(past, 361 * SECONDS_PER_DAY), 361 * SECONDS_PER_DAY)
    assert find_needs(past, 361 * SECONDS_PER_DAY).recent.tolist() == [0, 0, 6, 6]
    assert rates[2:].min() > 5 * rates[:2].max()


def test_some_categories_are_bought_again_more_often_than_others() -> None:
    past = _history(*[(item, float(day)) for day in range(0, 200, 20) for item in (0, 5, 10, 15)])
    model = _fit([_session(past, 201.0, item) for item in (0, 0, 0, 5) * 30])
    fuel, milk, card, _ = model.need_rates(find_needs(past, 201 * SECONDS_PER_DAY), 201 * SECONDS_PER_DAY)
    assert fuel > 2 * milk > 10 * card


def test_each_session_counts_the_same_whatever_its_size() -> None:
    past = _history(*[(item, float(day)) for day in range(0, 100, 10) for item in range(0, 20, 5)])
    sessions = [_session(past, 101.0, 0)] * 30 + [_session(past, 101.0, 5, 6, 7, 8, 9)] * 30
    one, five, _, _ = _fit(sessions).need_rates(find_needs(past, 101 * SECONDS_PER_DAY), 101 * SECONDS_PER_DAY)
    assert one == pytest.approx(five, rel=0.1)


def test_what_goes_together_in_baskets_matters_where_later_sessions_agree() -> None:
    past = _history(*[(item, float(day)) for day in range(0, 200, 20) for item in range(0, 30, 5)])
    baskets = [[0, 5], [10, 15], [20, 25]] * 50
    alike = _fit([_session(past, 201.0, *basket) for basket in baskets], baskets=baskets)
    different = _fit([_session(past, 201.0, *basket) for basket in [[0, 15], [10, 25], [20, 5]] * 50], baskets=baskets)
    assert alike.category_prior <= 0.1
    assert different.category_prior == 1e9


def test_items_that_go_together_matter_beyond_their_categories() -> None:
    past = _history(*[(item, float(day)) for day in range(0, 200, 20) for item in range(10)])
    baskets = [[number, 5 + number] for number in range(5)] * 50
    model = _fit([_session(past, 201.0, *basket) for basket in baskets], baskets=baskets)
    assert model.item_prior <= 0.1


def test_one_session_is_not_enough_for_companions() -> None:
    past = _history(*[(item, float(day)) for day in range(0, 200, 20) for item in range(10)])
    model = _fit([_session(past, 201.0, 0, 5)], baskets=[[0, 5], [1, 6], [2, 7]] * 50)
    assert model.category_prior == model.item_prior == 1e9


def test_discovery_is_as_frequent_as_in_the_held_out_sessions() -> None:
    past = _history(*[(item, float(day)) for day in range(20) for item in (0, 5)])
    loyal = _fit([_session(past, 25.0, 0) for _ in range(100)])
    curious = _fit([_session(past, 25.0, 1) for _ in range(100)])
    assert loyal.new_item.probability(20, 1) < 0.05
    assert curious.new_item.probability(20, 1) > 0.8


def test_discoveries_follow_the_popularity_that_explains_them() -> None:
    past = _history(*[(0, float(day)) for day in range(5)])
    lately, ever = np.ones(NUM_ITEMS), np.ones(NUM_ITEMS)
    lately[3], ever[4] = 100.0, 100.0
    popularity = Popularity(lately, ever[None], ever)
    sessions = [_session(past, 9.0, 3) for _ in range(50)]
    model = _fit(sessions, popularity)
    assert model.source_shares[0] > 0.9
    assert model.source_shares.sum() == pytest.approx(1.0)


def test_recent_purchases_count_more_where_households_change_their_brand() -> None:
    past = _history(*[(0, float(day)) for day in range(0, 100)], *[(1, float(day)) for day in range(100, 120)])
    changed = _fit([_session(past, 121.0, 1) for _ in range(20)])
    stayed = _fit([_session(past, 121.0, 0) for _ in range(20)])
    assert changed.recency_shares[0] > 0.5 > stayed.recency_shares[0]
    assert stayed.recency_shares.sum() == pytest.approx(1.0)


def test_the_shares_of_half_lives_are_found_where_they_are_mixed() -> None:
    """Three of four sessions repeat the latest item, one the item of most visits."""
    past = _history(*[(0, 30.0 * visit) for visit in range(100)], (1, 3_000.0))
    sessions = [_session(past, 3_001.0, 1 if number % 4 else 0) for number in range(2_000)]
    model = _fit(sessions)
    probability = model.item_probabilities(past, 0, ITEMS_OF[0], FLAT.of(ITEMS_OF[0], 0))
    assert probability[1] / probability[:2].sum() == pytest.approx(0.75, abs=0.01)


def test_without_sessions_the_model_is_a_counter_with_some_novelty() -> None:
    model = _fit([])
    assert all(set(factor.tolist()) == {1.0} for factor in model.rate_factors)
    assert 0 < model.new_item.probability(20, 4) < 0.5
    assert model.category_prior == model.item_prior == 1e9


def test_missions_are_found_in_sessions_that_mix_two_kinds() -> None:
    random = np.random.default_rng(0)
    baskets = [random.choice([0, 1, 2] if number % 2 else [3, 4, 5], 2, replace=False) for number in range(1_000)]
    category = np.concatenate(baskets)
    session = np.repeat(np.arange(len(baskets)), 2)
    missions = fit_missions(category, session, np.full(CATEGORIES, 1 / CATEGORIES), np.random.default_rng(1))
    assert missions.shares.sum() == pytest.approx(1.0)
    posterior = missions.posterior(np.asarray([0, 1, 3, 4]), np.asarray([0, 0, 1, 1]))
    first, second = posterior.argmax(1)
    assert missions.category_shares[first, :3].sum() > 0.8
    assert missions.category_shares[second, 3:].sum() > 0.8
    own = missions.mix(np.asarray([0, 1] * 30), np.repeat(np.arange(30), 2))
    drawn = Counter(np.random.default_rng(0).choice(len(own), 1_000, p=own).tolist())
    in_first = missions.category_shares[:, :3].sum(1) > 0.5
    assert sum(count for mission, count in drawn.items() if in_first[mission]) > 850


def test_the_categories_of_a_session_tell_its_mission() -> None:
    missions = Missions(np.asarray([0.5, 0.5]), np.asarray([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]))
    mix = np.asarray([0.2, 0.8])
    assert missions.session_mix(mix, np.zeros(0, np.int64)) == pytest.approx(mix)
    assert missions.session_mix(mix, np.asarray([1])) == pytest.approx(mix)
    assert missions.session_mix(mix, np.asarray([0])) == pytest.approx(np.asarray([2, 1]) / 3)


def test_few_sessions_have_one_mission() -> None:
    missions = fit_missions(
        np.zeros(3, int), np.arange(3), np.full(CATEGORIES, 1 / CATEGORIES), np.random.default_rng(0)
    )
    assert missions.shares.tolist() == [1.0]
    assert missions.lift == pytest.approx(np.ones((1, CATEGORIES)))
