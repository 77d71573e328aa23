"""Shopper simulation: position bias, impression discounting, searches, carts and purchases at an endpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import httpx
import numpy as np

from recsys_tasks.errors import UnavailableError
from recsys_tasks.names import ADD_TO_CART, PURCHASE, VIEW
from recsys_tasks.simulation.world import Item, Shopper, World, draw_search_query

_TIMEOUT_SECONDS = 30.0
_HOURLY_TRAFFIC = np.asarray([0, 0, 0, 0, 0, 1, 2, 4, 6, 7, 8, 8, 8, 7, 6, 6, 7, 9, 10, 9, 7, 5, 3, 1], float)
_BOT_REQUESTS = 100
_BOT_PAUSE = timedelta(milliseconds=200)


@dataclass(frozen=True)
class ShopperBehavior:
    """Parameters of the behavior model.

    Attributes:
        position_bias_exponent: position p is examined with probability p ** -exponent (position-based model, Craswell
            et al. 2008).
        base_click_probability: of any examined item; wanted_item_boost, wanted_category_boost: added for a wanted item
            and an item of a wanted category.
        impression_discount: factor for each unclicked impression of the item on the same day.
        over_budget_factor: factor for items above the shopper's budget.
        add_to_cart_probability: after a click on an item that is wanted or of a wanted category; purchase_probability:
            after that.
        search_probability: that the next list is a search for a wanted item instead of a recommendation.
        organic_purchase_probability: that a wanted item is bought without a list when the session ends.
        exit_probability: after each list; mean_intents: mean number of wanted items in a session.
    """

    position_bias_exponent: float = 0.8
    base_click_probability: float = 0.02
    wanted_item_boost: float = 0.75
    wanted_category_boost: float = 0.25
    impression_discount: float = 0.85
    over_budget_factor: float = 0.4
    add_to_cart_probability: float = 0.6
    purchase_probability: float = 0.75
    search_probability: float = 0.4
    organic_purchase_probability: float = 0.2
    exit_probability: float = 0.3
    mean_intents: float = 2.0


@dataclass
class ShoppingStats:
    """Counts of a simulation; `elsewhere` counts organic purchases, `recommended` items of lists without a query."""

    sessions: int = 0
    requests: int = 0
    impressions: int = 0
    clicks: int = 0
    carts: int = 0
    purchases: int = 0
    searches: int = 0
    revenue: float = 0.0
    elsewhere: int = 0
    recommended: int = 0
    recommended_clicks: int = 0

    def as_dict(self) -> dict[str, float]:
        """Returns rounded figures for output."""
        return {**asdict(self), "revenue": round(self.revenue, 2), "click_through": round(self.click_through, 4)}

    @property
    def click_through(self) -> float:
        """Share of recommended items that was clicked."""
        return self.recommended_clicks / self.recommended if self.recommended else 0.0


class StorefrontClient:
    """HTTP client of the endpoint, as a storefront uses it.

    Args:
        url: of the endpoint.
        k: length of lists.
        key: API key for writing events.

    Raises (by its methods):
        UnavailableError: the endpoint does not respond, or refuses the request.
    """

    def __init__(self, url: str, k: int, key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, timeout=_TIMEOUT_SECONDS, headers=headers)
        self._k = k

    def recommend(self, user_id: str, session_id: str, at: datetime) -> dict[str, Any]:
        """Requests recommendations for a user."""
        return self._post("/v1/recommendations", self._request_body(user_id, session_id, at))

    def search(self, user_id: str, session_id: str, at: datetime, query: str) -> dict[str, Any]:
        """Requests search results for a query."""
        return self._post("/v1/search", {**self._request_body(user_id, session_id, at), "query": query})

    def send_events(self, events: Sequence[dict[str, Any]]) -> None:
        """Sends user actions."""
        self._post("/v1/events", list(events))

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()

    def _request_body(self, user_id: str, session_id: str, at: datetime) -> dict[str, Any]:
        return {"user_id": user_id, "session_id": session_id, "time": at.isoformat(), "k": self._k}

    def _post(self, path: str, body: object) -> dict[str, Any]:
        try:
            answer = self._http.post(path, json=body)
            answer.raise_for_status()
        except httpx.HTTPStatusError as error:
            raise UnavailableError(f"{error.request.url}: {error.response.text[:300]}") from error
        except httpx.HTTPError as error:
            raise UnavailableError(f"{self._http.base_url}{path}: {error}") from error
        found: dict[str, Any] = answer.json()
        return found


class Visit(NamedTuple):
    """Scheduled session: its number, which seeds it, the shopper, the user id the shop sees, and the start time."""

    number: int
    shopper: Shopper
    user_id: str
    at: datetime


def draw_visits(world: World, day: int, begins: datetime, sessions: int) -> list[Visit]:
    """Draws the sessions of a day from the world's seed, in order of time."""
    random = np.random.default_rng([world.seed, 1, day])
    hours = random.choice(24, sessions, p=_HOURLY_TRAFFIC / _HOURLY_TRAFFIC.sum())
    seconds = np.sort(hours * 3600 + random.uniform(0, 3600, sessions))
    new = world.newcomer_share(day)
    found = []
    for number, second in enumerate(seconds.tolist()):
        shopper = world.draw_shopper(random)
        newcomer = random.random() < new
        user_id = f"newcomer-{world.seed}-{day}-{number}" if newcomer else shopper.user_id
        found.append(Visit(number, shopper, user_id, begins + timedelta(seconds=second)))
    return found


def simulate_shopping(
    client: StorefrontClient,
    world: World,
    begins: datetime,
    days: range,
    sessions: int,
    behavior: ShopperBehavior | None = None,
    on_day: Callable[[int, ShoppingStats], None] = lambda day, stats: None,
) -> ShoppingStats:
    """Simulates shopping for some days; returns the total figures.

    Args:
        client: of the endpoint.
        begins: midnight of the scenario's day 0.
        days: of the scenario.
        sessions: number a day.
        on_day: callback with each day's number and figures.
    """
    total = ShoppingStats()
    for day in days:
        of_day, population = ShoppingStats(), _ShopperPopulation(client, world, behavior or ShopperBehavior())
        midnight = begins + timedelta(days=day)
        for visit in draw_visits(world, day, midnight, sessions):
            population.run_session(visit, day, of_day)
        for name, promoted_items in world.bots(day):
            population.run_bot(name, promoted_items, day, midnight + timedelta(hours=12), of_day)
        on_day(day, of_day)
        for name, count in asdict(of_day).items():
            setattr(total, name, getattr(total, name) + count)
    return total


class _ShopperPopulation:
    """Shoppers and bots of one day, with their unclicked impressions, which are reset daily."""

    def __init__(self, client: StorefrontClient, world: World, behavior: ShopperBehavior) -> None:
        self._client, self._world, self._behavior = client, world, behavior
        self._unclicked: Counter[tuple[str, str]] = Counter()

    def run_session(self, visit: Visit, day: int, stats: ShoppingStats) -> None:
        """Simulates one session from the first list until the shopper leaves."""
        world, behavior = self._world, self._behavior
        random = np.random.default_rng([world.seed, 2, day, visit.number])
        session = f"sim-{world.seed}-{day}-{visit.number}"
        count = 1 + int(random.poisson(behavior.mean_intents - 1))
        intents = world.draw_intents(visit.shopper, day, visit.at, count, random)
        person = _ShopperSession(
            visit.shopper, visit.user_id, intents, world.sold_out(day), self._unclicked, behavior, random
        )
        at, ids = visit.at, _event_ids(session)
        stats.sessions += 1
        searched = False
        while True:
            query = draw_search_query(person.intents[0], random) if searched and person.intents else None
            if query is None:
                answer = self._client.recommend(visit.user_id, session, at)
                stats.recommended += len(answer["items"])
            else:
                answer = self._client.search(visit.user_id, session, at, query)
                stats.searches += 1
            events = list(self._react_to_list(person, answer, session, at, ids))
            if events:
                self._client.send_events(events)
            self._count(stats, answer, events, recommended=query is None)
            at += timedelta(seconds=float(random.uniform(20, 90)) + 20 * len(events))
            if not person.intents or random.random() < behavior.exit_probability:
                self._purchase_organically(person, session, at, ids, stats)
                if person.purchased:
                    world.record_purchases(visit.shopper, person.purchased, at)
                return
            searched = random.random() < behavior.search_probability

    def _react_to_list(
        self, person: _ShopperSession, answer: dict[str, Any], session: str, at: datetime, ids: Iterator[str]
    ) -> Iterator[dict[str, Any]]:
        """Yields a shopper's actions on a list as events."""
        for position, entry in enumerate(answer["items"], start=1):
            item = self._world.items.get(entry["item_id"])
            if item is None or not person.examines(position):
                continue
            for event_type in person.react_to(item):
                at += timedelta(seconds=float(person.random.uniform(3, 15)))
                event = _action_event(next(ids), event_type, person.user_id, session, item, at)
                yield {**event, "request_id": answer["request_id"], "position": position}

    def _purchase_organically(
        self, person: _ShopperSession, session: str, at: datetime, ids: Iterator[str], stats: ShoppingStats
    ) -> None:
        """Buys some of the items that are still wanted without any list."""
        found = [
            intent for intent in person.intents if person.random.random() < self._behavior.organic_purchase_probability
        ]
        events = []
        for item in found:
            for event_type in (VIEW, ADD_TO_CART, PURCHASE):
                at += timedelta(seconds=float(person.random.uniform(3, 15)))
                events.append(_action_event(next(ids), event_type, person.user_id, session, item, at))
        if events:
            self._client.send_events(events)
            person.purchased += found
            stats.elsewhere += len(found)

    def run_bot(self, name: str, promoted_items: Sequence[Item], day: int, at: datetime, stats: ShoppingStats) -> None:
        """Simulates a bot that requests lists without pause and clicks the same few items."""
        session, ids = f"{name}-{day}", _event_ids(f"{name}-{day}-{self._world.seed}")
        for number in range(_BOT_REQUESTS):
            at += _BOT_PAUSE
            answer = self._client.recommend(name, session, at)
            item = promoted_items[number % len(promoted_items)]
            self._client.send_events(
                [{**_action_event(next(ids), VIEW, name, session, item, at), "request_id": answer["request_id"]}]
            )
            stats.requests += 1
            stats.impressions += len(answer["items"])

    @staticmethod
    def _count(stats: ShoppingStats, answer: dict[str, Any], events: list[dict[str, Any]], recommended: bool) -> None:
        kinds = Counter(event["event_type"] for event in events)
        stats.requests += 1
        stats.impressions += len(answer["items"])
        stats.clicks += kinds[VIEW]
        stats.carts += kinds[ADD_TO_CART]
        stats.purchases += kinds[PURCHASE]
        stats.revenue += sum(event.get("price", 0.0) for event in events)
        stats.recommended_clicks += kinds[VIEW] if recommended else 0


class _ShopperSession:
    """State of a running session: open intents, unclicked impressions and purchased items."""

    def __init__(
        self,
        shopper: Shopper,
        user_id: str,
        intents: list[Item],
        sold_out: set[str],
        unclicked: Counter[tuple[str, str]],
        behavior: ShopperBehavior,
        random: np.random.Generator,
    ) -> None:
        self.shopper, self.user_id, self.intents, self.random = shopper, user_id, intents, random
        self._sold_out, self._unclicked, self._behavior = sold_out, unclicked, behavior
        self.purchased: list[Item] = []

    def examines(self, position: int) -> bool:
        """Whether the shopper examines a position of the list."""
        return bool(self.random.random() < position**-self._behavior.position_bias_exponent)

    def react_to(self, item: Item) -> list[str]:
        """Returns the event types that follow an examined item, in order; empty without a click."""
        behavior, seen = self._behavior, (self.user_id, item.item_id)
        is_wanted = any(item.item_id == intent.item_id for intent in self.intents)
        in_wanted_category = any(item.category == intent.category for intent in self.intents)
        probability = (
            behavior.base_click_probability
            + behavior.wanted_item_boost * is_wanted
            + behavior.wanted_category_boost * in_wanted_category
        )
        probability *= behavior.impression_discount ** self._unclicked[seen]
        if item.price > self.shopper.budget and not is_wanted:
            probability *= behavior.over_budget_factor
        if self.random.random() >= min(probability, 1.0):
            self._unclicked[seen] += 1
            return []
        self._unclicked[seen] = 0
        if (
            item.item_id in self._sold_out
            or not (is_wanted or in_wanted_category)
            or self.random.random() >= behavior.add_to_cart_probability
        ):
            return [VIEW]
        if self.random.random() >= behavior.purchase_probability:
            return [VIEW, ADD_TO_CART]
        self._fulfill_intent(item)
        self.purchased.append(item)
        return [VIEW, ADD_TO_CART, PURCHASE]

    def _fulfill_intent(self, item: Item) -> None:
        position = next((n for n, intent in enumerate(self.intents) if intent.item_id == item.item_id), None)
        if position is None:
            position = next(n for n, intent in enumerate(self.intents) if intent.category == item.category)
        self.intents.pop(position)


def _action_event(
    event_id: str, event_type: str, user_id: str, session: str, item: Item, at: datetime
) -> dict[str, Any]:
    paid = {"price": round(item.price, 2), "quantity": 1} if event_type == PURCHASE else {}
    return {
        "event_id": event_id,
        "event_type": event_type,
        "user_id": user_id,
        "session_id": session,
        "item_id": item.item_id,
        "event_time": at.isoformat(),
        **paid,
    }


def _event_ids(name: str) -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"{name}-{number}"
