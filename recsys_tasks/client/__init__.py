"""Typed HTTP clients of the endpoint: `shop` for callers, `admin` for the pipeline, `fleet` for several endpoints.

from recsys_tasks.client import Event, RecommendationRequest, RecommenderClient
"""

from recsys_tasks.client.shop import EndpointError, RecommenderClient
from recsys_tasks.wire.items import Item, ItemChanges
from recsys_tasks.wire.messages import Event, RecommendationRequest, SearchRequest, SessionEvent

__all__ = [
    "EndpointError",
    "Event",
    "Item",
    "ItemChanges",
    "RecommendationRequest",
    "RecommenderClient",
    "SearchRequest",
    "SessionEvent",
]
