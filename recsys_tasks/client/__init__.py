"""Typed HTTP clients of the endpoint: `shop` for callers, `admin` for the pipeline, `fleet` for several endpoints.

from recsys_tasks.client import Event, RecommendationRequest, RecommenderClient
"""

from recsys_tasks.client.async_shop import AsyncRecommenderClient
from recsys_tasks.client.calls import EndpointError
from recsys_tasks.client.retries import RetryPolicy
from recsys_tasks.client.shop import RecommenderClient
from recsys_tasks.wire.filters import Filter
from recsys_tasks.wire.items import Item, ItemChanges
from recsys_tasks.wire.messages import (
    Event,
    RecommendationRequest,
    SearchRequest,
    SessionEvent,
    SimilarItemsRequest,
)
from recsys_tasks.wire.rules import MerchandisingRules, Pin, Synonym, WeightRule

__all__ = [
    "AsyncRecommenderClient",
    "EndpointError",
    "Event",
    "Filter",
    "Item",
    "ItemChanges",
    "MerchandisingRules",
    "Pin",
    "RecommendationRequest",
    "RecommenderClient",
    "RetryPolicy",
    "SearchRequest",
    "SessionEvent",
    "SimilarItemsRequest",
    "Synonym",
    "WeightRule",
]
