"""Request and response bodies of the HTTP API. The descriptions are published in the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from recsys_tasks.names import SHOPPER
from recsys_tasks.wire.filters import Filter
from recsys_tasks.wire.items import (
    FacetValue,
    Identifier,
    Item,
    Recommendation,
    Relaxation,
    SearchResult,
    Sort,
    Text,
    Timestamp,
)
from recsys_tasks.wire.rules import MerchandisingRules

Count = Annotated[int, Meta(ge=1, le=500)]
FacetField = Annotated[str, Meta(pattern=r"^(category|brand|price|properties\..{1,200})$")]
DataField = Annotated[str, Meta(pattern=r"^(category|brand|price|properties|properties\..{1,200})$")]
EventType = Literal["search", "impression", "view", "add_to_cart", "purchase"]
Traffic = Literal["shopper", "internal", "bot"]
Arm = Annotated[
    str | None,
    Meta(
        description="Arm of the visitor; null without an experiment, without a user and a session id, or with"
        " `record: false`."
    ),
]


class Event(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A user action. Requires `user_id` or `session_id`; a search requires `query`, other types require `item_id`."""

    event_type: Annotated[EventType, Meta(description="What the user did.")]
    event_id: Annotated[
        Identifier | None, Meta(description="Unique id; makes retries idempotent. Default: a new id.")
    ] = None
    user_id: Identifier | None = None
    session_id: Identifier | None = None
    item_id: Annotated[Identifier | None, Meta(description="The item acted on.")] = None
    event_time: Annotated[
        Timestamp | None, Meta(description="Time of the action, with a UTC offset. Default: time of receipt.")
    ] = None
    query: Annotated[Text | None, Meta(description="Search query; for `search` events.")] = None
    quantity: Annotated[
        Annotated[float, Meta(gt=0, le=1e9)] | None, Meta(description="Number of units; for `purchase` events.")
    ] = None
    price: Annotated[Annotated[float, Meta(ge=0, le=1e12)] | None, Meta(description="Price of one unit.")] = None
    request_id: Annotated[
        Identifier | None,
        Meta(
            description="`request_id` of the list in which the user saw the item. Attributes the action to that list."
        ),
    ] = None
    position: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None, Meta(description="Position of the item in the list, from 1.")
    ] = None
    properties: Annotated[dict[str, Any] | None, Meta(description="Any further properties, as a JSON object.")] = None


class SessionEvent(msgspec.Struct, forbid_unknown_fields=True):
    """A user action of the current session, sent with a request. It is used for this list only and is not stored."""

    item_id: Annotated[Identifier | None, Meta(description="The item acted on; required unless it is a search.")] = None
    event_type: Literal["search", "view", "add_to_cart", "purchase"] = "view"
    event_time: Annotated[
        Timestamp | None, Meta(description="Time of the action, with a UTC offset. Default: time of the request.")
    ] = None
    query: Annotated[Text | None, Meta(description="Search query; required for a search.")] = None


class StagedChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A change of the staged bundle's rollout."""

    bundle: Annotated[Identifier, Meta(description="Digest of the staged bundle.")]
    mode: Annotated[
        Literal["active", "held", "shadow", "canary"],
        Meta(
            description="`active`: serve all requests. `held`: stay staged. `shadow`: score copies of live requests. "
            "`canary`: serve a share of the users."
        ),
    ]
    share: Annotated[
        float, Meta(ge=0, le=1, description="Share of the requests (shadow) or of the users (canary).")
    ] = 0.0
    error_share: Annotated[float, Meta(ge=0, le=1, description="The rollout ends above this share of errors.")] = 0.01
    latency_ratio: Annotated[
        float, Meta(gt=0, description="The rollout ends above this ratio of p95 latencies, challenger to active model.")
    ] = 2.0


class LogPosition(msgspec.Struct, forbid_unknown_fields=True):
    """A position of the event log."""

    segment: Annotated[str, Meta(pattern="^[0-9]{8,18}$", description="Name of a segment.")]
    offset: Annotated[int, Meta(ge=0, description="Bytes before the position in the segment.")]


class RecommendationRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request for recommendations. Every field is optional; without user and session the list is of popular items."""

    user_id: Identifier | None = None
    session_id: Annotated[
        Identifier | None,
        Meta(description="Default: the user's session, if its latest event is less than 30 minutes old."),
    ] = None
    session: Annotated[
        list[SessionEvent],
        Meta(max_length=1_000, description="Actions of the current session that were not posted as events."),
    ] = []
    interests: Annotated[
        list[Text],
        Meta(max_length=20, description="Interests of a user without history (cold start), as free text."),
    ] = []
    context_items: Annotated[
        list[Identifier],
        Meta(max_length=100, description="Items the list should go with, such as a cart. They are not in the list."),
    ] = []
    query: Annotated[Text | None, Meta(description="The user's current search query, as context.")] = None
    k: Annotated[Count, Meta(description="Maximum number of items.")] = 20
    filter: Annotated[Filter | None, Meta(description="Condition that every item of the list must match.")] = None
    exclude: Annotated[
        list[Identifier], Meta(max_length=1_000, description="Ids of items that must not be in the list.")
    ] = []
    exclude_seen: Annotated[bool, Meta(description="Exclude the items the user has acted on.")] = False
    exclude_bought: Annotated[bool, Meta(description="Exclude the items the user has bought.")] = False
    diversity: Annotated[
        float,
        Meta(ge=0, le=1, description="Weight of diversity (MMR): 0 ranks by score only, 1 by dissimilarity only."),
    ] = 0.0
    at_most_per_category: Annotated[Count | None, Meta(description="Maximum number of items of one category path.")] = (
        None
    )
    time: Annotated[
        Timestamp | None, Meta(description="Time of the request, with a UTC offset. Default: now. Not in the future.")
    ] = None
    fields: Annotated[
        list[DataField],
        Meta(
            max_length=50,
            description="Item data to return in `data`: `price`, `brand`, `category`, `properties` or"
            " `properties.NAME`.",
        ),
    ] = []
    rules: Annotated[
        MerchandisingRules | None,
        Meta(description="Rules for this list, beside those of the shop: weights, pins and at most 100 synonyms."),
    ] = None
    record: Annotated[bool, Meta(description="Whether to log impressions (and the search) of this request.")] = True
    traffic: Annotated[
        Traffic,
        Meta(
            description="Who asks. Lists for `internal` and `bot` are logged, but excluded from metrics and training."
        ),
    ] = SHOPPER


class SearchRequest(RecommendationRequest, forbid_unknown_fields=True, kw_only=True):
    """A search request: a query, and the fields of a recommendation request."""

    query: Annotated[
        Text,
        Meta(
            description='Words to look up in all texts of the items. `"a phrase"` must occur as it is, `-word` must'
            " not occur."
        ),
    ]
    sort: Annotated[
        Sort,
        Meta(description="Order of the results. Merchandising rules and diversity apply to `relevance` only."),
    ] = "relevance"
    facets: Annotated[
        list[FacetField],
        Meta(
            max_length=20,
            description="Fields whose values are counted among the results: `category`, `brand`, `price` or"
            " `properties.NAME`.",
        ),
    ] = []
    cursor: Annotated[
        Annotated[str, Meta(max_length=200)] | None,
        Meta(description="`next_cursor` of the previous page; the other fields must be the same."),
    ] = None
    highlight: Annotated[bool, Meta(description="Return the titles as HTML, with the matching words in `<em>`.")] = (
        False
    )
    explain: Annotated[bool, Meta(description="Return the shares of each score by ranking signal.")] = False


class RecommendationBatch(msgspec.Struct, forbid_unknown_fields=True):
    """Up to 100 requests for recommendations."""

    requests: Annotated[list[RecommendationRequest], Meta(min_length=1, max_length=100)]


class ListResponse(msgspec.Struct):
    """What all lists have beside their items."""

    request_id: Annotated[str, Meta(description="Id of this list. Send it with the events that follow from the list.")]
    model_version: Annotated[str, Meta(description="Version of the model that made the list.")]
    purchase_intent: Annotated[
        float | None,
        Meta(
            description="Calibrated probability that the session has a purchase from here on. Null if the model does"
            " not know the user, or was trained on sessions that all had a purchase, or none."
        ),
    ]
    complete: Annotated[
        bool, Meta(description="False if the latest events on other endpoints could not be read (shared state away).")
    ]
    recorded: Annotated[
        bool,
        Meta(
            description="Whether `record` is true and the caller may post events. The endpoint then logs impressions"
            " itself, all or a sample (`RECSYS_IMPRESSION_SAMPLE_SHARE`), and ignores reported ones."
        ),
    ]


class RecommendationResponse(ListResponse):
    """A ranked list of items."""

    items: Annotated[list[Recommendation], Meta(description="Items, best first.")]
    arm: Arm = None


class RecommendationBatchResponse(msgspec.Struct):
    """The lists of a batch."""

    answers: Annotated[list[RecommendationResponse], Meta(description="One list per request, in request order.")]


class SearchResponse(ListResponse, kw_only=True):
    """A ranked list of search results."""

    fallback: Annotated[
        bool, Meta(description="True if no item matches the query; the items are recommendations then.")
    ]
    total: Annotated[
        int, Meta(description="Number of items that match. With a filter or facets, of the 10,000 best matches.")
    ] = 0
    facets: Annotated[
        dict[str, list[FacetValue]], Meta(description="Values of each requested field, and how many results have them.")
    ] = {}
    relaxations: Annotated[
        list[Relaxation], Meta(description="How the query was changed, because too few items match all of it.")
    ] = []
    next_cursor: Annotated[str | None, Meta(description="Cursor of the next page; null on the last one.")] = None
    items: Annotated[list[SearchResult], Meta(description="Results of this page, in order.")]
    arm: Arm = None


class SuggestedItem(msgspec.Struct, frozen=True):
    """An item whose texts match a prefix."""

    item_id: str
    title: str
    highlight: Annotated[str, Meta(description="The title as HTML, with the matching words in `<em>`.")]


class SuggestionsResponse(msgspec.Struct):
    """Completions of an unfinished query."""

    queries: Annotated[list[str], Meta(description="Queries that begin like it, the most frequent first.")]
    items: Annotated[list[SuggestedItem], Meta(description="Items that match it, best first.")]


class SimilarItemsResponse(msgspec.Struct):
    """Items similar to a given item."""

    model_version: Annotated[str, Meta(description="Version of the model whose item embeddings were compared.")]
    items: Annotated[list[Recommendation], Meta(description="Items, most similar first; `score` is the cosine.")]


class SimilarItemsRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A request for items similar to an item. Every field is optional."""

    user_id: Annotated[Identifier | None, Meta(description="For `exclude_seen` and `exclude_bought`.")] = None
    k: Annotated[Count, Meta(description="Maximum number of items.")] = 20
    filter: Annotated[Filter | None, Meta(description="Condition that every item must match.")] = None
    exclude: Annotated[list[Identifier], Meta(max_length=1_000, description="Ids of items to leave out.")] = []
    exclude_seen: Annotated[bool, Meta(description="Exclude the items the user has acted on.")] = False
    exclude_bought: Annotated[bool, Meta(description="Exclude the items the user has bought.")] = False
    diversity: Annotated[float, Meta(ge=0, le=1, description="Weight of diversity (MMR).")] = 0.0
    at_most_per_category: Annotated[Count | None, Meta(description="Maximum number of items of one category.")] = None
    fields: Annotated[list[DataField], Meta(max_length=50, description="Item data to return in `data`.")] = []


class InterestedUser(msgspec.Struct, frozen=True):
    """A user who may like an item."""

    user_id: str
    score: Annotated[
        float, Meta(description="Sum of the cosines of the item and the user's items, halved every 30 days.")
    ]


class InterestedUsersResponse(msgspec.Struct):
    """Users who may like an item and have not bought it until the model's cut-off."""

    model_version: Annotated[str, Meta(description="Version of the model whose histories were read.")]
    users: Annotated[list[InterestedUser], Meta(description="Users, highest score first.")]


class RulesVersion(msgspec.Struct):
    """A version of the merchandising rules."""

    version: Annotated[int, Meta(description="Number of the version; 0 are the rules of the settings.")]
    time: Annotated[Timestamp | None, Meta(description="When it was stored; null for version 0.")]
    rules: MerchandisingRules


class RulesPreview(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A request for a list under other merchandising rules."""

    rules: Annotated[MerchandisingRules, Meta(description="In place of the rules in use.")]
    request: Annotated[
        RecommendationRequest, Meta(description="The list. It is neither recorded nor assigned to an arm.")
    ] = msgspec.field(default_factory=RecommendationRequest)


class RejectedLine(msgspec.Struct):
    """A line of a bulk request that was not stored."""

    line: Annotated[int, Meta(description="Number of the line, from 1.")]
    detail: Annotated[str, Meta(description="What is wrong.")]


class ItemsResponse(msgspec.Struct):
    """Result of a bulk request for items."""

    stored: Annotated[int, Meta(description="Number of items that were stored.")]
    rejected: Annotated[list[RejectedLine], Meta(description="The other lines, with their reasons.")]


class EventsResponse(msgspec.Struct):
    """Confirmation that events are stored durably."""

    accepted: Annotated[int, Meta(description="Number of stored events.")]
    ignored: Annotated[
        int,
        Meta(
            description="Number of impressions that were not stored, because the endpoint logs those of their lists"
            " itself (`recorded`). Report your own for lists with `record: false`."
        ),
    ]
    event_ids: Annotated[list[str], Meta(description="Ids of all events, in request order.")]


class ItemResponse(msgspec.Struct):
    """Confirmation that an item is stored and can be recommended."""

    item_id: str
    trained: Annotated[
        bool, Meta(description="Whether the model was trained on the item. If not, its content gives its embedding.")
    ]


class StoredItemResponse(msgspec.Struct):
    """An item as the endpoint has it."""

    item_id: str
    trained: Annotated[bool, Meta(description="Whether the model was trained on the item.")]
    item: Item


class ModelResponse(msgspec.Struct):
    """The active model and its lineage."""

    model_version: Annotated[str, Meta(description="Version in the model registry.")]
    run_id: Annotated[str, Meta(description="MLflow run that trained the model.")]
    snapshot_id: Annotated[str, Meta(description="Training snapshot.")]
    cutoff: Annotated[str, Meta(description="The model was trained on events before this time.")]
    bundle: Annotated[str, Meta(description="Digest of the deployed bundle.")]


class Problem(msgspec.Struct):
    """A problem document (RFC 9457)."""

    type: str
    title: Annotated[str, Meta(description="Kind of the problem.")]
    status: Annotated[int, Meta(description="HTTP status.")]
    detail: Annotated[str, Meta(description="What is wrong, and the JSON path of the field.")]
