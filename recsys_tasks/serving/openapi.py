"""OpenAPI document of the endpoint, generated from the types that decode requests and encode responses."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec

from recsys_tasks.serving.deprecation import DEPRECATIONS
from recsys_tasks.wire.items import Identifier, Item, ItemChanges, Text
from recsys_tasks.wire.messages import (
    Count,
    Event,
    EventsResponse,
    InterestedUsersResponse,
    ItemResponse,
    ItemsResponse,
    LogPosition,
    ModelResponse,
    Problem,
    RecommendationBatch,
    RecommendationBatchResponse,
    RecommendationRequest,
    RecommendationResponse,
    RulesPreview,
    RulesVersion,
    SearchRequest,
    SearchResponse,
    SimilarItemsRequest,
    SimilarItemsResponse,
    StagedChange,
    StoredItemResponse,
    SuggestionsResponse,
)
from recsys_tasks.wire.rules import MerchandisingRules

_JSON, _BUNDLE, _PROBLEM = "application/json", "application/octet-stream", "application/problem+json"
_ITEMS, _ITEM = "/v1/items", "/v1/items/{item_id}"
_ADMIN_PATHS = ("/v1/admin", "/v1/items/{item_id}/users")
_TAGS = {"/v1/admin": "admin", "/v1/items": "items", "/v1/events": "events", "/v1": "lists", "/": "health"}
_REFERENCE = "#/components/schemas/{name}"
_OVERVIEW = (
    "Session-based recommendations, personalized search and similar items. Post user events, request lists, and send "
    "the `request_id` of a list with the events that follow from it. Errors are problem documents (RFC 9457)."
)
_ERRORS = {
    "400": "The body is not valid JSON, or it cannot be decompressed.",
    "404": "The item, segment or route does not exist.",
    "408": "The body did not arrive in time.",
    "413": "The body has too many bytes, items or events, or the request costs more than the rate limit allows.",
    "415": "A page sent a body that is not JSON, or the content encoding is neither `gzip` nor `zstd`.",
    "422": "A field is invalid; `detail` names it.",
    "429": "The caller exceeds its rate limit. Retry after `Retry-After` seconds.",
    "503": "No model is active, or the endpoint is overloaded or shutting down. Retry after `Retry-After` seconds.",
}
_UNAUTHORIZED = {"401": "The bearer token is missing or lacks the scope."}
_ADMIN_ERRORS = {
    **_UNAUTHORIZED,
    "403": "The admin routes are disabled: the endpoint has no admin token and no key with the scope `admin`.",
    "409": "The request conflicts with the deployed, previous or staged bundle.",
    "412": "`If-Match` names another version than the one in use.",
}


@dataclass(frozen=True)
class Operation:
    """One route of the API.

    Attributes:
        name: `operationId`; generated clients name their methods after it.
        method: HTTP method, in lower case.
        path: path template.
        summary: what the operation does, in a few words.
        description: details that a caller needs.
        response: type of the response body, if it is JSON with a schema.
        body: type of the request body; `bytes` for a bundle.
        example: example of the request body.
        media_type: of the response; of the request, if that is a bundle.
        query: JSON schemas of the query parameters.
        is_body_optional: whether the request body may be empty.
    """

    name: str
    method: str
    path: str
    summary: str
    description: str = ""
    response: Any = None
    body: Any = None
    example: Any = None
    media_type: str = _JSON
    query: dict[str, Any] = field(default_factory=dict)
    is_body_optional: bool = False

    @property
    def is_admin(self) -> bool:
        """Whether the operation requires the admin token."""
        return self.path.startswith(_ADMIN_PATHS) or (self.path in (_ITEM, _ITEMS) and self.method != "get")


_K = {"k": {**msgspec.json.schema(Count), "default": 20, "description": "Maximum number of items."}}
_PREFIX = {**msgspec.json.schema(Text), "description": "The query as typed so far; the last word may be unfinished."}
_TO_NONE = {"type": "boolean", "description": "Serve no model if there is no previous bundle, instead of a 409."}
_BUNDLE_DIGEST = {"type": "string", "description": "Discard only if the staged bundle has this digest."}
_VERSION = {"type": "integer", "minimum": 0, "description": "Number of a version. Default: the one in use."}
_OFFSET = {"type": "integer", "minimum": 0, "description": "Number of bytes read so far. Default: 0."}
_EVENT = {"event_type": "view", "user_id": "36", "session_id": "s1", "item_id": "1082185"}
OPERATIONS = (
    Operation(
        "recommend",
        "post",
        "/v1/recommendations",
        "Recommend items",
        "Returns a ranked list for a user, a session, both or neither. Unknown users get popular items. Impressions "
        "are logged unless `record` is false.",
        response=RecommendationResponse,
        body=RecommendationRequest,
        example={"user_id": "36", "k": 5, "filter": {"field": "price", "at_most": 5}},
        is_body_optional=True,
    ),
    Operation(
        "recommendBatch",
        "post",
        "/v1/recommendations/batch",
        "Recommend items for a batch of requests",
        "Returns one list per request, in request order.",
        response=RecommendationBatchResponse,
        body=RecommendationBatch,
        example={"requests": [{"user_id": "36", "k": 5}, {"user_id": "37", "k": 5}]},
    ),
    Operation(
        "search",
        "post",
        "/v1/search",
        "Search items",
        "Returns the items that match a query in any of their texts, ranked by text, popularity, and the user and "
        "session. If none matches, returns recommendations with `fallback: true`. The first page is logged as a user "
        "action unless `record` is false.",
        response=SearchResponse,
        body=SearchRequest,
        example={"query": "chocolate milk", "user_id": "36", "k": 5},
    ),
    Operation(
        "suggest",
        "get",
        "/v1/suggest",
        "Complete an unfinished query",
        "Returns learned queries and names of categories and brands that complete the query, and items that match it.",
        response=SuggestionsResponse,
        query={"q": _PREFIX, **_K},
    ),
    Operation(
        "findSimilarItems",
        "get",
        "/v1/items/{item_id}/similar",
        "List similar items",
        "Returns the nearest items by cosine similarity of the item embeddings.",
        response=SimilarItemsResponse,
        query=_K,
    ),
    Operation(
        "findSimilarItemsWith",
        "post",
        "/v1/items/{item_id}/similar",
        "List similar items, with conditions",
        "Like `GET`, with a filter, exclusions, diversity and item data.",
        response=SimilarItemsResponse,
        body=SimilarItemsRequest,
        example={"k": 5, "filter": {"field": "price", "at_most": 5}, "user_id": "36", "exclude_bought": True},
        is_body_optional=True,
    ),
    Operation(
        "findInterestedUsers",
        "get",
        "/v1/items/{item_id}/users",
        "List users who may like an item",
        "Returns users with recent actions on similar items who had not bought this one by the model's cut-off. Later"
        " events do not count.",
        response=InterestedUsersResponse,
        query=_K,
    ),
    Operation(
        "putItems",
        "post",
        "/v1/items",
        "Create or replace many items",
        "One JSON object per line, each an item with its `item_id`; at most 10,000 lines and 64 MB. Valid lines are"
        " stored, the others returned with their reasons.",
        response=ItemsResponse,
        body=bytes,
        media_type="application/x-ndjson",
    ),
    Operation(
        "getItem",
        "get",
        _ITEM,
        "Get an item",
        "Returns the item as lists, filters and search see it.",
        StoredItemResponse,
    ),
    Operation(
        "putItem",
        "put",
        _ITEM,
        "Create or replace an item",
        "Replaces all fields; omitted ones become unknown. The next list can contain the item. An item the model was "
        "not trained on gets its embedding from its content.",
        response=ItemResponse,
        body=Item,
        example={"title": "Chocolate milk, 1 l", "category_path": "DAIRY > MILK", "price": 1.89},
    ),
    Operation(
        "patchItem",
        "patch",
        _ITEM,
        "Change fields of an item",
        "Omitted fields keep their values, null makes one unknown; `properties` are replaced as a whole.",
        response=ItemResponse,
        body=ItemChanges,
        example={"price": 1.79},
    ),
    Operation(
        "deleteItem",
        "delete",
        _ITEM,
        "Remove an item from all lists",
        "Ends the item's availability. Actions on it are still read, and `PUT` or `PATCH` bring it back.",
        response=ItemResponse,
    ),
    Operation(
        "postEvents",
        "post",
        "/v1/events",
        "Post user events",
        "Accepts one event or an array of up to 1,000. Responds once the events are durable; the next list of the user "
        "takes them into account.",
        response=EventsResponse,
        body=Event | list[Event],
        example=_EVENT,
    ),
    Operation("getModel", "get", "/v1/model", "Get the active model", response=ModelResponse),
    Operation("checkHealth", "get", "/healthz", "Liveness probe", "Succeeds while the process responds."),
    Operation(
        "checkReadiness",
        "get",
        "/readyz",
        "Readiness probe",
        "Succeeds while a model is active and no shutdown has begun.",
    ),
    Operation("getMetrics", "get", "/metrics", "Get the Prometheus metrics", media_type="text/plain"),
    Operation("getBundles", "get", "/v1/admin/model", "Get the active, previous and staged bundles"),
    Operation(
        "deployBundle",
        "put",
        "/v1/admin/model",
        "Deploy a bundle",
        "Stages a bundle, checks it and activates it. A rejected bundle changes nothing.",
        body=bytes,
        media_type=_BUNDLE,
    ),
    Operation("rollBack", "delete", "/v1/admin/model", "Roll back to the previous bundle", query={"to_none": _TO_NONE}),
    Operation(
        "stageBundle",
        "put",
        "/v1/admin/staged",
        "Stage a bundle",
        "Checks a bundle against its golden requests, measures its latency and memory, and loads it beside the active "
        "one.",
        body=bytes,
        media_type=_BUNDLE,
    ),
    Operation(
        "changeStagedBundle",
        "post",
        "/v1/admin/staged",
        "Activate the staged bundle, or change its rollout",
        "Starts a shadow or canary rollout, holds it, or activates the bundle for all requests.",
        body=StagedChange,
        example={"bundle": "0" * 64, "mode": "canary", "share": 0.1},
    ),
    Operation(
        "discardStagedBundle",
        "delete",
        "/v1/admin/staged",
        "Discard the staged bundle",
        query={"bundle": _BUNDLE_DIGEST},
    ),
    Operation(
        "getRules",
        "get",
        "/v1/admin/rules",
        "Get the merchandising rules",
        "Returns the version in use, or another one.",
        response=RulesVersion,
        query={"version": _VERSION},
    ),
    Operation(
        "putRules",
        "put",
        "/v1/admin/rules",
        "Replace the merchandising rules",
        'Stores a new version and uses it from the next list on. With `If-Match: "N"`, only if version N is in use. To'
        " undo a change, put the rules of an earlier version.",
        response=RulesVersion,
        body=MerchandisingRules,
        example={"weigh": [{"filter": {"field": "brand", "one_of": ["Our own"]}, "factor": 1.5}]},
    ),
    Operation(
        "previewRules",
        "post",
        "/v1/admin/rules/preview",
        "Get a list under other merchandising rules",
        "Returns the list of a request as it would be if the given rules were in use. Nothing is recorded or changed.",
        response=RecommendationResponse,
        body=RulesPreview,
        example={"rules": {"pin": [{"item_id": "1082185", "position": 1}]}, "request": {"user_id": "36", "k": 5}},
    ),
    Operation(
        "eraseUser",
        "delete",
        "/v1/admin/users/{user_id}",
        "Erase a user",
        "Deletes the user's events from memory, the event log and the shared state. Models trained before no longer "
        "use the user's history. Later events of the same id count as those of a new user.",
    ),
    Operation(
        "listSegments",
        "get",
        "/v1/admin/journal",
        "List the segments of the event log",
        "Returns the name and size of each append-only segment.",
    ),
    Operation(
        "readSegment",
        "get",
        "/v1/admin/journal/{segment}",
        "Read a segment of the event log",
        "Returns whole lines from a byte offset, about 8 MiB at most; an empty body at the end of the segment.",
        media_type="application/x-ndjson",
        query={"offset": _OFFSET},
    ),
    Operation(
        "confirmCollected",
        "put",
        "/v1/admin/journal/consumers/{consumer}",
        "Confirm what a consumer of the event log has collected",
        "Segments before the position of every consumer are deleted by age and size; without a consumer none is.",
        body=LogPosition,
        example={"segment": "00000001", "offset": 0},
    ),
    Operation(
        "removeConsumer",
        "delete",
        "/v1/admin/journal/consumers/{consumer}",
        "Remove a consumer of the event log",
        "For a consumer that is gone: segments are no longer kept for it. Without any consumer, all are kept.",
    ),
)


@cache
def build_openapi_document() -> bytes:
    """Returns the OpenAPI 3.1 document as JSON."""
    body_types = [
        body_type
        for operation in OPERATIONS
        for body_type in (operation.response, operation.body)
        if body_type not in (None, bytes)
    ]
    schemas, components = msgspec.json.schema_components([*body_types, Problem], ref_template=_REFERENCE)
    schema_of = dict(zip([*map(str, body_types), str(Problem)], schemas, strict=True))
    request_types = [operation.body for operation in OPERATIONS if operation.body not in (None, bytes)]
    for name in msgspec.json.schema_components(request_types, ref_template=_REFERENCE)[1]:
        _describe_defaults(components[name])
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _describe(operation, schema_of)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Session recommender",
                "version": version("session-recommender"),
                "description": _OVERVIEW,
            },
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _describe_defaults(schema: dict[str, Any]) -> None:
    """Moves the defaults of fields into their descriptions, in place: client generators treat a field with a default as
    required. For the types of requests; some of them are in answers, too."""
    for field_schema in schema.get("properties", {}).values():
        default = field_schema.pop("default", None)
        if default is not None and default not in ([], {}, ""):
            text = f"Default: {msgspec.json.encode(default).decode()}."
            field_schema["description"] = f"{field_schema.get('description', '')} {text}".strip()


def _describe(operation: Operation, schema_of: dict[str, Any]) -> dict[str, Any]:
    """Returns the OpenAPI operation object."""
    described: dict[str, Any] = {
        "tags": [next(tag for start, tag in _TAGS.items() if operation.path.startswith(start))],
        "summary": operation.summary,
        "operationId": operation.name,
        "parameters": _parameters(operation),
    }
    if operation.description:
        described["description"] = operation.description
    if (operation.method, operation.path) in DEPRECATIONS:
        described["deprecated"] = True
    if operation.body is bytes:
        binary = {"schema": {"type": "string", "format": "binary"}}
        described["requestBody"] = {"required": True, "content": {operation.media_type: binary}}
    elif operation.body is not None:
        content = {"schema": schema_of[str(operation.body)], "example": operation.example}
        described["requestBody"] = {"required": not operation.is_body_optional, "content": {_JSON: content}}
    response_type = _JSON if operation.body is bytes else operation.media_type
    schema = schema_of[str(operation.response)] if operation.response else {}
    described["responses"] = {"200": {"description": "Success.", "content": {response_type: {"schema": schema}}}}
    errors = _ERRORS
    if operation.path.startswith("/v1"):
        # Without read and write keys, all but the admin routes are open.
        described["security"] = [{"token": []}] if operation.is_admin else [{"token": []}, {}]
        errors = errors | (_ADMIN_ERRORS if operation.is_admin else _UNAUTHORIZED)
    problem_content = {_PROBLEM: {"schema": schema_of[str(Problem)]}}
    described["responses"] |= {
        status: {"description": description, "content": problem_content} for status, description in errors.items()
    }
    return described


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    identifier = msgspec.json.schema(Identifier)
    in_path = [{"name": name, "in": "path", "required": True, "schema": identifier} for name in names]
    return in_path + [{"name": name, "in": "query", "schema": schema} for name, schema in operation.query.items()]
