"""Cursors of search results: where the next page starts, bound to the search they belong to."""

from __future__ import annotations

import base64
import hashlib

import msgspec

from recsys_tasks.engine.search_options import MAX_RESULTS
from recsys_tasks.serving.messages import RequestError
from recsys_tasks.wire.messages import SearchRequest


class _Cursor(msgspec.Struct, array_like=True):
    offset: int
    search: str


def encode_cursor(offset: int, request: SearchRequest) -> str:
    """Returns the cursor of the page that starts after `offset` results of a search."""
    return base64.urlsafe_b64encode(msgspec.json.encode(_Cursor(offset, _fingerprint(request)))).decode()


def decode_cursor(cursor: str, request: SearchRequest) -> int:
    """Returns the number of results before the page.

    Raises:
        RequestError: the cursor is not valid, or belongs to another search (422).
    """
    try:
        decoded = msgspec.json.decode(base64.b64decode(cursor, altchars="-_", validate=True), type=_Cursor)
    except (ValueError, msgspec.MsgspecError) as error:
        raise RequestError(422, "Invalid request", "not a cursor of this endpoint - at `$.cursor`") from error
    if decoded.search != _fingerprint(request) or not 0 < decoded.offset <= MAX_RESULTS:
        problem = "the cursor belongs to a search with another query, filter or order"
        raise RequestError(422, "Invalid request", f"{problem} - at `$.cursor`")
    return decoded.offset


def _fingerprint(request: SearchRequest) -> str:
    parts = (request.query, request.sort, request.filter, request.exclude, bool(request.facets))
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]
