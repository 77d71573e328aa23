"""What callers send and get, and the checks that need no model. Wrong input raises `RequestError`."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec

from recsys_tasks.engine.filters import Filter, check
from recsys_tasks.engine.items import Identifier, Item, Moment, Recommendation, Text
from recsys_tasks.errors import InputError
from recsys_tasks.names import SEARCH, SHOPPER

_CLOCK_SKEW = timedelta(minutes=5)
_EARLIEST_YEAR = 1970
_DEEPEST = 20
_LINES = msgspec.json.Encoder()

Count = Annotated[int, msgspec.Meta(ge=1, le=500)]
EventType = Literal["search", "impression", "view", "add_to_cart", "purchase"]
Traffic = Literal["shopper", "internal", "bot"]


class RequestError(Exception):
    """A request that cannot be answered; carries the status and what to say."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail = status, title, detail


class Event(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One event, in the columns of the warehouse."""

    event_type: EventType
    event_id: Identifier | None = None
    user_id: Identifier | None = None
    session_id: Identifier | None = None
    item_id: Identifier | None = None
    event_time: Moment | None = None
    query: Text | None = None
    quantity: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None = None
    price: Annotated[float, msgspec.Meta(ge=0, le=1e12)] | None = None
    request_id: Identifier | None = None
    position: Annotated[int, msgspec.Meta(ge=1, le=10_000)] | None = None
    properties: dict[str, Any] | None = None


class SessionEvent(msgspec.Struct, forbid_unknown_fields=True):
    """An event of the current session, told with a request for recommendations."""

    item_id: Identifier | None = None
    event_type: Literal["search", "view", "add_to_cart", "purchase"] = "view"
    event_time: Moment | None = None
    query: Text | None = None


class StagedChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is to become of a staged bundle: `mode` is `active`, or how it is tried."""

    bundle: Identifier
    mode: Literal["active", "held", "shadow", "canary"]
    share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    error_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01
    latency_ratio: Annotated[float, msgspec.Meta(gt=0)] = 2.0


class RecommendationRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request for recommendations; every field may be left out.

    Attributes:
        interests: what the user is said to like, in any words; for one of whom nothing else is known.
        context_items: what the list is to go with, as the items of a cart; they are not in it.
        filter: what all items fulfil, see `filters`.
        exclude: items that may not be in the list; exclude_seen, exclude_bought: what the user acted on, or bought.
        diversity: from 0, the best items, to 1, items as different as there are.
        traffic: who asks, if it is no shopper: what is shown to others is noted, but counts and teaches nothing.
    """

    user_id: Identifier | None = None
    session_id: Identifier | None = None
    session: Annotated[list[SessionEvent], msgspec.Meta(max_length=1_000)] = []
    interests: Annotated[list[Text], msgspec.Meta(max_length=20)] = []
    context_items: Annotated[list[Identifier], msgspec.Meta(max_length=100)] = []
    query: Text | None = None
    k: Count = 20
    filter: Filter | None = None
    exclude: Annotated[list[Identifier], msgspec.Meta(max_length=1_000)] = []
    exclude_seen: bool = False
    exclude_bought: bool = False
    diversity: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    at_most_per_category: Count | None = None
    time: Moment | None = None
    record: bool = True
    traffic: Traffic = SHOPPER


class SearchRequest(RecommendationRequest, forbid_unknown_fields=True, kw_only=True):
    """A search: as a request for recommendations, but with a query."""

    query: Text


class RecommendationBatch(msgspec.Struct, forbid_unknown_fields=True):
    """Several requests for recommendations at once."""

    requests: Annotated[list[RecommendationRequest], msgspec.Meta(min_length=1, max_length=100)]


class RecommendationAnswer(msgspec.Struct):
    """A list of items, best first; give its `request_id` with the events that follow from it.

    `complete` is false where other endpoints could not be asked what they were told of the user a moment ago.
    `purchase_intent` is the probability that the session goes on to buy something, as the model sees it; null where it
    knows nothing of the user.
    """

    request_id: str
    model_version: str
    purchase_intent: float | None
    complete: bool
    items: list[Recommendation]


class BatchAnswer(msgspec.Struct):
    """Answers in the order of the requests."""

    answers: list[RecommendationAnswer]


class SearchAnswer(RecommendationAnswer):
    """Items that match, or with `fallback` others, because none does."""

    fallback: bool


class SimilarAnswer(msgspec.Struct):
    """Items most like one."""

    model_version: str
    items: list[Recommendation]


class EventsAnswer(msgspec.Struct):
    """How many events are durable now, and their ids."""

    accepted: int
    event_ids: list[str]


class ItemAnswer(msgspec.Struct):
    """An item that may be in the very next list; `trained` if the model has seen what users did with it."""

    item_id: str
    trained: bool


class ModelAnswer(msgspec.Struct):
    """The version that serves, and where it comes from."""

    model_version: str
    run_id: str
    snapshot_id: str
    cutoff: str
    bundle: str


class Problem(msgspec.Struct):
    """What was wrong and where (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


def as_lines(events: Sequence[Event]) -> bytes:
    """Events as the journal keeps them."""
    return _LINES.encode_lines(events)


def decode_request(body: bytes) -> RecommendationRequest:
    """A request for recommendations from JSON."""
    request: RecommendationRequest = _decode(body or b"{}", RecommendationRequest)
    _check_request(request, "$")
    return request


def decode_search(body: bytes) -> SearchRequest:
    """A search from JSON."""
    request: SearchRequest = _decode(body, SearchRequest)
    _check_request(request, "$")
    return request


def decode_batch(body: bytes) -> list[RecommendationRequest]:
    """Requests for recommendations from JSON."""
    batch: RecommendationBatch = _decode(body, RecommendationBatch)
    for place, request in enumerate(batch.requests):
        _check_request(request, f"$.requests[{place}]")
    return batch.requests


def decode_count(text: str) -> int:
    """How many items to list, from the query of a URL."""
    try:
        return int(msgspec.convert(text, Count, strict=False))
    except msgspec.ValidationError as error:
        raise RequestError(422, "Invalid request", f"`k`: {error}") from error


def _check_request(request: RecommendationRequest, where: str) -> None:
    for place, event in enumerate(request.session):
        if event.event_type == SEARCH and event.query is None:
            raise RequestError(422, "Invalid request", f"a search needs `query` - at `{where}.session[{place}]`")
        if event.event_type != SEARCH and event.item_id is None:
            raise RequestError(
                422, "Invalid request", f"a {event.event_type} needs `item_id` - at `{where}.session[{place}]`"
            )
    moments = {f"{where}.time": request.time}
    moments |= {f"{where}.session[{place}].event_time": event.event_time for place, event in enumerate(request.session)}
    latest = datetime.now(UTC) + _CLOCK_SKEW
    for place_of, moment in moments.items():
        if moment is not None and not (moment.year >= _EARLIEST_YEAR and moment <= latest):
            problem = f"{moment.isoformat()} is in the future or before {_EARLIEST_YEAR}"
            raise RequestError(422, "Invalid request", f"{problem} - at `{place_of}`")
    if request.filter is not None:
        try:
            check(request.filter, f"{where}.filter")
        except InputError as error:
            raise RequestError(422, "Invalid request", str(error)) from error


def decode_staged_change(body: bytes) -> StagedChange:
    """What is asked to become of a staged bundle, from JSON."""
    change: StagedChange = _decode(body, StagedChange)
    return change


def decode_events(body: bytes, most: int) -> list[Event]:
    """One event or an array of events from JSON, each with an id and a time."""
    batch = body.lstrip()[:1] == b"["
    events: list[Event] = _decode(body, list[Event]) if batch else [_decode(body, Event)]
    if not events:
        raise RequestError(422, "No events", "the array of events is empty")
    if len(events) > most:
        raise RequestError(413, "Too many events", f"{len(events)} events; at most {most} in one request")
    latest = datetime.now(UTC) + _CLOCK_SKEW
    return [_completed(event, f"$[{place}]" if batch else "$", latest) for place, event in enumerate(events)]


def decode_item(body: bytes) -> Item:
    """What is known of an item, from JSON."""
    item: Item = _decode(body, Item)
    if _depth(item.properties) > _DEEPEST:
        raise RequestError(422, "Invalid item", f"`properties` are nested more than {_DEEPEST} deep")
    return item


def decode_id(text: str, whose: str) -> str:
    """An id from the path of a request."""
    try:
        return msgspec.convert(text, Identifier)
    except msgspec.ValidationError as error:
        raise RequestError(422, "Invalid request", f"the {whose}'s id: {error}") from error


def _completed(event: Event, where: str, latest: datetime) -> Event:
    if event.user_id is None and event.session_id is None:
        raise RequestError(422, "Invalid event", f"an event needs `user_id` or `session_id` - at `{where}`")
    if event.item_id is None and event.event_type != SEARCH:
        raise RequestError(422, "Invalid event", f"a {event.event_type} event needs `item_id` - at `{where}`")
    if event.query is None and event.event_type == SEARCH:
        raise RequestError(422, "Invalid event", f"a search event needs `query` - at `{where}`")
    if event.event_time is not None and event.event_time > latest:
        raise RequestError(
            422, "Invalid event", f"`event_time` {event.event_time.isoformat()} is in the future - at `{where}`"
        )
    event.event_id = event.event_id or uuid.uuid4().hex
    if event.event_time is not None and event.event_time.year < _EARLIEST_YEAR:
        raise RequestError(422, "Invalid event", f"`event_time` lies before {_EARLIEST_YEAR} - at `{where}`")
    if _depth(event.properties) > _DEEPEST:
        raise RequestError(422, "Invalid event", f"`properties` are nested more than {_DEEPEST} deep - at `{where}`")
    event.event_time = (event.event_time or datetime.now(UTC)).astimezone(UTC)
    return event


def _depth(value: object) -> int:
    """How deep lists and objects are nested, counted no further than it matters."""
    depth, level = 0, [value]
    while level and depth <= _DEEPEST:
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        depth += 1
    return depth


def _decode(body: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise RequestError(422, "Invalid request", str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(400, "Malformed JSON", str(error)) from error
