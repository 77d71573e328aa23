"""Ids of lists, which tell whether the endpoint logs the list's impressions itself."""

from __future__ import annotations

import uuid
from typing import Final

_RECORDED: Final = "r-"
_NAMESPACE = uuid.UUID("6f1f0c0a-3c0e-4a53-9d0f-1b7c5b1a5d11")


def new_request_id(is_recorded: bool, idempotency_key: str | None = None) -> str:
    """Returns the id of a list; the same one for the same key, so that a list sent again counts once."""
    return f"{_RECORDED if is_recorded else ''}{derive_id(idempotency_key)}"


def derive_id(idempotency_key: str | None) -> str:
    """Returns the same id for the same key; a new one without a key."""
    return uuid.uuid4().hex if idempotency_key is None else uuid.uuid5(_NAMESPACE, idempotency_key).hex


def is_recorded(request_id: str | None) -> bool:
    """Whether an id is that of a list whose impressions the endpoint logs."""
    return request_id is not None and request_id.startswith(_RECORDED)
