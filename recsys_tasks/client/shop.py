"""HTTP client of the endpoint for shops written in Python.

with RecommenderClient("http://127.0.0.1:8080") as shop:
    shown = shop.recommend(RecommendationRequest(user_id="36", k=5))
    shop.send(Event(event_type="view", user_id="36", item_id=shown.items[0].item_id, request_id=shown.request_id))
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from recsys_tasks.wire.items import Item, ItemChanges
from recsys_tasks.wire.messages import (
    Event,
    EventsResponse,
    ItemResponse,
    Problem,
    RecommendationBatchResponse,
    RecommendationRequest,
    RecommendationResponse,
    SearchRequest,
    SearchResponse,
    SimilarItemsResponse,
    StoredItemResponse,
    SuggestionsResponse,
)

if TYPE_CHECKING:
    from typing_extensions import Self  # the client supports Python 3.10

_TIMEOUT_SECONDS = 2.0
Answer = TypeVar("Answer")


class EndpointError(Exception):
    """The endpoint answered with an error; `problem` is its problem document (RFC 9457)."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}")
        self.problem = problem


class RecommenderClient:
    """Client of one endpoint with persistent connections.

    Every method raises `EndpointError` for an error response and `httpx.TransportError` if there is no response.

    Args:
        url: the endpoint's address.
        key: API key, for endpoints that require one.
        timeout_seconds: how long to wait for a response.
    """

    def __init__(self, url: str, key: str | None = None, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_seconds)

    def recommend(self, request: RecommendationRequest) -> RecommendationResponse:
        """Returns a list of recommendations."""
        return self._request("POST", "/v1/recommendations", RecommendationResponse, request)

    def recommend_many(self, requests: Sequence[RecommendationRequest]) -> list[RecommendationResponse]:
        """Returns a list of recommendations for each of up to 100 requests."""
        return self._request(
            "POST", "/v1/recommendations/batch", RecommendationBatchResponse, {"requests": requests}
        ).answers

    def get_item(self, item_id: str) -> StoredItemResponse:
        """Returns an item as lists, filters and search see it."""
        return self._request("GET", _item_path(item_id), StoredItemResponse)

    def put_item(self, item_id: str, item: Item) -> ItemResponse:
        """Adds an item, or replaces all of its fields, from the next list on; requires the administrator's key."""
        return self._request("PUT", _item_path(item_id), ItemResponse, item)

    def patch_item(self, item_id: str, changes: ItemChanges) -> ItemResponse:
        """Changes some fields of an item, from the next list on; requires the administrator's key."""
        return self._request("PATCH", _item_path(item_id), ItemResponse, changes)

    def delete_item(self, item_id: str) -> ItemResponse:
        """Removes an item from all lists; requires the administrator's key."""
        return self._request("DELETE", _item_path(item_id), ItemResponse)

    def search(self, request: SearchRequest) -> SearchResponse:
        """Returns the items that match a query."""
        return self._request("POST", "/v1/search", SearchResponse, request)

    def suggest(self, prefix: str, k: int = 8) -> SuggestionsResponse:
        """Returns up to `k` queries and items that complete an unfinished query."""
        return self._request("GET", f"/v1/suggest?q={quote(prefix, safe='')}&k={k}", SuggestionsResponse)

    def similar(self, item_id: str, k: int = 20) -> SimilarItemsResponse:
        """Returns the `k` items most similar to an item."""
        return self._request("GET", f"{_item_path(item_id)}/similar?k={k}", SimilarItemsResponse)

    def send(self, *events: Event) -> EventsResponse:
        """Sends up to 1,000 events; when this returns, they are durable and effective.

        Assigns an `event_id` to events without one, so that an event sent again after a lost response counts once.
        """
        for event in events:
            event.event_id = event.event_id or uuid.uuid4().hex
        return self._request("POST", "/v1/events", EventsResponse, list(events))

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, method: str, path: str, answer: type[Answer], body: object = None) -> Answer:
        content = None if body is None else msgspec.json.encode(body)
        response = self._http.request(method, path, content=content)
        if response.is_success:
            return msgspec.json.decode(response.content, type=answer)
        try:
            problem = msgspec.json.decode(response.content, type=Problem)
        except msgspec.MsgspecError:  # from a proxy in front of the endpoint
            problem = Problem("about:blank", response.reason_phrase, response.status_code, response.text[:300])
        raise EndpointError(problem)


def _item_path(item_id: str) -> str:
    return f"/v1/items/{quote(item_id, safe='')}"
