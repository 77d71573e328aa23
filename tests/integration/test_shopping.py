"""Simulated shoppers at a real endpoint: what they leave behind, twice the same, and machines that are found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from recsys_tasks.errors import UnavailableError
from recsys_tasks.experiments.online_metrics import Shown, online_metrics
from recsys_tasks.feedback.attribution import CountingRules, count_outcomes
from recsys_tasks.interval import Interval
from recsys_tasks.simulation.scenario import QUIET, Happening, Scenario
from recsys_tasks.simulation.shopping import Shop, Shopped, shop
from recsys_tasks.simulation.world import Item, Shopper, World, read_world
from tests.integration.endpoints import running_endpoint, serves_already
from tests.integration.feedback import catalogue, report
from tests.shops import COLOURS, ITEMS, fill

MIDNIGHT = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def endpoint(bundles: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    home = tmp_path_factory.mktemp("shopping")
    serves_already(home, bundles[0])
    with running_endpoint(home) as url:
        yield url, home


def _world(scenario: Scenario = QUIET, seed: int = 0) -> World:
    items = [
        Item(f"i{number}", f"Item {number}, {COLOURS[number % 4]}", f"C{number % 5}", 2.0, 50)
        for number in range(ITEMS)
    ]
    people = [
        Shopper(f"u{number}", {f"i{number % ITEMS}": 3.0}, {f"C{number % 5}": 3.0}, 9.0, 1.0) for number in range(30)
    ]
    return World(items, people, {}, scenario, seed)


def _shop(url: str, world: World, sessions: int = 60, days: range = range(1)) -> Shopped:
    at = Shop(url, k=10)
    try:
        return shop(at, world, MIDNIGHT, days, sessions)
    finally:
        at.close()


def _journal(home: Path) -> list[dict[str, Any]]:
    files = sorted((home / "endpoint" / "journal").glob("*.jsonl"))
    return [
        json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.strip()
    ]


def test_what_people_do_is_what_the_journal_says(endpoint: tuple[str, Path]) -> None:
    url, home = endpoint
    before = len(_journal(home))
    found = _shop(url, _world())
    told = _journal(home)[before:]
    kinds = Counter(event["event_type"] for event in told)
    assert found.sessions == 60
    assert kinds["impression"] == found.impressions
    assert kinds["search"] == found.searches > 0
    assert kinds["view"] == found.clicks + found.elsewhere
    assert kinds["purchase"] == found.purchases + found.elsewhere > 0
    shown = {(event["request_id"], event["item_id"]) for event in told if event["event_type"] == "impression"}
    acted = [event for event in told if event["event_type"] == "view" and "request_id" in event]
    assert all((event["request_id"], event["item_id"]) in shown for event in acted)
    places = Counter(event["position"] for event in acted)
    assert sum(places[place] for place in (1, 2, 3)) > sum(places[place] for place in (8, 9, 10))


def test_the_same_seed_wants_the_same_and_tells_events_of_the_same_ids(endpoint: tuple[str, Path]) -> None:
    url, home = endpoint
    runs = []
    for _ in range(2):
        before = len(_journal(home))
        _shop(url, _world(seed=5), sessions=10)
        told = _journal(home)[before:]
        runs.append({event["session_id"] for event in told})
    assert runs[0] == runs[1] == {f"sim-5-0-{number}" for number in range(10)}


def test_an_endpoint_that_is_away_is_named() -> None:
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9"):
        _shop("http://127.0.0.1:9", _world())


def test_machines_of_a_scenario_are_found_and_left_out(
    endpoint: tuple[str, Path], warehouse: Engine, tmp_path: Path
) -> None:
    url, home = endpoint
    catalogue(warehouse, tmp_path, ITEMS)
    before = len(_journal(home))
    _shop(url, _world(Scenario("attack", [Happening("bots", visitors=2)]), seed=7), sessions=30)
    report(warehouse, tmp_path, _journal(home)[before:])
    assert count_outcomes(warehouse, CountingRules(24, 60)).machines == 2
    with warehouse.connect() as connection:
        flagged = set(connection.scalars(text("select visitor from flagged_visitors")))
        metrics = online_metrics(connection, Interval.of_day(MIDNIGHT.date()))
    assert flagged == {"u:bot-0-0", "u:bot-0-1"}
    of_people = metrics[Shown("recommendations", "1", "", "")]
    assert of_people.visitors <= 30
    assert of_people.sums["requests"] < 200


def test_the_world_of_a_warehouse_has_its_habits_but_not_what_was_simulated(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse, users=12)
    world = read_world(warehouse, 10, QUIET, 0)
    assert len(world.shoppers) == 10
    with warehouse.connect() as connection:
        for shopper in world.shoppers:
            taken = connection.execute(
                text("select item_id, count(*) from events where user_id = :user and item_id is not null group by 1"),
                {"user": shopper.user_id},
            ).all()
            assert shopper.habits == {row[0]: float(row[1]) for row in taken}
    assert [person.user_id for person in read_world(warehouse, 10, QUIET, 0).shoppers] == [
        person.user_id for person in world.shoppers
    ]
    assert [person.user_id for person in read_world(warehouse, 10, QUIET, 1).shoppers] != [
        person.user_id for person in world.shoppers
    ]
