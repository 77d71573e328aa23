"""Simulated shoppers at a real endpoint: their events, reproducibility, and bot detection."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from recsys_tasks.errors import UnavailableError
from recsys_tasks.experiments.online_metrics import MetricKey, load_online_metrics
from recsys_tasks.feedback.attribution import AttributionRules, attribute_days
from recsys_tasks.interval import Interval
from recsys_tasks.settings import settings
from recsys_tasks.simulation.histories import SECONDS_PER_DAY, History
from recsys_tasks.simulation.intents import Popularity, fit_intents
from recsys_tasks.simulation.missions import Missions
from recsys_tasks.simulation.scenario import QUIET, Scenario, ScenarioEvent
from recsys_tasks.simulation.shopping import ShoppingStats, StorefrontClient, simulate_shopping
from recsys_tasks.simulation.world import Catalog, Item, Shopper, World
from recsys_tasks.simulation.world_reader import read_world, read_world_and_sessions
from tests.integration.endpoints import install_bundle, running_endpoint
from tests.integration.feedback import ingest_feedback, load_catalog
from tests.shops import COLORS, ITEMS, baskets_of, fill

MIDNIGHT = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def endpoint(bundles: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    home = tmp_path_factory.mktemp("shopping")
    install_bundle(home, bundles[0])
    with running_endpoint(home) as url:
        yield url, home


def _world(scenario: Scenario = QUIET, seed: int = 0) -> World:
    items = [
        Item(f"i{number}", f"Item {number}, {COLORS[number % 4]}", f"C{number % 5}", 2.0, 50) for number in range(ITEMS)
    ]
    catalog, equal = Catalog(items), np.ones(ITEMS)
    begins = MIDNIGHT.timestamp() - 10 * SECONDS_PER_DAY
    people = []
    for number in range(30):
        item = np.full(3, number % ITEMS)
        history = History(item, catalog.category_of[item], np.arange(3), begins + np.arange(3) * SECONDS_PER_DAY)
        people.append(Shopper(f"u{number}", history, 9.0, 1.0))
    popularity = Popularity(equal, equal[None], equal)
    missions = Missions(np.ones(1), np.full((1, 5), 0.2))
    baskets = baskets_of([], catalog.category_of)
    usual = np.full(5, SECONDS_PER_DAY)
    model = fit_intents([], missions, usual, catalog.items_of, popularity, baskets, np.random.default_rng(0))
    return World(items, people, {}, scenario, seed, model, popularity, baskets)


def _simulate(url: str, world: World, sessions: int = 60, days: range = range(1)) -> ShoppingStats:
    client = StorefrontClient(url, k=10)
    try:
        return simulate_shopping(client, world, MIDNIGHT, days, sessions)
    finally:
        client.close()


def _read_events(home: Path) -> list[dict[str, Any]]:
    files = sorted((home / "endpoint" / "journal").glob("*.jsonl"))
    return [
        json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.strip()
    ]


def test_simulated_actions_equal_the_event_log(endpoint: tuple[str, Path]) -> None:
    url, home = endpoint
    before = len(_read_events(home))
    found = _simulate(url, _world())
    logged = _read_events(home)[before:]
    kinds = Counter(event["event_type"] for event in logged)
    assert found.sessions == 60
    assert kinds["impression"] == found.impressions
    assert kinds["search"] == found.searches > 0
    assert kinds["view"] == found.clicks + found.elsewhere
    assert kinds["purchase"] == found.purchases + found.elsewhere > 0
    shown = {(event["request_id"], event["item_id"]) for event in logged if event["event_type"] == "impression"}
    acted = [event for event in logged if event["event_type"] == "view" and "request_id" in event]
    assert all((event["request_id"], event["item_id"]) in shown for event in acted)
    clicks_by_position = Counter(event["position"] for event in acted)
    assert sum(clicks_by_position[position] for position in (1, 2, 3)) > sum(
        clicks_by_position[position] for position in (8, 9, 10)
    )


def test_the_same_seed_creates_the_same_sessions(endpoint: tuple[str, Path]) -> None:
    url, home = endpoint
    runs = []
    for _ in range(2):
        before = len(_read_events(home))
        _simulate(url, _world(seed=5), sessions=10)
        logged = _read_events(home)[before:]
        runs.append({event["session_id"] for event in logged})
    assert runs[0] == runs[1] == {f"sim-5-0-{number}" for number in range(10)}


def test_an_unavailable_endpoint_is_named() -> None:
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9"):
        _simulate("http://127.0.0.1:9", _world())


def test_bots_of_a_scenario_are_flagged_and_excluded(
    endpoint: tuple[str, Path], warehouse: Engine, tmp_path: Path
) -> None:
    url, home = endpoint
    load_catalog(warehouse, tmp_path, ITEMS)
    before = len(_read_events(home))
    _simulate(url, _world(Scenario("attack", [ScenarioEvent("bots", visitors=2)]), seed=7), sessions=30)
    ingest_feedback(warehouse, tmp_path, _read_events(home)[before:])
    assert attribute_days(warehouse, AttributionRules(24, 60)).bots == 2
    with warehouse.connect() as connection:
        flagged = set(connection.scalars(text("select visitor from bot_visitors")))
        metrics = load_online_metrics(connection, Interval.of_day(MIDNIGHT.date()))
    assert flagged == {"u:bot-0-0", "u:bot-0-1"}
    of_shoppers = metrics[MetricKey("recommendations", "1", "", "")]
    assert of_shoppers.visitors <= 30
    assert of_shoppers.sums["requests"] < 200


def test_the_world_of_a_warehouse_has_the_actions_of_its_users(warehouse: Engine) -> None:
    fill(warehouse, users=12)
    world = read_world(warehouse, 10, QUIET, 0)
    assert len(world.shoppers) == 10
    with warehouse.connect() as connection:
        for shopper in world.shoppers:
            taken = connection.execute(
                text("select item_id from events where user_id = :user and item_id is not null"),
                {"user": shopper.user_id},
            ).scalars()
            items = [world.catalog.items[number].item_id for number in shopper.history.item]
            assert sorted(items) == sorted(taken)
            assert (np.diff(shopper.history.seconds) >= 0).all()
    assert [person.user_id for person in read_world(warehouse, 10, QUIET, 0).shoppers] == [
        person.user_id for person in world.shoppers
    ]
    assert [person.user_id for person in read_world(warehouse, 10, QUIET, 1).shoppers] != [
        person.user_id for person in world.shoppers
    ]


def test_intents_are_fitted_on_the_sessions_that_the_first_snapshot_holds_out(warehouse: Engine) -> None:
    fill(warehouse, users=60)
    _, sessions = read_world_and_sessions(warehouse, 60, QUIET, 0)
    with warehouse.connect() as connection:
        starts = sorted(
            connection.scalars(
                text("select extract(epoch from min(event_time)) from events group by user_id, session_id")
            )
        )
    held_out = math.ceil(settings().test_share * len(starts))
    assert sorted(session.seconds for session in sessions) == [float(start) for start in starts[-held_out:]]
    for session in sessions:
        assert session.past.seconds.max() < session.seconds


def test_simulated_purchases_reset_the_clock_but_are_no_evidence(
    endpoint: tuple[str, Path], warehouse: Engine, tmp_path: Path
) -> None:
    fill(warehouse, users=30)
    url, home = endpoint
    before = read_world(warehouse, 30, QUIET, 3)
    logged = len(_read_events(home))
    _simulate(url, before, sessions=30)
    ingest_feedback(warehouse, tmp_path, _read_events(home)[logged:])
    after = read_world(warehouse, 30, QUIET, 3)
    purchases = Counter(event["user_id"] for event in _read_events(home)[logged:] if event["event_type"] == "purchase")
    assert purchases.total() > 0
    originals = {shopper.user_id: shopper for shopper in before.shoppers}
    for shopper in after.shoppers:
        assert shopper.visits == originals[shopper.user_id].visits
        simulated = shopper.history.seconds >= MIDNIGHT.timestamp()
        assert simulated.sum() == purchases[shopper.user_id]
    for factor, earlier in zip(after.model.rate_factors, before.model.rate_factors, strict=True):
        assert (factor == earlier).all()
    assert (after.model.missions.category_shares == before.model.missions.category_shares).all()
