"""HTTP client of the endpoint for shops written in Python.

with RecommenderClient("http://127.0.0.1:8080") as shop:
    shown = shop.recommend(RecommendationRequest(user_id="36", k=5))
    shop.send(Event(event_type="view", user_id="36", item_id=shown.items[0].item_id, request_id=shown.request_id))
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import httpx

from recsys_tasks.client import calls
from recsys_tasks.client.calls import Answer, Call
from recsys_tasks.client.retries import BUSY_STATUSES, DEFAULT_RETRIES, RetryPolicy
from recsys_tasks.wire.items import Item, ItemChanges
from recsys_tasks.wire.messages import (
    Event,
    EventsResponse,
    InterestedUsersResponse,
    ItemResponse,
    ItemsResponse,
    RecommendationRequest,
    RecommendationResponse,
    RulesVersion,
    SearchRequest,
    SearchResponse,
    SimilarItemsRequest,
    SimilarItemsResponse,
    StoredItemResponse,
    SuggestionsResponse,
)
from recsys_tasks.wire.rules import MerchandisingRules

if TYPE_CHECKING:
    from typing_extensions import Self  # the client supports Python 3.10

TIMEOUT_SECONDS, BULK_TIMEOUT_SECONDS = 2.0, 120.0


class RecommenderClient:
    """Client of one endpoint with persistent connections.

    Every method raises `EndpointError` for an error response and `httpx.TransportError` if there is no response, after
    the attempts of the policy.

    Args:
        url: the endpoint's address.
        key: API key, for endpoints that require one.
        timeout_seconds: how long to wait for a response, of each attempt.
        retries: when a call is sent again.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retries: RetryPolicy = DEFAULT_RETRIES,
    ) -> None:
        self._http = httpx.Client(base_url=url, headers=authorization(key), timeout=timeout_seconds)
        self._retries = retries

    def recommend(self, request: RecommendationRequest) -> RecommendationResponse:
        """Returns a list of recommendations."""
        return self.call(calls.recommend(request))

    def recommend_many(self, requests: Sequence[RecommendationRequest]) -> list[RecommendationResponse]:
        """Returns a list of recommendations for each of up to 100 requests."""
        return self.call(calls.recommend_many(requests)).answers

    def search(self, request: SearchRequest) -> SearchResponse:
        """Returns the items that match a query."""
        return self.call(calls.search(request))

    def suggest(self, prefix: str, k: int = 8) -> SuggestionsResponse:
        """Returns up to `k` queries and items that complete an unfinished query."""
        return self.call(calls.suggest(prefix, k))

    def similar(self, item_id: str, k: int = 20, request: SimilarItemsRequest | None = None) -> SimilarItemsResponse:
        """Returns the `k` items most similar to an item; a request may have conditions."""
        return self.call(calls.similar(item_id, request or SimilarItemsRequest(k=k)))

    def send(self, *events: Event) -> EventsResponse:
        """Sends up to 1,000 events; when this returns, they are durable and effective.

        Assigns an `event_id` to events without one, so that an event sent again after a lost response counts once.
        """
        return self.call(calls.send(events))

    def get_item(self, item_id: str) -> StoredItemResponse:
        """Returns an item as lists, filters and search see it."""
        return self.call(calls.get_item(item_id))

    def put_item(self, item_id: str, item: Item) -> ItemResponse:
        """Adds an item, or replaces all of its fields, from the next list on; requires the scope `items`."""
        return self.call(calls.put_item(item_id, item))

    def put_items(self, items: Mapping[str, Item]) -> ItemsResponse:
        """Adds or replaces up to 10,000 items by id; requires the scope `items`."""
        return self.call(calls.put_items(items), BULK_TIMEOUT_SECONDS)

    def patch_item(self, item_id: str, changes: ItemChanges) -> ItemResponse:
        """Changes some fields of an item, from the next list on; requires the scope `items`."""
        return self.call(calls.patch_item(item_id, changes))

    def delete_item(self, item_id: str) -> ItemResponse:
        """Removes an item from all lists; requires the scope `items`."""
        return self.call(calls.delete_item(item_id))

    def interested_users(self, item_id: str, k: int = 20) -> InterestedUsersResponse:
        """Returns up to `k` users who may like an item; requires the scope `admin`."""
        return self.call(calls.interested_users(item_id, k))

    def get_rules(self) -> RulesVersion:
        """Returns the merchandising rules in use; requires the scope `admin`."""
        return self.call(calls.get_rules())

    def put_rules(self, rules: MerchandisingRules, version: int | None = None) -> RulesVersion:
        """Replaces the rules from the next list on, with a version only if that one is in use; requires `admin`."""
        return self.call(calls.put_rules(rules, version))

    def preview_rules(self, rules: MerchandisingRules, request: RecommendationRequest) -> RecommendationResponse:
        """Returns the list of a request as it would be under other rules; requires the scope `admin`."""
        return self.call(calls.preview_rules(rules, request))

    def call(self, call: Call[Answer], timeout_seconds: float | None = None) -> Answer:
        """Sends a call of `client.calls`, with a timeout of its own if given."""
        timeout = httpx.USE_CLIENT_DEFAULT if timeout_seconds is None else timeout_seconds
        attempt = 0
        while True:
            attempt += 1
            try:
                response = self._http.request(
                    call.method, call.path, content=call.content, headers=call.headers, timeout=timeout
                )
            except httpx.TransportError as error:
                may_repeat = call.is_repeatable or isinstance(error, httpx.ConnectError)
                wait = self._retries.wait_seconds(attempt) if may_repeat else None
                if wait is None:
                    raise
            else:
                is_busy = response.status_code in BUSY_STATUSES
                wait = self._retries.wait_seconds(attempt, response.headers.get("retry-after")) if is_busy else None
                if wait is None:
                    return call.decode(response.status_code, response.reason_phrase, response.content)
            time.sleep(wait)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def authorization(key: str | None) -> dict[str, str]:
    """Returns the header of an API key."""
    return {"Authorization": f"Bearer {key}"} if key else {}
