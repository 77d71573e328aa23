"""Constants shared by several packages: event types, columns, aliases, model names, reserved item numbers."""

from __future__ import annotations

from typing import Final

SEARCH: Final = "search"
IMPRESSION: Final = "impression"
VIEW: Final = "view"
ADD_TO_CART: Final = "add_to_cart"
PURCHASE: Final = "purchase"
EVENT_TYPES: Final = (SEARCH, IMPRESSION, VIEW, ADD_TO_CART, PURCHASE)

# Event type codes of the model's input; 0 is padding. Impressions have none: they are not user actions.
EVENT_TYPE_CODES: Final = {SEARCH: 1, VIEW: 2, ADD_TO_CART: 3, PURCHASE: 4}

EVENT_COLUMNS: Final = (
    "event_id",
    "user_id",
    "session_id",
    "item_id",
    "event_type",
    "event_time",
    "query",
    "quantity",
    "price",
    "request_id",
    "position",
    "properties",
)
ITEM_COLUMNS: Final = (
    "item_id",
    "title",
    "category_path",
    "brand",
    "price",
    "properties",
    "available_from",
    "available_until",
    "valid_from",
)
USER_COLUMNS: Final = ("user_id", "properties", "valid_from")
VECTOR_COLUMNS: Final = ("item_id", "space", "version", "vector")

# Columns of each kind of record in a landing batch, in loading order: events refer to items and users.
COLUMNS_BY_KIND: Final = {
    "items": ITEM_COLUMNS,
    "users": USER_COLUMNS,
    "vectors": VECTOR_COLUMNS,
    "events": EVENT_COLUMNS,
}

# Kind of quarantined lines that cannot be read as rows.
UNREADABLE_LINES: Final = "lines"

REGISTERED_MODEL: Final = "session-recommender"
LINEAGE_NAMESPACE: Final = "session-recommender"
CHALLENGER: Final = "challenger"
CHAMPION: Final = "champion"
PREVIOUS: Final = "previous"

POPULARITY: Final = "popularity"
PERSONAL_FREQUENCY: Final = "personal_frequency"
RECENT_POPULARITY: Final = "recent_popularity"
DECAYED_PERSONAL_FREQUENCY: Final = "decayed_personal_frequency"
ITEM_KNN: Final = "item_knn"
PERSONAL_ITEM_BLEND: Final = "personal_item_blend"
VMIS_KNN: Final = "vmis_knn"
BASELINES: Final = (
    POPULARITY,
    RECENT_POPULARITY,
    PERSONAL_FREQUENCY,
    DECAYED_PERSONAL_FREQUENCY,
    ITEM_KNN,
    PERSONAL_ITEM_BLEND,
    VMIS_KNN,
)
TRANSFORMER: Final = "transformer"
NETWORK: Final = "network"  # the transformer without the neighbor component
DECODER: Final = "decoder"
GRU: Final = "gru"
NETWORKS: Final = (TRANSFORMER, NETWORK, DECODER, GRU)

CATEGORY_SEPARATOR: Final = " > "  # between the levels of a category path

PADDING_ITEM: Final = 0
UNKNOWN_ITEM: Final = 1
FIRST_ITEM: Final = 2

FEEDBACK_SOURCE: Final = "feedback"

# Kind of list without a search query: `properties.list` of impressions.
RECOMMENDATIONS: Final = "recommendations"

# Without an impression for this long, an item's count of unclicked impressions restarts: in training and serving.
DISCOUNT_RESET_HOURS: Final = 6

# Kind of visitor: `properties.traffic` of events; the default is a shopper.
SHOPPER: Final = "shopper"
# What the serving model knew about the visitor: `properties.segment` of impressions.
RETURNING: Final = "returning"
NEW: Final = "new"
ANONYMOUS: Final = "anonymous"

SHADOW: Final = "shadow"
CANARY: Final = "canary"
UNCALIBRATED: Final = "uncalibrated"  # purchase intent of the model without its calibration
