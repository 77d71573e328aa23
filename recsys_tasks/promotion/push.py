"""Pushes a bundle to every endpoint: all of them serve it, or all go back to what served before."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import httpx

from recsys_tasks.errors import ConfigurationError, InvariantError, RecsysError, UnavailableError
from recsys_tasks.serving.bundle import Bundle, pack, read_bundle

log = logging.getLogger(__name__)
_SECONDS = 60.0


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
    taken: list[str] = []
    for url in urls:
        try:
            if _active(url) != bundle.digest:
                taken.append(
                    url
                )  # before asking: an answer that is lost on its way does not mean that nothing was done
                _request("PUT", f"{url}/v1/admin/model", token, archive)
            _verify(url, bundle)
        except Exception:
            for endpoint in taken:
                _put_back(endpoint, token, bundle.digest)
            raise
        log.info("%s serves version %s, bundle %s", url, bundle.model_version, bundle.digest)


def roll_back(urls: Sequence[str], token: str) -> str:
    """Lets every endpoint serve what it served before; returns that model version.

    Raises:
        PushFailed: an endpoint has nothing to go back to.
        UnavailableError: an endpoint does not answer.
    """
    versions = {str(_request("DELETE", f"{url}/v1/admin/model", token).json()["model_version"]) for url in urls}
    if len(versions) != 1:
        raise PushFailed(
            f"The endpoints now serve different versions: {', '.join(sorted(versions))}; promote one again"
        )
    return versions.pop()


def _verify(url: str, bundle: Bundle) -> None:
    """Asks over the public routes, as a caller would: the version, and a golden answer that depends on nobody."""
    if _active(url) != bundle.digest:
        raise PushFailed(f"{url} does not serve bundle {bundle.digest} after taking it")
    case = next(case for case in bundle.golden if case["request"]["user_id"] is None)
    body = {"k": case["request"]["k"], "record": False}
    answer = _send("POST", f"{url}/v1/recommendations", json=body).json()
    found = [item["item_id"] for item in answer["items"]]
    wanted = [entry["item_id"] for entry in case["answer"]]
    if found != wanted:
        raise PushFailed(f"{url} answers {found[:3]}… where the golden answer is {wanted[:3]}…")


def _active(url: str) -> str | None:
    answer = _send("GET", f"{url}/v1/model", accept=(200, 503))
    return str(answer.json()["bundle"]) if answer.status_code == 200 else None


def _put_back(url: str, token: str, digest: str) -> None:
    """Lets an endpoint serve what it served before it took the bundle, or nothing where that was nothing."""
    try:
        if _active(url) == digest:
            _request("DELETE", f"{url}/v1/admin/model?to_none=true", token)
    except RecsysError as error:
        log.error("%s could not be put back: %s", url, error)


def _request(method: str, url: str, token: str, content: bytes | None = None) -> httpx.Response:
    answer = _send(method, url, headers={"Authorization": f"Bearer {token}"}, content=content, accept=None)
    if answer.status_code in (401, 403):
        raise ConfigurationError(f"{url}: {answer.text[:300]}; check RECSYS_ADMIN_TOKEN on both sides")
    if answer.status_code != 200:
        raise PushFailed(f"{method} {url}: status {answer.status_code}: {answer.text[:300]}")
    return answer


def _send(
    method: str,
    url: str,
    *,
    accept: tuple[int, ...] | None = (200,),
    headers: dict[str, str] | None = None,
    content: bytes | None = None,
    json: object = None,
) -> httpx.Response:
    try:
        answer = httpx.request(method, url, headers=headers, content=content, json=json, timeout=_SECONDS)
    except httpx.TransportError as error:
        raise UnavailableError(f"{method} {url}: the endpoint does not answer ({error})") from error
    if accept is not None and answer.status_code not in accept:
        raise PushFailed(f"{method} {url}: status {answer.status_code}: {answer.text[:300]}")
    return answer
