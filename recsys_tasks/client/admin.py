"""What the pipeline asks of the endpoints, over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import httpx

from recsys_tasks.errors import ConfigurationError, RecsysError, UnavailableError

log = logging.getLogger(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every address, and one of them names a user
_SECONDS = 60.0
_STAGE_SECONDS = 600.0  # a bundle is sent, tried and loaded


class AdminClient:
    """One endpoint, as its administrator sees it.

    Every method raises `UnavailableError` where the endpoint does not answer or cannot (5xx), `ConfigurationError`
    where it does not accept the token, and `refusal` where it answers anything else than it should.
    """

    def __init__(self, url: str, token: str, refusal: type[RecsysError] = UnavailableError) -> None:
        self.url = url
        self._token = token
        self._refusal = refusal

    def models(self) -> dict[str, Any]:
        """Digests of the bundle that serves (`active`, with its `model_version`) and that served before (`previous`),
        and what is `staged`."""
        found: dict[str, Any] = self._ask("GET", "/v1/admin/model").json()
        return found

    def stage(self, archive: bytes) -> dict[str, Any]:
        """Lets a bundle be checked and kept beside the one that serves; what it showed."""
        found: dict[str, Any] = self._ask("PUT", "/v1/admin/staged", seconds=_STAGE_SECONDS, content=archive).json()
        return found

    def change_staged(self, bundle: str, mode: str, **terms: float) -> dict[str, Any]:
        """Lets the staged bundle serve (`active`), or be tried."""
        found: dict[str, Any] = self._ask(
            "POST", "/v1/admin/staged", json={"bundle": bundle, "mode": mode, **terms}
        ).json()
        return found

    def discard_staged(self, bundle: str | None = None) -> None:
        """Lets go of what is staged, or of a certain bundle if that is."""
        self._ask("DELETE", "/v1/admin/staged" + (f"?bundle={bundle}" if bundle else ""))

    def roll_back(self, to_none: bool = False) -> str:
        """Lets the bundle serve that served before, or with `to_none` none where none did; its model version."""
        answer = self._ask("DELETE", "/v1/admin/model" + ("?to_none=true" if to_none else ""))
        return str(answer.json()["model_version"])

    def answering_version(self) -> str:
        """The version that answers any caller, who is told nothing that would be recorded as shown."""
        return str(self._ask("POST", "/v1/recommendations", json={"record": False}).json()["model_version"])

    def journal(self) -> dict[str, Any]:
        """The journal's `instance` and its `segments`, each with `name` and `bytes`."""
        found: dict[str, Any] = self._ask("GET", "/v1/admin/journal").json()
        return found

    def read_journal(self, segment: str, offset: int) -> bytes:
        """The next whole lines of a segment; empty at its end."""
        return self._ask("GET", f"/v1/admin/journal/{segment}?offset={offset}").content

    def forget(self, user_id: str) -> int:
        """Forgets a user; how many lines of the journal went."""
        path = quote(user_id, safe="").replace(".", "%2E")  # a user may be called `..`
        answer = self._send("DELETE", f"/v1/admin/users/{path}")
        if answer.status_code != 200:  # what else the answer says may name the user
            raise self._failure(answer)(f"{self.url} did not forget a user: status {answer.status_code}")
        return int(answer.json()["journal_lines"])

    def _ask(self, method: str, path: str, accept: tuple[int, ...] = (200,), **body: Any) -> httpx.Response:
        answer = self._send(method, path, **body)
        if answer.status_code not in accept:
            raise self._failure(answer)(f"{method} {self.url}{path}: status {answer.status_code}: {answer.text[:300]}")
        return answer

    def _send(self, method: str, path: str, seconds: float = _SECONDS, **body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            answer = httpx.request(method, f"{self.url}{path}", headers=headers, timeout=seconds, **body)
        except httpx.TransportError as error:
            raise UnavailableError(f"{method} {self.url}: the endpoint does not answer ({error})") from error
        if answer.status_code in (401, 403):
            raise ConfigurationError(f"{self.url}: {answer.text[:300]}; check RECSYS_ADMIN_TOKEN on both sides")
        return answer

    def _failure(self, answer: httpx.Response) -> type[RecsysError]:
        return UnavailableError if answer.status_code >= 500 else self._refusal


def forget(urls: Sequence[str], token: str, user_ids: Sequence[str]) -> int:
    """Lets every endpoint forget users; returns how many lines of their journals went. Asking again is harmless.

    Raises:
        UnavailableError: names the endpoints that did not forget all of them; every other one did.
        ConfigurationError: an endpoint does not accept the token; those after it were not asked.
    """
    lines, silent = 0, []
    for url in urls:
        client = AdminClient(url, token)
        try:
            lines += sum(client.forget(user_id) for user_id in user_ids)
        except UnavailableError as error:
            log.error("%s", error)
            silent.append(url)
    if silent:
        raise UnavailableError(f"Not every user is forgotten at {', '.join(silent)}; ask again")
    return lines
