"""Deploys bundles to all endpoints: either every endpoint serves the new bundle, or all keep the previous one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from recsys_tasks.client.admin import AdminClient
from recsys_tasks.engine.bundle import Bundle, pack
from recsys_tasks.errors import ConfigurationError, InvariantError, RecsysError, UnavailableError

log = logging.getLogger(__name__)
_Response = TypeVar("_Response")


class PushFailed(InvariantError):
    """An endpoint rejected the bundle or answers unexpectedly; the previous model serves everywhere."""


class FleetResponse(NamedTuple):
    """Responses of the endpoints that succeeded and errors of the others, by URL."""

    responses: dict[str, Any]
    problems: dict[str, RecsysError]


class Fleet:
    """All endpoints; every method calls them in parallel."""

    def __init__(self, urls: Sequence[str], token: str) -> None:
        self._clients = [AdminClient(url, token, PushFailed) for url in urls]

    def stage(self, folder: Path, digest: str, serving: str | None = None) -> dict[str, dict[str, Any]]:
        """Stages a bundle at every endpoint; returns each endpoint's measurements by URL.

        Args:
            folder: the bundle.
            digest: its digest.
            serving: digest of the bundle that serves if this fails; may be the bundle itself.

        Raises:
            PushFailed: an endpoint rejected the bundle; it is staged nowhere.
            UnavailableError, ConfigurationError: an endpoint does not answer, or rejects the token; staged nowhere.
        """
        result = self.stage_missing(folder, digest)
        if result.problems:
            self._revert(digest, serving)
            raise _combine(result.problems)
        return result.responses

    def stage_missing(self, folder: Path, digest: str) -> FleetResponse:
        """Stages a bundle at every reachable endpoint that neither serves nor has staged it."""
        return self._call(lambda client: _stage(client, folder, digest))

    def activate(self, bundle: Bundle, serving: str | None = None) -> None:
        """Activates a staged bundle at every endpoint and verifies each over the public route.

        Args:
            bundle: the staged bundle.
            serving: digest of the bundle that serves if this fails; may be the bundle itself.

        Raises:
            PushFailed: an endpoint rejected the bundle or answers unexpectedly; the others were rolled back.
            UnavailableError, ConfigurationError: an endpoint does not answer, or rejects the token; rolled back too.
        """
        result = self._call(AdminClient.models)
        if not result.problems:
            result = self._call(lambda client: _activate(client, bundle))
        if result.problems:
            self._revert(bundle.digest, serving)
            raise _combine(result.problems)
        for client in self._clients:
            log.info("%s serves version %s, bundle %s", client.url, bundle.model_version, bundle.digest)

    def _revert(self, digest: str, serving: str | None) -> None:
        # Checks every endpoint: one whose response was lost may have activated the bundle, and so may a task that was
        # killed half way.
        if digest == serving:
            return
        for url, error in self._call(lambda client: _revert(client, digest)).problems.items():
            log.error("%s could not be rolled back; `reconcile_champion` repairs it: %s", url, error)

    def restore(self, digest: str, folder: Callable[[], Path]) -> FleetResponse:
        """Activates a previously served bundle at every reachable endpoint.

        Args:
            digest: the bundle's digest.
            folder: finds the bundle's folder; called only if an endpoint no longer has the bundle.

        Returns:
            For each endpoint that served another bundle, the version it served until now.
        """
        models = self.models()
        reachable = models.responses.items()
        changed = {url: status["model_version"] for url, status in reachable if status["active"] != digest}
        is_missing = any(digest not in (status["active"], status["previous"]) for _, status in reachable)
        source = folder() if is_missing else None
        result = self._call(lambda client: _restore(client, digest, source), list(changed))
        return FleetResponse(
            {url: version for url, version in changed.items() if url not in result.problems},
            {**models.problems, **result.problems},
        )

    def start_rollout(self, digest: str, terms: Mapping[str, Any]) -> FleetResponse:
        """Starts a rollout phase of the staged bundle at every reachable endpoint; returns its figures so far."""
        return self._call(lambda client: client.change_staged(digest, **terms))

    def models(self) -> FleetResponse:
        """Returns the active, previous and staged bundle of every reachable endpoint."""
        return self._call(AdminClient.models)

    def discard(self, digest: str | None = None) -> None:
        """Discards the staged bundle of every reachable endpoint; with a digest, only that bundle."""
        for url, error in self._call(lambda client: client.discard_staged(digest)).problems.items():
            log.error("%s may keep a staged bundle until `reconcile_champion` runs: %s", url, error)

    def _call(self, call: Callable[[AdminClient], _Response], only: Sequence[str] | None = None) -> FleetResponse:
        clients = [client for client in self._clients if only is None or client.url in only]
        result = FleetResponse({}, {})
        if not clients:
            return result
        with ThreadPoolExecutor(len(clients)) as pool:
            for client, future in [(client, pool.submit(call, client)) for client in clients]:
                try:
                    result.responses[client.url] = future.result()
                except RecsysError as error:
                    result.problems[client.url] = error
                except (ValueError, KeyError, TypeError) as error:  # not a response of an endpoint
                    problem = f"{client.url} does not answer like an endpoint: {type(error).__name__}: {error}"
                    result.problems[client.url] = PushFailed(problem)
        return result


def _stage(client: AdminClient, folder: Path, digest: str) -> dict[str, Any]:
    models = client.models()
    staged: dict[str, Any] | None = models["staged"]
    if models["active"] == digest:
        return {}
    if staged is None or staged["bundle"] != digest:
        staged = client.stage(pack(folder))
    if staged["bundle"] != digest:
        raise PushFailed(f"{client.url} staged bundle {staged['bundle']}, but {digest} was sent")
    measured: dict[str, Any] = staged["measured"]
    return measured


def _activate(client: AdminClient, bundle: Bundle) -> None:
    """Activates the bundle and verifies the served version; staging has already verified the golden answers."""
    client.change_staged(bundle.digest, "active")
    if client.models()["active"] != bundle.digest:
        raise PushFailed(f"{client.url} does not serve bundle {bundle.digest} after its activation")
    served = client.query_served_version()
    if served != bundle.model_version:
        raise PushFailed(f"{client.url} answers with version {served} after activating version {bundle.model_version}")


def _revert(client: AdminClient, digest: str) -> None:
    if client.models()["active"] == digest:
        client.roll_back(to_none=True)
    client.discard_staged(digest)


def _restore(client: AdminClient, digest: str, source: Path | None) -> None:
    if client.models()["previous"] == digest:
        client.roll_back()
        return
    if source is None:
        raise PushFailed(f"{client.url} lost bundle {digest} in the meantime; run this again")
    client.discard_staged()
    _stage(client, source, digest)
    client.change_staged(digest, "active")


def _combine(problems: Mapping[str, RecsysError]) -> RecsysError:
    """Returns one error with all messages, of the most actionable class among them."""
    classes: tuple[type[RecsysError], ...] = (ConfigurationError, PushFailed, UnavailableError)
    errors = list(problems.values())
    best = next((kind for kind in classes if any(isinstance(error, kind) for error in errors)), RecsysError)
    return best("; ".join(str(error) for error in errors))
