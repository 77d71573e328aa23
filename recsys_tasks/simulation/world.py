"""Simulated world: catalog, shoppers with their intents, and seasons, changed by a scenario."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

import numpy as np

from recsys_tasks.simulation.baskets import Baskets, companion_rates
from recsys_tasks.simulation.histories import History
from recsys_tasks.simulation.intents import IntentModel, Popularity
from recsys_tasks.simulation.scenario import Scenario, ScenarioEvent

_RARE_FRACTION = 0.5  # trends are drawn from the less popular half of a category
_WORD = re.compile(r"\w{3,}")
_NUM_LARGE_CATEGORIES = 20


@dataclass(frozen=True)
class Item:
    """Catalog item as a shopper sees it; `taken` is its number of actions in the warehouse."""

    item_id: str
    title: str
    category: str
    price: float
    taken: int


@dataclass
class Shopper:
    """Simulated user: the id the shop knows, the actions so far, the budget, and the number of sessions in the
    warehouse.
    """

    user_id: str
    history: History = field(compare=False)
    budget: float
    visits: float


class Catalog:
    """Items and categories by number: an item's is its place in the list, categories are sorted by name.

    Attributes:
        items: the items; number_of: number by item id; categories: names; category_of: category of each item [I].
        items_of: item numbers of each category.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.number_of = {item.item_id: number for number, item in enumerate(items)}
        self.categories = sorted({item.category for item in items})
        place = {name: number for number, name in enumerate(self.categories)}
        self.category_of = np.asarray([place[item.category] for item in items], np.int64)
        by_category = np.argsort(self.category_of, kind="stable")
        edges = np.searchsorted(self.category_of[by_category], np.arange(1, len(self.categories)))
        self.items_of = np.split(by_category, edges)

    def seasonal_demand(self, seasons: dict[str, dict[int, float]], month: int) -> np.ndarray:
        """Returns the relative demand of each category in a month [C]."""
        return np.asarray([seasons.get(name, {}).get(month, 1.0) for name in self.categories])


class World:
    """Catalog, shoppers and active scenario events of any day.

    Args:
        items: the catalog; shoppers: the population; seasons: relative demand of a category by month; scenario: events
        that change the world; seed: of all random draws; model: of the shoppers' intents; popularity: of the items, for
        discoveries; baskets: what goes together.
    """

    def __init__(
        self,
        items: Sequence[Item],
        shoppers: Sequence[Shopper],
        seasons: dict[str, dict[int, float]],
        scenario: Scenario,
        seed: int,
        model: IntentModel,
        popularity: Popularity,
        baskets: Baskets,
    ) -> None:
        self.items = {item.item_id: item for item in items}
        self.shoppers = shoppers
        self.model = model
        self.catalog, self.popularity, self.baskets = Catalog(items), popularity, baskets
        self._seasons, self.scenario, self.seed = seasons, scenario, seed
        of_category: defaultdict[str, list[Item]] = defaultdict(list)
        for item in items:
            of_category[item.category].append(item)
        self._items_by_category = dict(of_category)
        self._visits = np.cumsum([shopper.visits for shopper in shoppers])
        self._mixes: dict[str, np.ndarray] = {}
        self._demands: dict[tuple[int, int], np.ndarray] = {}

    def draw_shopper(self, random: np.random.Generator) -> Shopper:
        """Draws a shopper in proportion to the number of sessions."""
        return self.shoppers[int(np.searchsorted(self._visits, random.random() * self._visits[-1], side="right"))]

    def draw_intents(
        self, shopper: Shopper, day: int, at: datetime, count: int, random: np.random.Generator
    ) -> list[Item]:
        """Draws the items that a shopper wants in a session of a day, at most `count` different ones."""
        model, history = self.model, shopper.history
        mix, demand = self._mix(shopper), self._demand(day, at.month)
        mission = np.eye(len(mix))[_draw(mix, random)]
        alone = model.category_probabilities(history, at.timestamp(), mission, demand)
        of_category, companions = alone, []
        intents: list[int] = []
        while len(intents) < count:
            item = self._draw_trend(day, intents, random)
            while item is None and of_category.any():
                category = _draw(of_category, random)
                item = self._draw_item(history, model.missions.main(mix), category, intents, random)
                if item is None:  # all of its items are wanted already
                    alone[category] = of_category[category] = 0.0
            if item is None:
                break
            intents.append(item)
            companions.append(self.baskets.of_category(int(self.catalog.category_of[item])))
            of_category = alone * companion_rates(companions, model.category_prior)
        return [self.catalog.items[number] for number in intents]

    def _draw_item(
        self, history: History, main: int, category: int, intents: Sequence[int], random: np.random.Generator
    ) -> int | None:
        """Draws an item of a category that goes with the earlier intents and is not among them; None if all are."""
        items, weights = self.item_probabilities(history, category, main)
        weights = np.where(np.isin(items, intents), 0.0, weights)
        if intents:
            counts = [self.baskets.of_item(earlier, items) for earlier in intents]
            weights = weights * companion_rates(counts, self.model.item_prior)
        return int(items[_draw(weights, random)]) if weights.any() else None

    def record_purchases(self, shopper: Shopper, items: Sequence[Item], at: datetime) -> None:
        """Adds purchases to a shopper's history: the needs that they met rest for a while."""
        numbers = np.asarray([self.catalog.number_of[item.item_id] for item in items], np.int64)
        shopper.history = shopper.history.append(numbers, self.catalog.category_of[numbers], at.timestamp())

    def _draw_trend(self, day: int, intents: Sequence[int], random: np.random.Generator) -> int | None:
        """Draws an item of a trend that is not wanted yet; None without a trend, or if all are."""
        for event_number, trend in self.scenario.active_events(day, "trend"):
            if random.random() >= trend.strength:
                continue
            numbers = [self.catalog.number_of[item.item_id] for item in self.trend_items(event_number)]
            left = [number for number in numbers if number not in intents]
            if left:
                return left[int(random.integers(len(left)))]
        return None

    def item_probabilities(self, history: History, category: int, mission: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the items of a category [M], and the probability [M] that each is the one that a household wants.

        Args:
            mission: main mission of the household.
        """
        items = self.catalog.items_of[category]
        return items, self.model.item_probabilities(history, category, items, self.popularity.of(items, mission))

    def _mix(self, shopper: Shopper) -> np.ndarray:
        if shopper.user_id not in self._mixes:
            self._mixes[shopper.user_id] = self.model.missions.mix(*shopper.history.session_categories())
        return self._mixes[shopper.user_id]

    def _demand(self, day: int, month: int) -> np.ndarray:
        """Relative demand of each category on a day [C]: season and scenario."""
        if (day, month) not in self._demands:
            demand = self.catalog.seasonal_demand(self._seasons, month)
            for number, dying in self.scenario.active_events(day, "dying_category"):
                gone = dying.category or self.draw_category(number)
                demand *= np.asarray([1 - dying.strength if name == gone else 1.0 for name in self.catalog.categories])
            self._demands[day, month] = demand
        return self._demands[day, month]

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


def draw_search_query(item: Item, random: np.random.Generator) -> str:
    """Draws a search query for an item: one or two words of its title or category, in lower case."""
    words = _WORD.findall(item.title.lower()) or _WORD.findall(item.category.lower())
    if not words:
        return item.title or item.item_id
    count = min(len(words), 1 + int(random.random() < 0.6))
    begin = int(random.integers(len(words) - count + 1))
    return " ".join(words[begin : begin + count])


def _draw(weights: np.ndarray, random: np.random.Generator) -> int:
    edges = np.cumsum(weights)
    return min(int(np.searchsorted(edges, random.random() * edges[-1], side="right")), len(edges) - 1)
