"""Who may use the console: people who know the admin token. Forms carry a token against forged requests (CSRF)."""

from __future__ import annotations

import hmac
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import FormData
from starlette.requests import Request

_PERSON, _CSRF = "person", "csrf"
MAX_NAME = 60


class Forbidden(Exception):
    """A request that the console does not carry out; the message says why."""


def sign_in(request: Request, name: str, key: str, admin_token: str) -> bool:
    """Begins a session for a person; returns whether the key is right and there is a name."""
    name = name.strip()[:MAX_NAME]
    if not name or not hmac.compare_digest(key.encode(), admin_token.encode()):
        return False
    request.session.clear()
    request.session.update({_PERSON: name, _CSRF: secrets.token_urlsafe(32)})
    return True


def sign_out(request: Request) -> None:
    """Ends the session."""
    request.session.clear()


def person(request: Request) -> str | None:
    """Returns the name that the person signed in with; None without a session."""
    found: str | None = request.session.get(_PERSON)
    return found


def csrf_token(request: Request) -> str:
    """Returns the token that every form of this session carries."""
    found: str = request.session.get(_CSRF, "")
    return found


def check_form(request: Request, form: FormData) -> None:
    """Checks that a form was sent from a page of the console, in the session of the person.

    Raises:
        Forbidden: the page is of another origin, or the token is missing or of another session.
    """
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise Forbidden(f"The form was sent from {origin}, not from the console")
    expected = csrf_token(request)
    if not expected or not hmac.compare_digest(str(form.get("csrf", "")).encode(), expected.encode()):
        raise Forbidden("The form is not of this session. Open the page again, and repeat the action")
