"""The calls of the endpoint's API, as data: both clients send them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from recsys_tasks.wire.items import Item, ItemChanges
from recsys_tasks.wire.messages import (
    Event,
    EventsResponse,
    InterestedUsersResponse,
    ItemResponse,
    ItemsResponse,
    Problem,
    RecommendationBatchResponse,
    RecommendationRequest,
    RecommendationResponse,
    RulesPreview,
    RulesVersion,
    SearchRequest,
    SearchResponse,
    SimilarItemsRequest,
    SimilarItemsResponse,
    StoredItemResponse,
    SuggestionsResponse,
)
from recsys_tasks.wire.rules import MerchandisingRules

Answer = TypeVar("Answer")


class EndpointError(Exception):
    """The endpoint answered with an error; `problem` is its problem document (RFC 9457)."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}")
        self.problem = problem


class Call(msgspec.Struct, Generic[Answer], frozen=True):
    """One call of the API.

    Attributes:
        method, path: of the request; the path is quoted.
        answer: type of the response body.
        content: of the request, if it has any.
        headers: of the request. A call that records something has a key that makes it count once if it is sent again.
        is_repeatable: whether the call may be sent again after a lost answer.
    """

    method: str
    path: str
    answer: type[Answer]
    content: bytes | None = None
    headers: Mapping[str, str] = {}
    is_repeatable: bool = True

    def decode(self, status: int, phrase: str, content: bytes) -> Answer:
        """Returns the answer in a response.

        Raises:
            EndpointError: the response is an error.
        """
        if 200 <= status < 300:
            return msgspec.json.decode(content, type=self.answer)
        try:
            problem = msgspec.json.decode(content, type=Problem)
        except msgspec.MsgspecError:  # from a proxy in front of the endpoint
            problem = Problem("about:blank", phrase, status, content[:300].decode(errors="replace"))
        raise EndpointError(problem)


def recommend(request: RecommendationRequest) -> Call[RecommendationResponse]:
    """A list of recommendations."""
    return _recorded("/v1/recommendations", RecommendationResponse, request)


def recommend_many(requests: Sequence[RecommendationRequest]) -> Call[RecommendationBatchResponse]:
    """A list for each request."""
    return _recorded("/v1/recommendations/batch", RecommendationBatchResponse, {"requests": requests})


def search(request: SearchRequest) -> Call[SearchResponse]:
    """Items that match a query."""
    return _recorded("/v1/search", SearchResponse, request)


def suggest(prefix: str, k: int) -> Call[SuggestionsResponse]:
    """Completions of an unfinished query."""
    return Call("GET", f"/v1/suggest?q={quote(prefix, safe='')}&k={k}", SuggestionsResponse)


def similar(item_id: str, request: SimilarItemsRequest) -> Call[SimilarItemsResponse]:
    """Items similar to an item."""
    return _body("POST", f"{_item_path(item_id)}/similar", SimilarItemsResponse, request)


def interested_users(item_id: str, k: int) -> Call[InterestedUsersResponse]:
    """Users who may like an item."""
    return Call("GET", f"{_item_path(item_id)}/users?k={k}", InterestedUsersResponse)


def send(events: Sequence[Event]) -> Call[EventsResponse]:
    """Stores events. Those without an `event_id` get one, so that an event sent again counts once."""
    for event in events:
        event.event_id = event.event_id or uuid.uuid4().hex
    return _body("POST", "/v1/events", EventsResponse, events)


def get_item(item_id: str) -> Call[StoredItemResponse]:
    """An item as lists, filters and search see it."""
    return Call("GET", _item_path(item_id), StoredItemResponse)


def put_item(item_id: str, item: Item) -> Call[ItemResponse]:
    """Creates or replaces an item."""
    return _body("PUT", _item_path(item_id), ItemResponse, item)


def put_items(items: Mapping[str, Item]) -> Call[ItemsResponse]:
    """Creates or replaces many items by id."""
    lines = [{"item_id": item_id, **msgspec.to_builtins(item)} for item_id, item in items.items()]
    return Call("POST", "/v1/items", ItemsResponse, msgspec.json.Encoder().encode_lines(lines))


def patch_item(item_id: str, changes: ItemChanges) -> Call[ItemResponse]:
    """Changes some fields of an item."""
    return _body("PATCH", _item_path(item_id), ItemResponse, changes)


def delete_item(item_id: str) -> Call[ItemResponse]:
    """Removes an item from all lists."""
    return Call("DELETE", _item_path(item_id), ItemResponse)


def get_rules() -> Call[RulesVersion]:
    """The merchandising rules in use."""
    return Call("GET", "/v1/admin/rules", RulesVersion)


def put_rules(rules: MerchandisingRules, version: int | None) -> Call[RulesVersion]:
    """Replaces the rules; with a version, only if that one is in use."""
    headers = {} if version is None else {"If-Match": f'"{version}"'}
    return Call("PUT", "/v1/admin/rules", RulesVersion, msgspec.json.encode(rules), headers, is_repeatable=False)


def preview_rules(rules: MerchandisingRules, request: RecommendationRequest) -> Call[RecommendationResponse]:
    """The list of a request as it would be under other rules."""
    body = RulesPreview(rules=rules, request=request)
    return _body("POST", "/v1/admin/rules/preview", RecommendationResponse, body)


def _body(method: str, path: str, answer: type[Answer], body: Any) -> Call[Answer]:
    return Call(method, path, answer, msgspec.json.encode(body))


def _recorded(path: str, answer: type[Answer], body: Any) -> Call[Answer]:
    return Call("POST", path, answer, msgspec.json.encode(body), {"Idempotency-Key": uuid.uuid4().hex})


def _item_path(item_id: str) -> str:
    return f"/v1/items/{quote(item_id, safe='')}"
