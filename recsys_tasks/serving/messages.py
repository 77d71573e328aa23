"""Decodes and validates request bodies (`wire.messages`), as far as that needs no model; raises `RequestError`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from recsys_tasks.errors import InputError
from recsys_tasks.names import SEARCH
from recsys_tasks.serving.event_log import Segment
from recsys_tasks.serving.request_ids import derive_id
from recsys_tasks.wire.filters import MAX_CONDITIONS, check_filter
from recsys_tasks.wire.items import Identifier, Item, ItemChanges, Text
from recsys_tasks.wire.messages import (
    Count,
    Event,
    LogPosition,
    RecommendationBatch,
    RecommendationRequest,
    RejectedLine,
    RulesPreview,
    SearchRequest,
    SimilarItemsRequest,
    StagedChange,
)
from recsys_tasks.wire.rules import MerchandisingRules, check_rules

_CLOCK_SKEW = timedelta(minutes=5)
_MIN_YEAR = 1970
_MAX_DEPTH = 20
_MAX_REQUEST_SYNONYMS = 100
_ENCODER = msgspec.json.Encoder()


class RequestError(Exception):
    """A rejected request: HTTP status, title and detail of the problem document."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail = status, title, detail


class LoggedEvent(Event, forbid_unknown_fields=False, omit_defaults=True, kw_only=True):
    """A line of the event log.

    Attributes:
        sender: who sent the event: `key:NAME`, or `address:DIGEST`; empty for events of the endpoint itself.
    """

    sender: str = ""


def serialize_events(events: Sequence[Event], sender: str = "") -> bytes:
    """Returns events as JSON lines, the format of the event log."""
    if sender:
        events = [LoggedEvent(**msgspec.structs.asdict(event), sender=sender) for event in events]
    return _ENCODER.encode_lines(events)


def decode_request(body: bytes) -> RecommendationRequest:
    """Decodes and validates a request for recommendations. An empty body is the default request."""
    request: RecommendationRequest = _decode(body or b"{}", RecommendationRequest)
    _validate_request(request, "$")
    return request


def decode_search(body: bytes) -> SearchRequest:
    """Decodes and validates a search request."""
    request: SearchRequest = _decode(body, SearchRequest)
    _validate_request(request, "$")
    if not request.query.strip():
        raise RequestError(422, "Invalid request", "the query is blank - at `$.query`")
    return request


def decode_batch(body: bytes) -> list[RecommendationRequest]:
    """Decodes and validates a batch of requests for recommendations."""
    batch: RecommendationBatch = _decode(body, RecommendationBatch)
    for index, request in enumerate(batch.requests):
        _validate_request(request, f"$.requests[{index}]")
    return batch.requests


def parse_list_length(text: str) -> int:
    """Parses the query parameter `k`."""
    try:
        return int(msgspec.convert(text, Count, strict=False))
    except msgspec.ValidationError as error:
        raise RequestError(422, "Invalid request", f"`k`: {error}") from error


def parse_prefix(text: str | None) -> str:
    """Parses the query parameter `q`."""
    try:
        return str(msgspec.convert(text, Text))
    except msgspec.ValidationError as error:
        raise RequestError(422, "Invalid request", f"`q`: {error}") from error


def _validate_request(request: RecommendationRequest, path: str) -> None:
    for index, event in enumerate(request.session):
        if event.event_type == SEARCH and event.query is None:
            raise RequestError(422, "Invalid request", f"a search event needs `query` - at `{path}.session[{index}]`")
        if event.event_type != SEARCH and event.item_id is None:
            raise RequestError(
                422, "Invalid request", f"a {event.event_type} event needs `item_id` - at `{path}.session[{index}]`"
            )
    times = {f"{path}.time": request.time}
    times |= {f"{path}.session[{index}].event_time": event.event_time for index, event in enumerate(request.session)}
    max_time = datetime.now(UTC) + _CLOCK_SKEW
    for time_path, time in times.items():
        if time is not None and not (time.year >= _MIN_YEAR and time <= max_time):
            problem = f"{time.isoformat()} is in the future or before {_MIN_YEAR}"
            raise RequestError(422, "Invalid request", f"{problem} - at `{time_path}`")
    num_conditions = 0
    if request.filter is not None:
        num_conditions += _check(check_filter, request.filter, f"{path}.filter")
    if request.rules is not None:
        num_conditions += _check(check_rules, request.rules, f"{path}.rules")
        if len(request.rules.synonyms) > _MAX_REQUEST_SYNONYMS:
            problem = f"a request has at most {_MAX_REQUEST_SYNONYMS} synonyms - at `{path}.rules.synonyms`"
            raise RequestError(422, "Invalid request", problem)
    if num_conditions > MAX_CONDITIONS:
        problem = f"`filter` and `rules` together have at most {MAX_CONDITIONS} conditions - at `{path}`"
        raise RequestError(422, "Invalid request", problem)


def _check(check: Callable[[Any, str], int], value: Any, path: str) -> int:
    """Runs a check; returns the number of conditions that it counts."""
    try:
        return check(value, path)
    except InputError as error:
        raise RequestError(422, "Invalid request", str(error)) from error


def decode_staged_change(body: bytes) -> StagedChange:
    """Decodes a change of the staged bundle's rollout."""
    change: StagedChange = _decode(body, StagedChange)
    return change


def decode_rules(body: bytes) -> MerchandisingRules:
    """Decodes and validates merchandising rules."""
    rules: MerchandisingRules = _decode(body, MerchandisingRules)
    _check(check_rules, rules, "$")
    return rules


def decode_rules_preview(body: bytes) -> RulesPreview:
    """Decodes and validates a request for a list under other rules."""
    preview: RulesPreview = _decode(body, RulesPreview)
    _check(check_rules, preview.rules, "$.rules")
    _validate_request(preview.request, "$.request")
    return preview


def decode_similar(body: bytes) -> SimilarItemsRequest:
    """Decodes and validates a request for similar items. An empty body is the default request."""
    request: SimilarItemsRequest = _decode(body or b"{}", SimilarItemsRequest)
    if request.filter is not None:
        _check(check_filter, request.filter, "$.filter")
    return request


class ItemLine(Item, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A line of a bulk request: an item with its id."""

    item_id: Identifier


def decode_items(body: bytes, max_items: int) -> tuple[dict[str, Item], list[RejectedLine]]:
    """Decodes and validates items, one JSON object per line; of several lines with the same id, the last one counts.

    Returns the items by id, and the lines that are not valid.
    """
    lines = [line for line in enumerate(body.splitlines(), start=1) if line[1].strip()]
    if len(lines) > max_items:
        raise RequestError(413, "Too many items", f"{len(lines)} items; send at most {max_items} in one request")
    items: dict[str, Item] = {}
    rejected = []
    for number, line in lines:
        try:
            fields = msgspec.structs.asdict(_decode(line, ItemLine))
            item_id = fields.pop("item_id")
            items[item_id] = check_item(Item(**fields))
        except RequestError as error:
            rejected.append(RejectedLine(number, error.detail))
    return items, rejected


def decode_position(body: bytes) -> Segment:
    """Decodes a position of the event log."""
    position: LogPosition = _decode(body, LogPosition)
    return Segment(position.segment, position.offset)


def split_events(body: bytes, max_events: int) -> dict[str, msgspec.Raw]:
    """Returns the raw events of a body by JSON path, without decoding them, so that requests over the size or rate
    limit are refused cheaply."""
    if body.lstrip()[:1] != b"[":
        return {"$": msgspec.Raw(body)}
    raw_events: list[msgspec.Raw] = _decode(body, list[msgspec.Raw])
    if not raw_events:
        raise RequestError(422, "No events", "the array of events is empty")
    if len(raw_events) > max_events:
        raise RequestError(
            413, "Too many events", f"{len(raw_events)} events; send at most {max_events} in one request"
        )
    return {f"$[{index}]": raw for index, raw in enumerate(raw_events)}


def decode_event(raw: msgspec.Raw, path: str, idempotency_key: str | None = None) -> Event:
    """Decodes and validates an event. One without id or time gets one; the id is the same for the same key.

    Args:
        raw: the event.
        path: its JSON path, for messages.
        idempotency_key: of the request and its place in it.
    """
    try:
        event: Event = _decode(raw, Event)
    except RequestError as error:
        place = "" if "`$" in error.detail or path == "$" else f" - at `{path}`"
        detail = error.detail.replace("`$", f"`{path}", 1) + place
        raise RequestError(error.status, error.title, detail) from error
    event.event_id = event.event_id or derive_id(idempotency_key)
    _complete_event(event, path, datetime.now(UTC) + _CLOCK_SKEW)
    return event


def decode_item(body: bytes) -> Item:
    """Decodes and validates the fields of an item."""
    return check_item(_decode(body, Item))


def check_item(item: Item) -> Item:
    """Checks what the type of an item does not say, and returns it."""
    if _nesting_depth(item.properties) > _MAX_DEPTH:
        raise RequestError(422, "Invalid item", f"`properties` is nested more than {_MAX_DEPTH} levels deep")
    return item


def decode_item_changes(body: bytes) -> dict[str, Any]:
    """Decodes the fields of an item that a request changes."""
    changes: ItemChanges = _decode(body, ItemChanges)
    values = msgspec.structs.asdict(changes)
    return {name: value for name, value in values.items() if value is not msgspec.UNSET}


def parse_id(text: str, entity: str) -> str:
    """Parses the id of an entity (`user`, `item`) in a URL path."""
    try:
        return msgspec.convert(text, Identifier)
    except msgspec.ValidationError as error:
        raise RequestError(422, "Invalid request", f"{entity} id: {error}") from error


def _complete_event(event: Event, path: str, max_time: datetime) -> None:
    """Validates an event and fills in its time."""
    if event.user_id is None and event.session_id is None:
        raise RequestError(422, "Invalid event", f"an event needs `user_id` or `session_id` - at `{path}`")
    if event.item_id is None and event.event_type != SEARCH:
        raise RequestError(422, "Invalid event", f"a {event.event_type} event needs `item_id` - at `{path}`")
    if event.query is None and event.event_type == SEARCH:
        raise RequestError(422, "Invalid event", f"a search event needs `query` - at `{path}`")
    if event.event_time is not None and event.event_time > max_time:
        raise RequestError(
            422, "Invalid event", f"`event_time` {event.event_time.isoformat()} is in the future - at `{path}`"
        )
    if event.event_time is not None and event.event_time.year < _MIN_YEAR:
        raise RequestError(422, "Invalid event", f"`event_time` is before {_MIN_YEAR} - at `{path}`")
    if _nesting_depth(event.properties) > _MAX_DEPTH:
        raise RequestError(
            422, "Invalid event", f"`properties` is nested more than {_MAX_DEPTH} levels deep - at `{path}`"
        )
    event.event_time = (event.event_time or datetime.now(UTC)).astimezone(UTC)


def _nesting_depth(value: object) -> int:
    """Returns the nesting depth of lists and objects; stops counting above `_MAX_DEPTH`."""
    depth, level = 0, [value]
    while level and depth <= _MAX_DEPTH:
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        depth += 1
    return depth


def _decode(body: bytes | msgspec.Raw, body_type: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=body_type)
    except msgspec.ValidationError as error:
        raise RequestError(422, "Invalid request", str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(400, "Malformed JSON", str(error)) from error
