"""Simulated world: catalog, habits and seasons from the warehouse, changed by a scenario."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sqlalchemy import Engine

from recsys_tasks.errors import NotEnoughData
from recsys_tasks.simulation.scenario import Scenario, ScenarioEvent
from recsys_tasks.warehouse import statement

_MIN_USER_EVENTS = 5
_RARE_FRACTION = 0.5  # trends are drawn from the less popular half of a category
_WORD = re.compile(r"\w{3,}")
_NUM_LARGE_CATEGORIES = 20
_HABIT_PROBABILITY = 0.7
_SEASON_SMOOTHING_EVENTS = 20.0


@dataclass(frozen=True)
class Item:
    """Catalog item as a shopper sees it; `taken` is its number of actions in the warehouse."""

    item_id: str
    title: str
    category: str
    price: float
    taken: int


@dataclass(frozen=True)
class Shopper:
    """Simulated user: the id the shop knows, action counts by item (habits) and by category (tastes), the budget, and
    the number of sessions in the warehouse.
    """

    user_id: str
    habits: dict[str, float]
    tastes: dict[str, float]
    budget: float
    visits: float


class World:
    """Catalog, shoppers and active scenario events of any day.

    Args:
        items: the catalog; shoppers: the population; seasons: relative demand of a category by month; scenario: events
        that change the world; seed: of all random draws.
    """

    def __init__(
        self,
        items: Sequence[Item],
        shoppers: Sequence[Shopper],
        seasons: dict[str, dict[int, float]],
        scenario: Scenario,
        seed: int,
    ) -> None:
        self.items = {item.item_id: item for item in items}
        self.shoppers = shoppers
        self._seasons, self.scenario, self.seed = seasons, scenario, seed
        of_category: defaultdict[str, list[Item]] = defaultdict(list)
        for item in items:
            of_category[item.category].append(item)
        self._items_by_category = dict(of_category)
        self._visits = np.cumsum([shopper.visits for shopper in shoppers])

    def draw_shopper(self, random: np.random.Generator) -> Shopper:
        """Draws a shopper in proportion to the number of sessions."""
        return self.shoppers[int(np.searchsorted(self._visits, random.random() * self._visits[-1], side="right"))]

    def draw_wanted_item(self, shopper: Shopper, day: int, month: int, random: np.random.Generator) -> Item:
        """Draws an item that a shopper wants on a day.

        It is a trend's item, or of a category the shopper likes, mostly one the shopper is used to.
        """
        for number, trend in self.scenario.active_events(day, "trend"):
            if random.random() < trend.strength:
                return _draw_weighted(self.trend_items(number), [1.0] * trend.items, random)
        category = self._category(shopper, day, month, random)
        known = [item for item in self._items_by_category[category] if item.item_id in shopper.habits]
        if known and random.random() < _HABIT_PROBABILITY:
            return _draw_weighted(known, [shopper.habits[item.item_id] for item in known], random)
        of_category = self._items_by_category[category]
        return _draw_weighted(of_category, [item.taken for item in of_category], random)

    def _category(self, shopper: Shopper, day: int, month: int, random: np.random.Generator) -> str:
        names = list(shopper.tastes)
        weights = [shopper.tastes[name] * self._seasons.get(name, {}).get(month, 1.0) for name in names]
        for number, dying in self.scenario.active_events(day, "dying_category"):
            gone = dying.category or self.draw_category(number)
            weights = [
                weight * (1 - dying.strength if name == gone else 1.0)
                for name, weight in zip(names, weights, strict=True)
            ]
        total = sum(weights)
        if not total:
            return names[0]
        place = int(np.searchsorted(np.cumsum(weights), random.random() * total, side="right"))
        return names[min(place, len(names) - 1)]

    def trend_items(self, number: int) -> list[Item]:
        """Returns the rarely taken items of the trend at an index of the scenario."""
        trend = self.scenario.events[number]
        items = sorted(
            self._items_by_category.get(trend.category or self.draw_category(number), []),
            key=lambda item: (item.taken, item.item_id),
        )
        few = items[: max(int(len(items) * _RARE_FRACTION), trend.items)]
        random = self._random(number)
        return [few[place] for place in random.permutation(len(few))[: trend.items].tolist()]

    def sold_out(self, day: int) -> set[str]:
        """Returns the ids of the items that are sold out on a day."""
        sold_out: set[str] = set()
        for _, event in self.scenario.active_events(day, "stock_out"):
            sold_out |= {item.item_id for item in self._items_by_popularity[: event.items]}
        return sold_out

    def bots(self, day: int) -> list[tuple[str, list[Item]]]:
        """Returns the bots of a day and the items that they click."""
        found = []
        for number, bots in self.scenario.active_events(day, "bots"):
            found += [(f"bot-{number}-{place}", self.promoted_items(number, bots)) for place in range(bots.visitors)]
        return found

    def promoted_items(self, number: int, bots: ScenarioEvent) -> list[Item]:
        """Returns the unpopular items that bots click."""
        random = self._random(number)
        least = self._items_by_popularity[len(self._items_by_popularity) // 2 :] or self._items_by_popularity
        return [least[place] for place in random.permutation(len(least))[: bots.items].tolist()]

    def newcomer_share(self, day: int) -> float:
        """Returns the share of a day's sessions by users without history."""
        return max((event.strength for _, event in self.scenario.active_events(day, "newcomers")), default=0.0)

    def draw_category(self, number: int) -> str:
        """Draws a large category for an event that names none."""
        large = sorted(self._items_by_category, key=lambda name: (-self._category_counts[name], name))[
            :_NUM_LARGE_CATEGORIES
        ]
        return large[int(self._random(number).integers(len(large)))]

    @cached_property
    def _category_counts(self) -> dict[str, int]:
        return {name: sum(item.taken for item in items) for name, items in self._items_by_category.items()}

    @cached_property
    def _items_by_popularity(self) -> list[Item]:
        return sorted(self.items.values(), key=lambda item: (-item.taken, item.item_id))

    def _random(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, 7, number])


def read_world(engine: Engine, shoppers: int, scenario: Scenario, seed: int) -> World:
    """Reads the world from a warehouse, with a sample of its users as shoppers.

    Raises:
        NotEnoughData: no user has enough actions.
    """
    with engine.connect() as connection:
        items = [
            Item(row.item_id, row.title, row.category_path, float(row.price), int(row.taken))
            for row in connection.execute(statement("simulation/catalogue"))
        ]
        habits: defaultdict[str, dict[str, float]] = defaultdict(dict)
        visits: defaultdict[str, float] = defaultdict(float)
        names = {"shoppers": shoppers, "seed": seed, "fewest": _MIN_USER_EVENTS}
        for row in connection.execute(statement("simulation/habits"), names):
            habits[row.user_id][row.item_id] = float(row.taken)
            visits[row.user_id] = max(visits[row.user_id], float(row.sessions))
        months: defaultdict[str, dict[int, float]] = defaultdict(dict)
        for row in connection.execute(statement("simulation/seasons")):
            months[row.category_path][row.month] = float(row.taken)
    if not habits:
        raise NotEnoughData("No user has enough actions to derive shopping habits. Ingest more events first")
    known = {item.item_id: item for item in items}
    shoppers_read = [_shopper(user_id, taken, visits[user_id], known) for user_id, taken in habits.items()]
    return World(items, shoppers_read, _seasons(months), scenario, seed)


def _shopper(user_id: str, taken: dict[str, float], visits: float, items: dict[str, Item]) -> Shopper:
    tastes: defaultdict[str, float] = defaultdict(float)
    for item_id, count in taken.items():
        tastes[items[item_id].category] += count
    prices = sorted(items[item_id].price for item_id in taken)
    return Shopper(user_id, taken, dict(tastes), prices[len(prices) * 9 // 10], visits)


def _seasons(months: dict[str, dict[int, float]]) -> dict[str, dict[int, float]]:
    """Returns the demand of each category in each month relative to its mean, smoothed towards 1."""
    of_month: defaultdict[int, float] = defaultdict(float)
    for counts in months.values():
        for month, count in counts.items():
            of_month[month] += count
    everything = sum(of_month.values())
    found = {}
    for category, counts in months.items():
        usual = sum(counts.values()) / everything
        found[category] = {
            month: (count + _SEASON_SMOOTHING_EVENTS) / (usual * of_month[month] + _SEASON_SMOOTHING_EVENTS)
            for month, count in counts.items()
        }
    return found


def draw_search_query(item: Item, random: np.random.Generator) -> str:
    """Draws a search query for an item: one or two words of its title or category, in lower case."""
    words = _WORD.findall(item.title.lower()) or _WORD.findall(item.category.lower())
    if not words:
        return item.title or item.item_id
    count = min(len(words), 1 + int(random.random() < 0.6))
    begin = int(random.integers(len(words) - count + 1))
    return " ".join(words[begin : begin + count])


def _draw_weighted(items: Sequence[Item], weights: Sequence[float], random: np.random.Generator) -> Item:
    edges = np.cumsum(weights[: len(items)])
    return items[min(int(np.searchsorted(edges, random.random() * edges[-1], side="right")), len(items) - 1)]
