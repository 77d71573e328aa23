"""The words that several rooms share: event types, columns, aliases. Nothing else lives here."""

from __future__ import annotations

from typing import Final

SEARCH: Final = "search"
IMPRESSION: Final = "impression"
VIEW: Final = "view"
ADD_TO_CART: Final = "add_to_cart"
PURCHASE: Final = "purchase"
EVENT_TYPES: Final = (SEARCH, IMPRESSION, VIEW, ADD_TO_CART, PURCHASE)

# Numbers the model knows event types by; 0 is padding. Impressions are what we did, not what the user did.
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

# What a landing batch can hold, with the columns of each kind. Order matters: events refer to the others.
KINDS: Final = {"items": ITEM_COLUMNS, "users": USER_COLUMNS, "events": EVENT_COLUMNS}

REGISTERED_MODEL: Final = "session-recommender"
CHALLENGER: Final = "challenger"
CHAMPION: Final = "champion"
PREVIOUS: Final = "previous"

POPULARITY: Final = "popularity"
PERSONAL: Final = "personal_frequency"
RECENT_POPULARITY: Final = "recent_popularity"
ITEM_KNN: Final = "item_knn"
VMIS_KNN: Final = "vmis_knn"
BASELINES: Final = (POPULARITY, RECENT_POPULARITY, PERSONAL, ITEM_KNN, VMIS_KNN)
TRANSFORMER: Final = "transformer"  # the network, blended with neighbours where they help
NETWORK: Final = "network"
DECODER: Final = "decoder"
GRU: Final = "gru"
NETWORKS: Final = (TRANSFORMER, NETWORK, DECODER, GRU)

PADDING_ITEM: Final = 0
UNKNOWN_ITEM: Final = 1
FIRST_ITEM: Final = 2

FEEDBACK_SOURCE: Final = "feedback"

# The kind of list that nobody searched for: `properties.list` of impressions.
RECOMMENDATIONS: Final = "recommendations"

# After so long without being shown, an item counts as not shown before: in what is learned, and in lists.
PAUSE_HOURS: Final = 6

# Who was shown something: `properties.traffic` of events; a shopper where it says nothing.
SHOPPER: Final = "shopper"
# What the model that served knew of whom it was shown to: `properties.segment` of impressions.
RETURNING: Final = "returning"
NEW: Final = "new"
ANONYMOUS: Final = "anonymous"

SHADOW: Final = "shadow"
CANARY: Final = "canary"
