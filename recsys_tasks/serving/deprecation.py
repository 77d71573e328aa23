"""Deprecated operations and their response headers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime


@dataclass(frozen=True)
class Deprecation:
    """Deprecation of an operation.

    Attributes:
        since: time from which on it is deprecated, in UTC.
        sunset: time after which it may be removed, in UTC.
        successor: path of the operation to use instead.
    """

    since: datetime
    sunset: datetime
    successor: str

    def headers(self) -> dict[str, str]:
        """Returns the headers of the answers: `Deprecation` (RFC 9745), `Sunset` (RFC 8594) and a link to the successor
        (RFC 5829)."""
        return {
            "Deprecation": f"@{int(self.since.timestamp())}",
            "Sunset": format_datetime(self.sunset, usegmt=True),
            "Link": f'<{self.successor}>; rel="successor-version"',
        }


DEPRECATIONS: dict[tuple[str, str], Deprecation] = {}
"""Deprecated operations by method, in lower case, and path template; none at present."""


def deprecation_headers(method: str, path: str) -> dict[str, str]:
    """Returns the headers of the answers of an operation; none unless it is deprecated."""
    found = DEPRECATIONS.get((method.lower(), path))
    return {} if found is None else found.headers()
