"""Pushes a bundle to every endpoint: all of them serve it, or all go back to what served before."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from recsys_tasks.endpoints import AdminClient
from recsys_tasks.errors import InvariantError, RecsysError
from recsys_tasks.serving.bundle import Bundle, pack, read_bundle

log = logging.getLogger(__name__)


class PushFailed(InvariantError):
    """An endpoint refused the bundle or answers otherwise than it should; the old model serves everywhere."""


def push(folder: Path, urls: Sequence[str], token: str) -> None:
    """Puts the bundle on every endpoint and checks what each then answers.

    Raises:
        PushFailed: an endpoint refused it or answers wrongly; those that had taken it were put back.
        UnavailableError: an endpoint does not answer; likewise.
    """
    bundle = read_bundle(folder)
    archive = pack(folder)
    taken: list[AdminClient] = []
    for url in urls:
        endpoint = AdminClient(url, token, PushFailed)
        try:
            if endpoint.bundle() != bundle.digest:
                # before asking: an answer that is lost on its way does not mean that nothing was done
                taken.append(endpoint)
                endpoint.put_bundle(archive)
            _verify(endpoint, bundle)
        except Exception:
            for other in taken:
                _put_back(other, bundle.digest)
            raise
        log.info("%s serves version %s, bundle %s", url, bundle.model_version, bundle.digest)


def roll_back(urls: Sequence[str], token: str) -> str:
    """Lets every endpoint serve what it served before; returns that model version.

    Raises:
        PushFailed: an endpoint has nothing to go back to.
        UnavailableError: an endpoint does not answer.
    """
    versions = {AdminClient(url, token, PushFailed).roll_back() for url in urls}
    if len(versions) != 1:
        raise PushFailed(
            f"The endpoints now serve different versions: {', '.join(sorted(versions))}; promote one again"
        )
    return versions.pop()


def _verify(endpoint: AdminClient, bundle: Bundle) -> None:
    """Asks over the public routes, as a caller would: the version, and a golden answer that depends on nobody."""
    if endpoint.bundle() != bundle.digest:
        raise PushFailed(f"{endpoint.url} does not serve bundle {bundle.digest} after taking it")
    case = next(case for case in bundle.golden if case["request"]["user_id"] is None)
    found = endpoint.recommendations_for_nobody(case["request"]["k"])
    wanted = [entry["item_id"] for entry in case["answer"]]
    if found != wanted:
        raise PushFailed(f"{endpoint.url} answers {found[:3]}… where the golden answer is {wanted[:3]}…")


def _put_back(endpoint: AdminClient, digest: str) -> None:
    """Lets an endpoint serve what it served before it took the bundle, or nothing where that was nothing."""
    try:
        if endpoint.bundle() == digest:
            endpoint.roll_back(to_none=True)
    except RecsysError as error:
        log.error("%s could not be put back: %s", endpoint.url, error)
