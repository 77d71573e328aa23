"""Every endpoint at once: all of them serve a bundle, or all go on with what served before."""

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
_Found = TypeVar("_Found")


class PushFailed(InvariantError):
    """An endpoint refused the bundle or answers otherwise than it should; the old model serves everywhere."""


class Asked(NamedTuple):
    """What endpoints answered, and what went wrong at others, by their addresses."""

    found: dict[str, Any]
    problems: dict[str, RecsysError]


class Fleet:
    """The endpoints of a list. What is asked of one is asked of all, side by side."""

    def __init__(self, urls: Sequence[str], token: str) -> None:
        self._clients = [AdminClient(url, token, PushFailed) for url in urls]

    def stage(self, folder: Path, digest: str, serving: str | None = None) -> dict[str, dict[str, Any]]:
        """Puts a bundle beside what serves, at every endpoint; what each measured of it, by address.

        Args:
            folder: the bundle; digest: its name.
            serving: digest of what is to serve on if this fails, which may be the bundle itself.

        Raises:
            PushFailed: an endpoint refused it; it is staged nowhere.
            UnavailableError, ConfigurationError: an endpoint does not answer, or not to this token; likewise.
        """
        asked = self.stage_again(folder, digest)
        if asked.problems:
            self._put_back(digest, serving)
            raise _all_of(asked.problems)
        return asked.found

    def stage_again(self, folder: Path, digest: str) -> Asked:
        """Puts a bundle beside what serves, where it is not, at every endpoint that can be reached."""
        return self._ask(lambda client: _staged(client, folder, digest))

    def activate(self, bundle: Bundle, serving: str | None = None) -> None:
        """Lets a staged bundle serve at every endpoint, and asks each as a caller would.

        Args:
            bundle: what is staged.
            serving: digest of what is to serve on if this fails, which may be the bundle itself.

        Raises:
            PushFailed: an endpoint refused or answers wrongly; those that serve it were put back.
            UnavailableError, ConfigurationError: likewise.
        """
        asked = self._ask(AdminClient.models)
        if not asked.problems:
            asked = self._ask(lambda client: _activate(client, bundle))
        if asked.problems:
            self._put_back(bundle.digest, serving)
            raise _all_of(asked.problems)
        for client in self._clients:
            log.info("%s serves version %s, bundle %s", client.url, bundle.model_version, bundle.digest)

    def _put_back(self, digest: str, serving: str | None) -> None:
        # An answer that was lost on its way does not mean that nothing was done, and what was killed before may have
        # got half way: all endpoints are looked at.
        if digest == serving:
            return
        for url, error in self._ask(lambda client: _put_back(client, digest)).problems.items():
            log.error("%s could not be put back, and is for reconciling to put right: %s", url, error)

    def bring(self, digest: str, folder: Callable[[], Path]) -> Asked:
        """Lets every endpoint that can be reached serve a bundle that served before.

        What is found is the version that an endpoint served until now, of those that served another bundle.

        Args:
            digest: of the bundle.
            folder: finds the bundle, for endpoints that do not have it any more.
        """
        models = self.models()
        reached = models.found.items()
        changed = {url: found["model_version"] for url, found in reached if found["active"] != digest}
        missing = any(digest not in (found["active"], found["previous"]) for _, found in reached)
        source = folder() if missing else None
        asked = self._ask(lambda client: _bring(client, digest, source), list(changed))
        return Asked(
            {url: version for url, version in changed.items() if url not in asked.problems},
            {**models.problems, **asked.problems},
        )

    def begin_trial(self, digest: str, terms: Mapping[str, Any]) -> Asked:
        """Tries the staged bundle at every endpoint that can be reached; what it showed so far."""
        return self._ask(lambda client: client.change_staged(digest, **terms))

    def models(self) -> Asked:
        """What serves, served before and is staged, at every endpoint that can be reached."""
        return self._ask(AdminClient.models)

    def discard(self, digest: str | None = None) -> None:
        """Lets go of a staged bundle, or of any, wherever an endpoint can be reached."""
        for url, error in self._ask(lambda client: client.discard_staged(digest)).problems.items():
            log.error("%s may keep a staged bundle until it is reconciled: %s", url, error)

    def _ask(self, ask: Callable[[AdminClient], _Found], only: Sequence[str] | None = None) -> Asked:
        clients = [client for client in self._clients if only is None or client.url in only]
        asked = Asked({}, {})
        if not clients:
            return asked
        with ThreadPoolExecutor(len(clients)) as pool:
            for client, answer in [(client, pool.submit(ask, client)) for client in clients]:
                try:
                    asked.found[client.url] = answer.result()
                except RecsysError as error:
                    asked.problems[client.url] = error
                except (ValueError, KeyError, TypeError) as error:  # not what an endpoint answers
                    problem = f"{client.url} answers what no endpoint does: {type(error).__name__}: {error}"
                    asked.problems[client.url] = PushFailed(problem)
        return asked


def _staged(client: AdminClient, folder: Path, digest: str) -> dict[str, Any]:
    models = client.models()
    staged: dict[str, Any] | None = models["staged"]
    if models["active"] == digest:
        return {}
    if staged is None or staged["bundle"] != digest:
        staged = client.stage(pack(folder))
    if staged["bundle"] != digest:
        raise PushFailed(f"{client.url} has staged bundle {staged['bundle']} where {digest} was sent")
    measured: dict[str, Any] = staged["measured"]
    return measured


def _activate(client: AdminClient, bundle: Bundle) -> None:
    """Makes sure of it over the public route, too; that its answers are right was found out when it was staged."""
    client.change_staged(bundle.digest, "active")
    if client.models()["active"] != bundle.digest:
        raise PushFailed(f"{client.url} does not serve bundle {bundle.digest} after taking it")
    answering = client.answering_version()
    if answering != bundle.model_version:
        raise PushFailed(f"{client.url} answers by version {answering} after taking version {bundle.model_version}")


def _put_back(client: AdminClient, digest: str) -> None:
    if client.models()["active"] == digest:
        client.roll_back(to_none=True)
    client.discard_staged(digest)


def _bring(client: AdminClient, digest: str, source: Path | None) -> None:
    if client.models()["previous"] == digest:
        client.roll_back()
        return
    if source is None:
        raise PushFailed(f"{client.url} lost bundle {digest} meanwhile")
    client.discard_staged()
    _staged(client, source, digest)
    client.change_staged(digest, "active")


def _all_of(problems: Mapping[str, RecsysError]) -> RecsysError:
    """One error for all of them, of the kind that says most about what to do."""
    kinds: tuple[type[RecsysError], ...] = (ConfigurationError, PushFailed, UnavailableError)
    errors = list(problems.values())
    kind = next((kind for kind in kinds if any(isinstance(error, kind) for error in errors)), RecsysError)
    return kind("; ".join(str(error) for error in errors))
