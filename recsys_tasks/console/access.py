"""Sign-in with the admin token, and CSRF protection of forms."""

from __future__ import annotations

import hmac
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import FormData
from starlette.requests import Request

_OPERATOR, _CSRF = "operator", "csrf"
_MAX_NAME_LENGTH = 60


class ForbiddenRequest(Exception):
    """A request that the console does not carry out; the message says why."""


def sign_in(request: Request, name: str, token: str, admin_token: str) -> bool:
    """Begins a session for an operator; returns whether the token is right and there is a name."""
    name = name.strip()[:_MAX_NAME_LENGTH]
    if not name or not hmac.compare_digest(token.encode(), admin_token.encode()):
        return False
    request.session.clear()
    request.session.update({_OPERATOR: name, _CSRF: secrets.token_urlsafe(32)})
    return True


def sign_out(request: Request) -> None:
    """Ends the session."""
    request.session.clear()


def get_operator(request: Request) -> str | None:
    """Returns the name that the operator signed in with; None without a session."""
    found: str | None = request.session.get(_OPERATOR)
    return found


def get_csrf_token(request: Request) -> str:
    """Returns the token that every form of this session carries."""
    found: str = request.session.get(_CSRF, "")
    return found


def check_form(request: Request, form: FormData) -> None:
    """Checks that a form was sent from a page of the console, in the session of the operator.

    Raises:
        ForbiddenRequest: the page is of another origin, or the token is missing or of another session.
    """
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise ForbiddenRequest(
            f"The form was sent from {origin}, not from the console. Open the console and repeat the action"
        )
    expected = get_csrf_token(request)
    if not expected or not hmac.compare_digest(str(form.get("csrf", "")).encode(), expected.encode()):
        raise ForbiddenRequest("The form belongs to another session. Reload the page and repeat the action")
