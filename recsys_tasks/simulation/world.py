"""The world that shoppers live in: a catalogue, habits and seasons of real data, and what a scenario makes of them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sqlalchemy import Engine

from recsys_tasks.errors import NotEnoughData
from recsys_tasks.simulation.scenario import Happening, Scenario
from recsys_tasks.warehouse import statement

_FEWEST_EVENTS = 5
_RARE = 0.5  # a trend is of items in the less known half of its category
_WORD = re.compile(r"\w{3,}")
_BIG_CATEGORIES = 20
_LOYALTY = 0.7
_SMOOTHING = 20.0


@dataclass(frozen=True)
class Item:
    """What a shopper sees of an item, and how many took it before."""

    item_id: str
    title: str
    category: str
    price: float
    taken: int


@dataclass(frozen=True)
class Shopper:
    """A person: the id the shop knows, habits as items with weights, tastes as categories with weights, what is mostly
    paid, and how often the person comes."""

    user_id: str
    habits: dict[str, float]
    tastes: dict[str, float]
    budget: float
    visits: float


class World:
    """All there is on a day.

    Args:
        items: the catalogue; shoppers: the population; seasons: of a category, how much more is wanted of it in each
            month than in others; scenario: what else happens; seed: of everything that is drawn.
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
        self._of_category = dict(of_category)
        self._visits = np.cumsum([shopper.visits for shopper in shoppers])

    def shopper(self, random: np.random.Generator) -> Shopper:
        """Somebody who comes, frequent ones more often."""
        return self.shoppers[int(np.searchsorted(self._visits, random.random() * self._visits[-1], side="right"))]

    def wish(self, shopper: Shopper, day: int, month: int, random: np.random.Generator) -> Item:
        """Something that a shopper wants on a day: of a trend, or of a category of the shopper's taste, there mostly
        what the shopper is used to."""
        for number, trend in self.scenario.on(day, "trend"):
            if random.random() < trend.strength:
                return _drawn(self.trending(number), [1.0] * trend.items, random)
        category = self._category(shopper, day, month, random)
        known = [item for item in self._of_category[category] if item.item_id in shopper.habits]
        if known and random.random() < _LOYALTY:
            return _drawn(known, [shopper.habits[item.item_id] for item in known], random)
        of_category = self._of_category[category]
        return _drawn(of_category, [item.taken for item in of_category], random)

    def _category(self, shopper: Shopper, day: int, month: int, random: np.random.Generator) -> str:
        names = list(shopper.tastes)
        weights = [shopper.tastes[name] * self._seasons.get(name, {}).get(month, 1.0) for name in names]
        for number, dying in self.scenario.on(day, "dying_category"):
            gone = dying.category or self.drawn_category(number)
            weights = [
                weight * (1 - dying.strength if name == gone else 1.0)
                for name, weight in zip(names, weights, strict=True)
            ]
        total = sum(weights)
        if not total:
            return names[0]
        place = int(np.searchsorted(np.cumsum(weights), random.random() * total, side="right"))
        return names[min(place, len(names) - 1)]

    def trending(self, number: int) -> list[Item]:
        """The items of the scenario's happening with a number: some that few took."""
        trend = self.scenario.happens[number]
        items = sorted(
            self._of_category.get(trend.category or self.drawn_category(number), []),
            key=lambda item: (item.taken, item.item_id),
        )
        few = items[: max(int(len(items) * _RARE), trend.items)]
        random = self._random(number)
        return [few[place] for place in random.permutation(len(few))[: trend.items].tolist()]

    def sold_out(self, day: int) -> set[str]:
        """Ids of the items that cannot be had on a day."""
        gone: set[str] = set()
        for _, happening in self.scenario.on(day, "stock_out"):
            gone |= {item.item_id for item in self._most_taken[: happening.items]}
        return gone

    def bots(self, day: int) -> list[tuple[str, list[Item]]]:
        """Machines that come on a day, and what they click."""
        found = []
        for number, bots in self.scenario.on(day, "bots"):
            found += [(f"bot-{number}-{place}", self.pushed(number, bots)) for place in range(bots.visitors)]
        return found

    def pushed(self, number: int, bots: Happening) -> list[Item]:
        """What machines click: items that hardly anybody takes."""
        random = self._random(number)
        least = self._most_taken[len(self._most_taken) // 2 :] or self._most_taken
        return [least[place] for place in random.permutation(len(least))[: bots.items].tolist()]

    def newcomer_share(self, day: int) -> float:
        """What share of a day's sessions is of people whom nobody has seen before."""
        return max((happening.strength for _, happening in self.scenario.on(day, "newcomers")), default=0.0)

    def drawn_category(self, number: int) -> str:
        """A large category, drawn for a happening that names none."""
        large = sorted(self._of_category, key=lambda name: (-self._taken_of[name], name))[:_BIG_CATEGORIES]
        return large[int(self._random(number).integers(len(large)))]

    @cached_property
    def _taken_of(self) -> dict[str, int]:
        return {name: sum(item.taken for item in items) for name, items in self._of_category.items()}

    @cached_property
    def _most_taken(self) -> list[Item]:
        return sorted(self.items.values(), key=lambda item: (-item.taken, item.item_id))

    def _random(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, 7, number])


def read_world(engine: Engine, shoppers: int, scenario: Scenario, seed: int) -> World:
    """The world of a warehouse, with so many of its users as shoppers.

    Raises:
        NotEnoughData: nobody took anything so far.
    """
    with engine.connect() as connection:
        items = [
            Item(row.item_id, row.title, row.category_path, float(row.price), int(row.taken))
            for row in connection.execute(statement("simulation/catalogue"))
        ]
        habits: defaultdict[str, dict[str, float]] = defaultdict(dict)
        visits: defaultdict[str, float] = defaultdict(float)
        names = {"shoppers": shoppers, "seed": seed, "fewest": _FEWEST_EVENTS}
        for row in connection.execute(statement("simulation/habits"), names):
            habits[row.user_id][row.item_id] = float(row.taken)
            visits[row.user_id] = max(visits[row.user_id], float(row.sessions))
        months: defaultdict[str, dict[int, float]] = defaultdict(dict)
        for row in connection.execute(statement("simulation/seasons")):
            months[row.category_path][row.month] = float(row.taken)
    if not habits:
        raise NotEnoughData("Nobody took anything so far, so that shoppers have no habits; ingest some events first")
    known = {item.item_id: item for item in items}
    people = [_shopper(user_id, taken, visits[user_id], known) for user_id, taken in habits.items()]
    return World(items, people, _seasons(months), scenario, seed)


def _shopper(user_id: str, taken: dict[str, float], visits: float, items: dict[str, Item]) -> Shopper:
    tastes: defaultdict[str, float] = defaultdict(float)
    for item_id, count in taken.items():
        tastes[items[item_id].category] += count
    prices = sorted(items[item_id].price for item_id in taken)
    return Shopper(user_id, taken, dict(tastes), prices[len(prices) * 9 // 10], visits)


def _seasons(months: dict[str, dict[int, float]]) -> dict[str, dict[int, float]]:
    """How much more of each category is taken in each month, as a share of the usual; of what is taken seldom, 1."""
    of_month: defaultdict[int, float] = defaultdict(float)
    for counts in months.values():
        for month, count in counts.items():
            of_month[month] += count
    everything = sum(of_month.values())
    found = {}
    for category, counts in months.items():
        usual = sum(counts.values()) / everything
        found[category] = {
            month: (count + _SMOOTHING) / (usual * of_month[month] + _SMOOTHING) for month, count in counts.items()
        }
    return found


def own_words(item: Item, random: np.random.Generator) -> str:
    """How somebody would search for an item: one or two words of its title or of its kind, small letters."""
    words = _WORD.findall(item.title.lower()) or _WORD.findall(item.category.lower())
    if not words:
        return item.title or item.item_id
    count = min(len(words), 1 + int(random.random() < 0.6))
    begin = int(random.integers(len(words) - count + 1))
    return " ".join(words[begin : begin + count])


def _drawn(items: Sequence[Item], weights: Sequence[float], random: np.random.Generator) -> Item:
    edges = np.cumsum(weights[: len(items)])
    return items[min(int(np.searchsorted(edges, random.random() * edges[-1], side="right")), len(items) - 1)]
