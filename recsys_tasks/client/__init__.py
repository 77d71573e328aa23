"""Typed HTTP clients of the endpoint: `shop` for callers, `admin` for the pipeline, `fleet` for several endpoints.

from recsys_tasks.client import Event, RecommendationRequest, RecommenderClient
"""

from recsys_tasks.client.shop import (
    EndpointError,
    Event,
    Item,
    RecommendationRequest,
    RecommenderClient,
    SearchRequest,
    SessionEvent,
)

__all__ = [
    "EndpointError",
    "Event",
    "Item",
    "RecommendationRequest",
    "RecommenderClient",
    "SearchRequest",
    "SessionEvent",
]
