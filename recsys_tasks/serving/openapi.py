"""What callers can ask and what they get, as an OpenAPI document made of the very types that requests are read by."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec

from recsys_tasks.engine.items import Identifier, Item
from recsys_tasks.serving.messages import (
    BatchAnswer,
    Count,
    Event,
    EventsAnswer,
    ItemAnswer,
    ModelAnswer,
    Problem,
    RecommendationAnswer,
    RecommendationBatch,
    RecommendationRequest,
    SearchAnswer,
    SearchRequest,
    SimilarAnswer,
    StagedChange,
)

_JSON, _BUNDLE, _PROBLEM = "application/json", "application/octet-stream", "application/problem+json"
_REFERENCE = "#/components/schemas/{name}"


@dataclass(frozen=True)
class Operation:
    """One route: what it does, what it reads and answers, and an example of what it reads."""

    method: str
    path: str
    summary: str
    answer: Any = None
    body: Any = None
    example: Any = None
    content: str = _JSON
    query: dict[str, Any] = field(default_factory=dict)
    optional: bool = False

    @property
    def admin(self) -> bool:
        """Whether it wants the administrator's token."""
        return self.path.startswith("/v1/admin") or self.body is Item


_K = {"k": {**msgspec.json.schema(Count), "default": 20}}
_EVENT = {"event_type": "view", "user_id": "36", "session_id": "s1", "item_id": "1082185"}
OPERATIONS = (
    Operation(
        "post",
        "/v1/recommendations",
        "Items for a user, a session, both or nobody",
        RecommendationAnswer,
        RecommendationRequest,
        {"user_id": "36", "k": 5, "filter": {"field": "price", "at_most": 5}},
        optional=True,
    ),
    Operation(
        "post",
        "/v1/recommendations/batch",
        "Several requests for recommendations, answered in order",
        BatchAnswer,
        RecommendationBatch,
        {"requests": [{"user_id": "36", "k": 5}, {"user_id": "37", "k": 5}]},
    ),
    Operation(
        "post",
        "/v1/search",
        "Items by the words of a query, those that suit the user first",
        SearchAnswer,
        SearchRequest,
        {"query": "chocolate milk", "user_id": "36", "k": 5},
    ),
    Operation("get", "/v1/items/{item_id}/similar", "Items most like one", SimilarAnswer, query=_K),
    Operation(
        "put",
        "/v1/items/{item_id}",
        "Tells of a new item, or anew of a known one; it may be in the very next list",
        ItemAnswer,
        Item,
        {"title": "Chocolate milk, 1 l", "category_path": "DAIRY > MILK", "price": 1.89},
    ),
    Operation(
        "post",
        "/v1/events",
        "One event or up to 1,000; answered once they are durable, and they count in the very next answer",
        EventsAnswer,
        Event | list[Event],
        _EVENT,
    ),
    Operation("get", "/v1/model", "The version that serves", ModelAnswer),
    Operation("get", "/healthz", "Whether the process answers"),
    Operation("get", "/readyz", "Whether a model serves"),
    Operation("get", "/metrics", "Figures for Prometheus", content="text/plain"),
    Operation("get", "/v1/admin/model", "What serves, served before and is staged"),
    Operation("put", "/v1/admin/model", "Stages a bundle and lets it serve", content=_BUNDLE, body=bytes),
    Operation("delete", "/v1/admin/model", "Back to the bundle before", query={"to_none": {"type": "boolean"}}),
    Operation("put", "/v1/admin/staged", "Keeps a bundle beside the one that serves", content=_BUNDLE, body=bytes),
    Operation(
        "post",
        "/v1/admin/staged",
        "Lets the staged bundle serve, or tries it",
        body=StagedChange,
        example={"bundle": "0" * 64, "mode": "canary", "share": 0.1},
    ),
    Operation("delete", "/v1/admin/staged", "Lets go of what is staged", query={"bundle": {"type": "string"}}),
    Operation("delete", "/v1/admin/users/{user_id}", "Forgets a user"),
    Operation("get", "/v1/admin/journal", "The files of what was shown and done"),
    Operation(
        "get",
        "/v1/admin/journal/{segment}",
        "Whole lines of one of them",
        content="application/x-ndjson",
        query={"offset": {"type": "integer", "minimum": 0}},
    ),
)


@cache
def document() -> bytes:
    """The document, as JSON."""
    kinds = [kind for one in OPERATIONS for kind in (one.answer, one.body) if kind not in (None, bytes)]
    schemas, components = msgspec.json.schema_components([*kinds, Problem], ref_template=_REFERENCE)
    schema_of = dict(zip([*map(str, kinds), str(Problem)], schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method] = _operation(one, schema_of)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "Session recommender", "version": version("session-recommender")},
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _operation(one: Operation, schema_of: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"summary": one.summary, "operationId": f"{one.method}{one.path}".replace("/", "_")}
    in_path = [part[1:-1] for part in one.path.split("/") if part.startswith("{")]
    identifier = msgspec.json.schema(Identifier)
    found["parameters"] = [{"name": name, "in": "path", "required": True, "schema": identifier} for name in in_path] + [
        {"name": name, "in": "query", "schema": schema} for name, schema in one.query.items()
    ]
    if one.body is bytes:
        binary = {"schema": {"type": "string", "format": "binary"}}
        found["requestBody"] = {"required": True, "content": {one.content: binary}}
    elif one.body is not None:
        content = {"schema": schema_of[str(one.body)], "example": one.example}
        found["requestBody"] = {"required": not one.optional, "content": {_JSON: content}}
    answered = _JSON if one.content == _BUNDLE else one.content
    schema = schema_of[str(one.answer)] if one.answer else {}
    problem = {"description": "What was wrong and where", "content": {_PROBLEM: {"schema": schema_of[str(Problem)]}}}
    found["responses"] = {"200": {"description": "Done", "content": {answered: {"schema": schema}}}}
    found["responses"] |= dict.fromkeys(("400", "404", "408", "413", "422", "429", "503"), problem)
    if one.path.startswith("/v1"):
        admin = one.admin
        found["security"] = [{"token": []}] if admin else [{"token": []}, {}]  # without keys, lists are open
        found["responses"] |= dict.fromkeys(("401", "403", "409") if admin else ("401",), problem)
    return found
