"""Shoppers at the endpoint: they ask, look down the list as far as patience goes, click, search, buy, and get tired."""

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
from recsys_tasks.simulation.world import Item, Shopper, World, own_words

_SECONDS = 30.0
_HOURS = np.asarray([0, 0, 0, 0, 0, 1, 2, 4, 6, 7, 8, 8, 8, 7, 6, 6, 7, 9, 10, 9, 7, 5, 3, 1], float)
_BOT_REQUESTS = 100
_BOT_PAUSE = timedelta(milliseconds=200)


@dataclass(frozen=True)
class Behaviour:
    """How people are.

    Attributes:
        examination: a place p is looked at with a chance of p to the power of minus this (the position-based model,
            Craswell et al. 2008).
        curious: the chance to click anything that is looked at; wanted, needed, usual: what is added for the very item
            that is wanted, one of its category, and one that is a habit.
        tiring: what remains of a chance each time an item was looked at on the same day without a click.
        too_dear: what remains of it for what costs more than what is usually paid.
        cart, buys: the chance to put in the cart what was clicked and is wanted or needed; and then to buy it.
        searches: the chance to search for what is wanted and was not found, rather than to ask for another list.
        elsewhere: the chance to find what is wanted on one's own after all, such as in a menu, and to buy it.
        leaves: the chance to go after each list; wishes: the mean number of things that are wanted.
    """

    examination: float = 0.8
    curious: float = 0.02
    wanted: float = 0.75
    needed: float = 0.25
    usual: float = 0.10
    tiring: float = 0.85
    too_dear: float = 0.4
    cart: float = 0.6
    buys: float = 0.75
    searches: float = 0.4
    elsewhere: float = 0.2
    leaves: float = 0.3
    wishes: float = 2.0


@dataclass
class Shopped:
    """What came of it: counts, and the click-through of the lists that were not searched for."""

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
        """For people."""
        return {**asdict(self), "revenue": round(self.revenue, 2), "click_through": round(self.click_through, 4)}

    @property
    def click_through(self) -> float:
        """Of the items recommended, the share that was clicked."""
        return self.recommended_clicks / self.recommended if self.recommended else 0.0


class Shop:
    """The endpoint as a shopper meets it.

    Args:
        url: its address.
        k: the length of lists.

    Raises (by its methods):
        UnavailableError: it does not answer, or refuses.
    """

    def __init__(self, url: str, k: int, key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, timeout=_SECONDS, headers=headers)
        self._k = k

    def recommend(self, user_id: str, session_id: str, at: datetime) -> dict[str, Any]:
        """A list for somebody."""
        return self._post("/v1/recommendations", self._asked(user_id, session_id, at))

    def search(self, user_id: str, session_id: str, at: datetime, query: str) -> dict[str, Any]:
        """A list for words."""
        return self._post("/v1/search", {**self._asked(user_id, session_id, at), "query": query})

    def tell(self, events: Sequence[dict[str, Any]]) -> None:
        """What was done."""
        self._post("/v1/events", list(events))

    def close(self) -> None:
        """Leaves."""
        self._http.close()

    def _asked(self, user_id: str, session_id: str, at: datetime) -> dict[str, Any]:
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
    """A session that is to come: who, since when, and whether the shop knows the person; its number seeds it."""

    number: int
    shopper: Shopper
    user_id: str
    at: datetime


def visits(world: World, day: int, begins: datetime, sessions: int) -> list[Visit]:
    """The sessions of a day in the order of time, drawn by the world's seed."""
    random = np.random.default_rng([world.seed, 1, day])
    hours = random.choice(24, sessions, p=_HOURS / _HOURS.sum())
    seconds = np.sort(hours * 3600 + random.uniform(0, 3600, sessions))
    new = world.newcomer_share(day)
    found = []
    for number, second in enumerate(seconds.tolist()):
        shopper = world.shopper(random)
        newcomer = random.random() < new
        user_id = f"newcomer-{world.seed}-{day}-{number}" if newcomer else shopper.user_id
        found.append(Visit(number, shopper, user_id, begins + timedelta(seconds=second)))
    return found


def shop(
    shop: Shop,
    world: World,
    begins: datetime,
    days: range,
    sessions: int,
    behaviour: Behaviour | None = None,
    on_day: Callable[[int, Shopped], None] = lambda day, shopped: None,
) -> Shopped:
    """Lets the shoppers of a world shop for some days.

    Args:
        shop: where.
        begins: the midnight at which day 0 of the scenario began.
        days: of the scenario.
        sessions: a day.
        on_day: called with each day's number and what came of it.
    """
    total = Shopped()
    for day in days:
        of_day, crowd = Shopped(), _Crowd(shop, world, behaviour or Behaviour())
        midnight = begins + timedelta(days=day)
        for visit in visits(world, day, midnight, sessions):
            crowd.visit(visit, day, of_day)
        for name, pushed in world.bots(day):
            crowd.attack(name, pushed, day, midnight + timedelta(hours=12), of_day)
        on_day(day, of_day)
        for name, count in asdict(of_day).items():
            setattr(total, name, getattr(total, name) + count)
    return total


class _Crowd:
    """People of one day with their fatigue, which is gone the next morning."""

    def __init__(self, shop: Shop, world: World, behaviour: Behaviour) -> None:
        self._shop, self._world, self._behaviour = shop, world, behaviour
        self._tired: Counter[tuple[str, str]] = Counter()

    def visit(self, visit: Visit, day: int, counted: Shopped) -> None:
        """One session, from the first list until the shopper goes."""
        world, how = self._world, self._behaviour
        random = np.random.default_rng([world.seed, 2, day, visit.number])
        session = f"sim-{world.seed}-{day}-{visit.number}"
        wishes = [
            world.wish(visit.shopper, day, visit.at.month, random)
            for _ in range(1 + int(random.poisson(how.wishes - 1)))
        ]
        person = _Person(visit.shopper, visit.user_id, wishes, world.sold_out(day), self._tired, how, random)
        at, ids = visit.at, _numbers(session)
        counted.sessions += 1
        searched = False
        while True:
            query = own_words(person.wishes[0], random) if searched and person.wishes else None
            if query is None:
                answer = self._shop.recommend(visit.user_id, session, at)
                counted.recommended += len(answer["items"])
            else:
                answer = self._shop.search(visit.user_id, session, at, query)
                counted.searches += 1
            events = list(self._look(person, answer, session, at, ids))
            if events:
                self._shop.tell(events)
            self._count(counted, answer, events, recommended=query is None)
            at += timedelta(seconds=float(random.uniform(20, 90)) + 20 * len(events))
            if not person.wishes or random.random() < how.leaves:
                self._find_elsewhere(person, session, at, ids, counted)
                return
            searched = random.random() < how.searches

    def _look(
        self, person: _Person, answer: dict[str, Any], session: str, at: datetime, ids: Iterator[str]
    ) -> Iterator[dict[str, Any]]:
        """What somebody does with a list, as events."""
        for place, entry in enumerate(answer["items"], start=1):
            item = self._world.items.get(entry["item_id"])
            if item is None or not person.examines(place):
                continue
            for event_type in person.does(item):
                at += timedelta(seconds=float(person.random.uniform(3, 15)))
                event = _event(next(ids), event_type, person.user_id, session, item, at)
                yield {**event, "request_id": answer["request_id"], "position": place}

    def _find_elsewhere(
        self, person: _Person, session: str, at: datetime, ids: Iterator[str], counted: Shopped
    ) -> None:
        """What is still wanted when somebody goes is now and then found without any list."""
        found = [wish for wish in person.wishes if person.random.random() < self._behaviour.elsewhere]
        events = []
        for item in found:
            for event_type in (VIEW, ADD_TO_CART, PURCHASE):
                at += timedelta(seconds=float(person.random.uniform(3, 15)))
                events.append(_event(next(ids), event_type, person.user_id, session, item, at))
        if events:
            self._shop.tell(events)
            counted.elsewhere += len(found)

    def attack(self, name: str, pushed: Sequence[Item], day: int, at: datetime, counted: Shopped) -> None:
        """A machine that asks without a pause and acts on the same few items, as if it had seen them."""
        session, ids = f"{name}-{day}", _numbers(f"{name}-{day}-{self._world.seed}")
        for number in range(_BOT_REQUESTS):
            at += _BOT_PAUSE
            answer = self._shop.recommend(name, session, at)
            item = pushed[number % len(pushed)]
            self._shop.tell([{**_event(next(ids), VIEW, name, session, item, at), "request_id": answer["request_id"]}])
            counted.requests += 1
            counted.impressions += len(answer["items"])

    @staticmethod
    def _count(counted: Shopped, answer: dict[str, Any], events: list[dict[str, Any]], recommended: bool) -> None:
        kinds = Counter(event["event_type"] for event in events)
        counted.requests += 1
        counted.impressions += len(answer["items"])
        counted.clicks += kinds[VIEW]
        counted.carts += kinds[ADD_TO_CART]
        counted.purchases += kinds[PURCHASE]
        counted.revenue += sum(event.get("price", 0.0) for event in events)
        counted.recommended_clicks += kinds[VIEW] if recommended else 0


class _Person:
    """Somebody in a session: with wishes that are fulfilled one by one, and items that were seen too often."""

    def __init__(
        self,
        shopper: Shopper,
        user_id: str,
        wishes: list[Item],
        sold_out: set[str],
        tired: Counter[tuple[str, str]],
        behaviour: Behaviour,
        random: np.random.Generator,
    ) -> None:
        self.shopper, self.user_id, self.wishes, self.random = shopper, user_id, wishes, random
        self._sold_out, self._tired, self._how = sold_out, tired, behaviour

    def examines(self, place: int) -> bool:
        """Whether a place of the list is looked at."""
        return bool(self.random.random() < place**-self._how.examination)

    def does(self, item: Item) -> list[str]:
        """What is done with an item that is looked at, in order: nothing, or a click and what follows."""
        how, seen = self._how, (self.user_id, item.item_id)
        wanted = any(item.item_id == wish.item_id for wish in self.wishes)
        needed = any(item.category == wish.category for wish in self.wishes)
        chance = how.curious + how.wanted * wanted + how.needed * needed
        chance += how.usual * (item.item_id in self.shopper.habits)
        chance *= how.tiring ** self._tired[seen]
        if item.price > self.shopper.budget and not wanted:
            chance *= how.too_dear
        if self.random.random() >= min(chance, 1.0):
            self._tired[seen] += 1
            return []
        self._tired[seen] = 0
        if item.item_id in self._sold_out or not (wanted or needed) or self.random.random() >= how.cart:
            return [VIEW]
        if self.random.random() >= how.buys:
            return [VIEW, ADD_TO_CART]
        self._fulfil(item)
        return [VIEW, ADD_TO_CART, PURCHASE]

    def _fulfil(self, item: Item) -> None:
        place = next((n for n, wish in enumerate(self.wishes) if wish.item_id == item.item_id), None)
        if place is None:
            place = next(n for n, wish in enumerate(self.wishes) if wish.category == item.category)
        self.wishes.pop(place)


def _event(event_id: str, event_type: str, user_id: str, session: str, item: Item, at: datetime) -> dict[str, Any]:
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


def _numbers(name: str) -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"{name}-{number}"
