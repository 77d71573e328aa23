"""A client of the endpoint for shops written in Python.

with RecommenderClient("http://127.0.0.1:8080") as shop:
    shown = shop.recommend(RecommendationRequest(user_id="36", k=5))
    shop.send(Event(event_type="view", user_id="36", item_id=shown.items[0].item_id, request_id=shown.request_id))
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from recsys_tasks.engine.items import Item
from recsys_tasks.serving.messages import (
    BatchAnswer,
    Event,
    EventsAnswer,
    ItemAnswer,
    Problem,
    RecommendationAnswer,
    RecommendationRequest,
    SearchAnswer,
    SearchRequest,
    SessionEvent,
    SimilarAnswer,
)

__all__ = [
    "EndpointRefused",
    "Event",
    "Item",
    "RecommendationRequest",
    "RecommenderClient",
    "SearchRequest",
    "SessionEvent",
]

_SECONDS = 2.0
Answer = TypeVar("Answer")


class EndpointRefused(Exception):
    """The endpoint's problem document, where it does not do what was asked."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}")
        self.problem = problem


class RecommenderClient:
    """One endpoint, over connections that are kept.

    Every method raises `EndpointRefused` for an answer that is a problem, and `httpx.TransportError` where there is no
    answer.

    Args:
        url: of the endpoint.
        key: for endpoints that want one.
        seconds: to wait for an answer.
    """

    def __init__(self, url: str, key: str | None = None, seconds: float = _SECONDS) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=seconds)

    def recommend(self, request: RecommendationRequest) -> RecommendationAnswer:
        """A list."""
        return self._ask("POST", "/v1/recommendations", RecommendationAnswer, request)

    def recommend_many(self, requests: Sequence[RecommendationRequest]) -> list[RecommendationAnswer]:
        """A list for each of up to 100 requests."""
        return self._ask("POST", "/v1/recommendations/batch", BatchAnswer, {"requests": requests}).answers

    def put_item(self, item_id: str, item: Item) -> ItemAnswer:
        """Tells of an item, so that it may be in the very next list; wants the administrator's key."""
        return self._ask("PUT", f"/v1/items/{quote(item_id, safe='')}", ItemAnswer, item)

    def search(self, request: SearchRequest) -> SearchAnswer:
        """What a query finds."""
        return self._ask("POST", "/v1/search", SearchAnswer, request)

    def similar(self, item_id: str, k: int = 20) -> SimilarAnswer:
        """The items most like one."""
        return self._ask("GET", f"/v1/items/{quote(item_id, safe='')}/similar?k={k}", SimilarAnswer)

    def send(self, *events: Event) -> EventsAnswer:
        """Sends up to 1,000 events; when this returns, they are durable and count.

        Those without an id get one first: sent again after an answer that was lost, an event counts once.
        """
        for event in events:
            event.event_id = event.event_id or uuid.uuid4().hex
        return self._ask("POST", "/v1/events", EventsAnswer, list(events))

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, method: str, path: str, answer: type[Answer], body: object = None) -> Answer:
        content = None if body is None else msgspec.json.encode(body)
        found = self._http.request(method, path, content=content)
        if found.is_success:
            return msgspec.json.decode(found.content, type=answer)
        try:
            problem = msgspec.json.decode(found.content, type=Problem)
        except msgspec.MsgspecError:  # something between us and the endpoint
            problem = Problem("about:blank", found.reason_phrase, found.status_code, found.text[:300])
        raise EndpointRefused(problem)
