"""Answers to pages of other origins (CORS)."""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from recsys_tasks.serving.access import AccessControl
from recsys_tasks.serving.logs import REQUEST_ID

_PREFLIGHT_SECONDS = 3_600
_REQUEST_HEADERS = ("Authorization", "Content-Type", "Idempotency-Key", REQUEST_ID)
_RESPONSE_HEADERS = (
    REQUEST_ID,
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "ETag",
    "Deprecation",
    "Sunset",
    "Link",
)


class PageMiddleware(CORSMiddleware):
    """Lets pages of the origins that the keys and the settings name read the answers; the origins may change."""

    def __init__(self, app: ASGIApp, access: AccessControl) -> None:
        super().__init__(
            app,
            allow_methods=("GET", "POST"),
            allow_headers=_REQUEST_HEADERS,
            expose_headers=_RESPONSE_HEADERS,
            max_age=_PREFLIGHT_SECONDS,
        )
        self._access = access

    def is_allowed_origin(self, origin: str) -> bool:
        """Whether pages of an origin may read the answers."""
        return self._access.is_allowed_origin(origin)
