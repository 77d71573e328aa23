"""HTTP client of an endpoint's administration routes, for the pipeline."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import httpx

from recsys_tasks.errors import ConfigurationError, RecsysError, UnavailableError

log = logging.getLogger(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs URLs, and one of them contains a user id
_TIMEOUT_SECONDS = 60.0
_STAGE_TIMEOUT_SECONDS = 600.0  # uploading, probing and loading a bundle


class AdminClient:
    """Client of one endpoint's administration routes.

    Every method raises `UnavailableError` if the endpoint does not answer or answers 5xx, `ConfigurationError` if it
    does not accept the token, and `error_class` for any other unexpected status.
    """

    def __init__(self, url: str, token: str, error_class: type[RecsysError] = UnavailableError) -> None:
        self.url = url
        self._token = token
        self._error_class = error_class

    def models(self) -> dict[str, Any]:
        """Returns the endpoint's bundles: digests `active` (with its `model_version`) and `previous`, and `staged`."""
        models: dict[str, Any] = self._request("GET", "/v1/admin/model").json()
        return models

    def stage(self, archive: bytes) -> dict[str, Any]:
        """Uploads a bundle, which the endpoint checks and stages beside the active one; returns its state."""
        staged: dict[str, Any] = self._request(
            "PUT", "/v1/admin/staged", seconds=_STAGE_TIMEOUT_SECONDS, content=archive
        ).json()
        return staged

    def change_staged(self, bundle: str, mode: str, **terms: float) -> dict[str, Any]:
        """Changes the staged bundle's mode: `active` to serve, or a phase of the rollout; returns its state."""
        state: dict[str, Any] = self._request(
            "POST", "/v1/admin/staged", json={"bundle": bundle, "mode": mode, **terms}
        ).json()
        return state

    def discard_staged(self, bundle: str | None = None) -> None:
        """Discards the staged bundle; with a digest, only if that bundle is staged."""
        self._request("DELETE", "/v1/admin/staged" + (f"?bundle={bundle}" if bundle else ""))

    def roll_back(self, to_none: bool = False) -> str:
        """Activates the previous bundle and returns its model version.

        Args:
            to_none: if there is no previous bundle, leaves the endpoint without one.
        """
        response = self._request("DELETE", "/v1/admin/model" + ("?to_none=true" if to_none else ""))
        return str(response.json()["model_version"])

    def query_served_version(self) -> str:
        """Returns the version that answers the public route, from a request that records no impressions."""
        response = self._request("POST", "/v1/recommendations", json={"record": False})
        return str(response.json()["model_version"])

    def list_event_log(self) -> dict[str, Any]:
        """Returns the event log's `instance` and its `segments`, each with `name` and `bytes`."""
        log_index: dict[str, Any] = self._request("GET", "/v1/admin/journal").json()
        return log_index

    def read_event_log(self, segment: str, offset: int) -> bytes:
        """Returns the next complete lines of a segment; empty at its end."""
        return self._request("GET", f"/v1/admin/journal/{segment}?offset={offset}").content

    def confirm_collected(self, consumer: str, segment: str, offset: int) -> None:
        """Confirms that a consumer holds everything before a position of the event log."""
        self._request("PUT", f"/v1/admin/journal/consumers/{consumer}", json={"segment": segment, "offset": offset})

    def forget(self, user_id: str) -> int:
        """Erases a user; returns how many lines the event log lost."""
        path = quote(user_id, safe="").replace(".", "%2E")  # a user id may be `..`
        response = self._send("DELETE", f"/v1/admin/users/{path}")
        if response.status_code != 200:  # the message omits the response's text, which may contain the user id
            raise self._error_of(response)(f"{self.url} did not forget a user: status {response.status_code}")
        return int(response.json()["journal_lines"])

    def _request(self, method: str, path: str, accept: tuple[int, ...] = (200,), **body: Any) -> httpx.Response:
        response = self._send(method, path, **body)
        if response.status_code not in accept:
            message = f"{method} {self.url}{path}: status {response.status_code}: {response.text[:300]}"
            raise self._error_of(response)(message)
        return response

    def _send(self, method: str, path: str, seconds: float = _TIMEOUT_SECONDS, **body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            response = httpx.request(method, f"{self.url}{path}", headers=headers, timeout=seconds, **body)
        except httpx.TransportError as error:
            raise UnavailableError(f"{method} {self.url}: the endpoint does not answer ({error})") from error
        if response.status_code in (401, 403):
            raise ConfigurationError(f"{self.url}: {response.text[:300]}; check RECSYS_ADMIN_TOKEN on both sides")
        return response

    def _error_of(self, response: httpx.Response) -> type[RecsysError]:
        return UnavailableError if response.status_code >= 500 else self._error_class


def forget(urls: Sequence[str], token: str, user_ids: Sequence[str]) -> int:
    """Erases users at every endpoint; returns how many lines their event logs lost. Idempotent.

    Raises:
        UnavailableError: some endpoints did not erase all users; names them. The others did.
        ConfigurationError: an endpoint does not accept the token; the endpoints after it were not called.
    """
    num_lines, failed_urls = 0, []
    for url in urls:
        client = AdminClient(url, token)
        try:
            num_lines += sum(client.forget(user_id) for user_id in user_ids)
        except UnavailableError as error:
            log.error("%s", error)
            failed_urls.append(url)
    if failed_urls:
        raise UnavailableError(f"Not every user is forgotten at {', '.join(failed_urls)}; run `forget` again")
    return num_lines
