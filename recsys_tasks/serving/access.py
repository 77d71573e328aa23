"""Access control: API keys with scopes, sent as `Authorization: Bearer KEY`."""

from __future__ import annotations

import hmac
from typing import Final, Literal

from recsys_tasks.serving.messages import RequestError
from recsys_tasks.settings import Settings

Scope = Literal["open", "read", "write", "admin"]
OPEN: Final = "open"
READ: Final = "read"
WRITE: Final = "write"
ADMIN: Final = "admin"
_KEY_SCOPES: Final[tuple[Scope, ...]] = (READ, WRITE, ADMIN)


class AccessControl:
    """The API keys of one endpoint.

    Without read keys, anyone can request lists. Without write keys, anyone can post events. The admin token grants
    every scope; without an admin token, the admin routes are disabled.
    """

    def __init__(self, settings: Settings) -> None:
        admin_keys = [settings.admin_token] if settings.admin_token else []
        keys_of_scope = {READ: settings.read_keys, WRITE: settings.write_keys, ADMIN: ()}
        self._protected_scopes = {scope for scope, keys in keys_of_scope.items() if keys} | {ADMIN}
        self._accepted_headers = {
            scope: [f"Bearer {key.get_secret_value()}".encode() for key in (*keys, *admin_keys)]
            for scope, keys in keys_of_scope.items()
        }

    def check(self, authorization: str | None, scope: Scope) -> None:
        """Checks that an `Authorization` header grants a scope. Takes constant time for wrong keys.

        Raises:
            RequestError: the header grants no access (401), or the admin routes are disabled (403).
        """
        if scope not in self._protected_scopes:
            return
        if not self._accepted_headers[scope]:
            raise RequestError(
                403, "Admin routes disabled", "this endpoint has no admin token; set RECSYS_ADMIN_TOKEN and restart it"
            )
        if not self._has_scope(authorization, scope):
            raise RequestError(
                401, "Not authorized", f"send `Authorization: Bearer KEY` with a key that has the scope `{scope}`"
            )

    def identify(self, authorization: str | None, host: str) -> str:
        """Returns who sends a request: the key, if it is one of this endpoint's, else the host. Invented keys thus give
        nobody a rate limit of their own."""
        is_known = any(self._has_scope(authorization, scope) for scope in _KEY_SCOPES)
        return _normalize(authorization) if is_known else host

    def is_admin(self, authorization: str | None) -> bool:
        """Whether an `Authorization` header carries the admin token."""
        return self._has_scope(authorization, ADMIN)

    def _has_scope(self, authorization: str | None, scope: Scope) -> bool:
        header = _normalize(authorization).encode()
        # Compare with every key, so that the time does not depend on which key matches.
        return sum(hmac.compare_digest(header, accepted) for accepted in self._accepted_headers[scope]) > 0


def _normalize(authorization: str | None) -> str:
    """An `Authorization` header with its scheme as `Bearer`: the name has no case (RFC 9110)."""
    scheme, _, key = (authorization or "").partition(" ")
    return f"{scheme.capitalize()} {key.strip()}"
