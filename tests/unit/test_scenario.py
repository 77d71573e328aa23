"""Simulated world: intents of shoppers and scenario events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from recsys_tasks.errors import InputError
from recsys_tasks.simulation.histories import SECONDS_PER_DAY, History
from recsys_tasks.simulation.intents import Popularity, fit_intents
from recsys_tasks.simulation.missions import Missions
from recsys_tasks.simulation.scenario import QUIET, Scenario, ScenarioEvent, read_scenario, scenario_names
from recsys_tasks.simulation.shopping import draw_visits
from recsys_tasks.simulation.world import Catalog, Item, Shopper, World, draw_search_query
from tests.shops import baskets_of

MIDNIGHT = datetime(2024, 5, 1, tzinfo=UTC)
ITEMS = [
    Item(f"i{number}", f"Red Thing No {number}, 笔记本电脑", f"C{number % 4}", 1.0 + number, 100 - number)
    for number in range(40)
]
CATALOG = Catalog(ITEMS)
NO_BASKETS = baskets_of([], CATALOG.category_of)


def _shopper(user_id: str, items: Sequence[int], days: int = 5) -> Shopper:
    """A shopper who bought each item once a day until yesterday."""
    item = np.tile(np.asarray(items), days)
    session = np.repeat(np.arange(days), len(items))
    seconds = MIDNIGHT.timestamp() - SECONDS_PER_DAY * (days - session)
    return Shopper(user_id, History(item, CATALOG.category_of[item], session, seconds), 50.0, 1.0)


def _world(scenario: Scenario = QUIET, seed: int = 0) -> World:
    shoppers = [replace(_shopper(f"u{number}", [number]), visits=1.0 + number) for number in range(8)]
    seasons = {"C0": {5: 1.0, 12: 3.0}}
    taken = np.asarray([float(item.taken) for item in ITEMS])
    popularity = Popularity(taken, taken[None], taken)
    missions = Missions(np.ones(1), np.full((1, 4), 0.25))
    model = fit_intents(
        [], missions, np.full(4, SECONDS_PER_DAY), CATALOG.items_of, popularity, NO_BASKETS, np.random.default_rng(0)
    )
    return World(ITEMS, shoppers, seasons, scenario, seed, model, popularity, NO_BASKETS)


def _draw_wanted_items(world: World, day: int, shoppers: Sequence[Shopper] = ()) -> Counter[str]:
    random, at = np.random.default_rng(1), MIDNIGHT + timedelta(days=day)
    people = shoppers or world.shoppers
    return Counter(
        item.item_id
        for number in range(2_000)
        for item in world.draw_intents(people[number % len(people)], day, at, 1, random)
    )


def test_every_scenario_of_the_package_can_be_read() -> None:
    assert set(scenario_names()) == {"bot_attack", "dying_category", "new_trend", "newcomers", "stock_out"}
    for name in scenario_names():
        assert read_scenario(name).events


def test_an_invalid_or_unknown_scenario_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="new_trend"):
        read_scenario("no such thing")
    path = tmp_path / "mine.toml"
    path.write_text('name = "x"\n[[events]]\ntype = "earthquake"\n', encoding="utf-8")
    with pytest.raises(InputError, match="earthquake"):
        read_scenario(str(path))


def test_shoppers_mostly_want_their_own_items_and_discover_others() -> None:
    wanted = _draw_wanted_items(_world(), day=0)
    own = sum(wanted[f"i{number}"] for number in range(8))
    assert 0.3 * wanted.total() < own < 0.9 * wanted.total()
    assert len(wanted) > 30


def test_a_session_wants_each_item_once() -> None:
    world, random = _world(), np.random.default_rng(0)
    for shopper in world.shoppers:
        wanted = world.draw_intents(shopper, 0, MIDNIGHT, 10, random)
        assert len({item.item_id for item in wanted}) == 10
        assert len(world.draw_intents(shopper, 0, MIDNIGHT, 100, random)) == len(ITEMS)


def test_a_session_wants_what_baskets_hold_together() -> None:
    """Items 0 and 5 are in the same baskets, 10 and 9, 3 and 7; 5 and 9 are of one category, C1."""
    world = _world()
    model = replace(world.model, category_prior=0.01, item_prior=0.01)
    baskets = baskets_of([[0, 5], [10, 9], [3, 7]] * 100, CATALOG.category_of)
    world = World(ITEMS, world.shoppers, {}, QUIET, 0, model, world.popularity, baskets)
    shopper, random = _shopper("u", [0, 10]), np.random.default_rng(0)
    wanted = [world.draw_intents(shopper, 0, MIDNIGHT, 2, random) for _ in range(1_000)]
    with_first = [second for first, second in wanted if first.item_id == "i0"]
    assert [item.category for item in with_first].count("C1") > 0.9 * len(with_first) > 90
    items = Counter(item.item_id for item in with_first)
    assert items["i5"] > 5 * items["i9"]


def test_a_purchase_lets_its_need_rest() -> None:
    world = _world()
    hazard, *others = world.model.rate_factors
    hazard = np.where(np.arange(len(hazard)) < 3, 0.01, 1.0)  # until half of the usual interval has passed
    model = replace(world.model, rate_factors=(hazard, *others))
    world = World(ITEMS, world.shoppers, {}, QUIET, 0, model, world.popularity, NO_BASKETS)
    shopper, other = _shopper("u", [0, 1]), _shopper("v", [0, 1])
    world.record_purchases(shopper, [ITEMS[0]], MIDNIGHT)
    rested, usual = (_draw_wanted_items(world, 0, [person]) for person in (shopper, other))
    assert rested["i0"] < 0.1 * usual["i0"]
    assert rested["i1"] > usual["i1"]


def test_a_trend_takes_its_share_of_intents_from_its_first_day() -> None:
    world = _world(Scenario("x", [ScenarioEvent("trend", from_day=2, strength=0.5)]))
    trending = {item.item_id for item in world.trend_items(0)}
    before, after = (_draw_wanted_items(world, day) for day in (1, 2))
    assert len(trending) == 5
    assert sum(before[item] for item in trending) < 0.2 * before.total()
    assert sum(after[item] for item in trending) == pytest.approx(0.5 * after.total(), rel=0.2)


def test_a_trend_is_not_wanted_twice_in_a_session() -> None:
    events = [ScenarioEvent("trend", from_day=0, strength=1.0, items=3, category="C2")]
    world, random = _world(Scenario("trend", events)), np.random.default_rng(0)
    for shopper in world.shoppers:
        wanted = [item.item_id for item in world.draw_intents(shopper, 0, MIDNIGHT, 6, random)]
        assert len(set(wanted)) == len(wanted) == 6


def test_demand_for_a_dying_category_falls() -> None:
    dying = ScenarioEvent("dying_category", from_day=1, strength=0.95, category="C0")
    world = _world(Scenario("x", [dying]))
    category = {item.item_id: item.category for item in ITEMS}
    before, after = (Counter[str]() for _ in range(2))
    for day, counts in enumerate((before, after)):
        for item_id, count in _draw_wanted_items(world, day, [_shopper("u", [0, 1, 2, 3])]).items():
            counts[category[item_id]] += count
    assert before["C0"] == pytest.approx(500, rel=0.15)
    assert after["C0"] < 150


def test_stock_outs_bots_and_new_users_follow_the_scenario() -> None:
    events = [
        ScenarioEvent("stock_out", from_day=1, items=3),
        ScenarioEvent("bots", from_day=1, until_day=2, visitors=2),
        ScenarioEvent("newcomers", from_day=1, strength=0.5),
    ]
    world = _world(Scenario("x", events))
    assert world.sold_out(0) == set()
    assert world.sold_out(1) == {"i0", "i1", "i2"}
    assert [len(world.bots(day)) for day in (0, 1, 2)] == [0, 2, 0]
    known, new = ([visit.user_id for visit in draw_visits(world, day, MIDNIGHT, 400)] for day in (0, 1))
    assert not any(user.startswith("newcomer") for user in known)
    assert sum(user.startswith("newcomer") for user in new) == pytest.approx(200, abs=40)


def test_a_day_is_reproducible_by_its_seed() -> None:
    day = draw_visits(_world(), 3, MIDNIGHT, 50)
    assert day == draw_visits(_world(), 3, MIDNIGHT, 50)
    assert day != draw_visits(_world(seed=1), 3, MIDNIGHT, 50)
    assert day != draw_visits(_world(), 4, MIDNIGHT, 50)
    times = [visit.at for visit in day]
    assert times == sorted(times)
    assert times[0] >= MIDNIGHT


def test_search_queries_use_words_of_the_wanted_item() -> None:
    random = np.random.default_rng(0)
    asked = {draw_search_query(ITEMS[0], random) for _ in range(50)}
    assert len(asked) > 2
    for query in asked:
        assert query == query.lower()
        assert query in "red thing 笔记本电脑"
    assert draw_search_query(Item("x", "", "", 1.0, 1), random) == "x"
