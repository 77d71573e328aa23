"""Who may ask what: keys with scopes, in the header `Authorization: Bearer KEY`."""

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


class Access:
    """The keys of one endpoint.

    Lists are open to everybody where no reading keys are set, and events where no writing keys are. The administrator's
    token opens everything, and where there is none, nobody administers.
    """

    def __init__(self, settings: Settings) -> None:
        admin = [settings.admin_token] if settings.admin_token else []
        keys = {READ: settings.read_keys, WRITE: settings.write_keys, ADMIN: ()}
        self._guarded = {scope for scope, of_scope in keys.items() if of_scope} | {ADMIN}
        self._accepted = {
            scope: [f"Bearer {key.get_secret_value()}".encode() for key in (*of_scope, *admin)]
            for scope, of_scope in keys.items()
        }

    def check(self, authorization: str | None, scope: Scope) -> None:
        """Raises `RequestError` where a header does not give a key of a scope; takes as long for any wrong key."""
        if scope not in self._guarded:
            return
        if not self._accepted[scope]:
            raise RequestError(403, "Admin routes are off", "this endpoint has no RECSYS_ADMIN_TOKEN")
        if not self._given(authorization, scope):
            raise RequestError(
                401, "Not authorized", f"the bearer token is missing, or no key with the scope `{scope}`"
            )

    def is_admin(self, authorization: str | None) -> bool:
        """Whether a header gives the administrator's token."""
        return self._given(authorization, ADMIN)

    def _given(self, authorization: str | None, scope: Scope) -> bool:
        given = (authorization or "").encode()
        return sum(hmac.compare_digest(given, key) for key in self._accepted[scope]) > 0
