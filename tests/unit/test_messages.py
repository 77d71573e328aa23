import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from recsys_tasks.serving.messages import RequestError, decode_event, decode_request, split_events
from recsys_tasks.wire.messages import Event


def _body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def _decode_events(body: bytes) -> list[Event]:
    return [decode_event(raw, path) for path, raw in split_events(body, 10).items()]


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b"{", 400, "truncated"),
        (_body(k=0), 422, "$.k"),
        (_body(k="many"), 422, "$.k"),
        (_body(k=10**30), 422, "$.k"),
        (_body(user_id=""), 422, "$.user_id"),
        (_body(user_id="a\x00b"), 422, "$.user_id"),
        (_body(user_id="x" * 300), 422, "$.user_id"),
        (_body(colour="red"), 422, "colour"),
        (_body(session=[{"event_type": "view"}]), 422, "$.session[0]"),
        (_body(time="2024-01-01T00:00:00"), 422, "$.time"),
        (_body(time="0001-01-01T00:00:00+14:00"), 422, "$.time"),
        (_body(time="9999-12-31T23:59:59-14:00"), 422, "$.time"),
        (_body(rules={"synonyms": [{"phrase": "couch", "means": "sofa"}] * 101}), 422, "$.rules.synonyms"),
        (_body(rules={"synonyms": [{"phrase": "couch", "means": "-"}]}), 422, "$.rules.synonyms[0].means"),
        (b"[" * 100_000, 422, "object"),
        (b'{"k": NaN}', 400, ""),
    ],
)
def test_an_invalid_request_is_rejected_and_the_field_named(body: bytes, status: int, named: str) -> None:
    with pytest.raises(RequestError) as rejected:
        decode_request(body)
    assert rejected.value.status == status
    assert named in rejected.value.detail


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"event_type": "like", "user_id": "u", "item_id": "i"}, "$[0].event_type"),
        ({"event_type": "view", "item_id": "i"}, "user_id"),
        (
            {
                "event_type": "view",
                "user_id": "u",
                "item_id": "i",
                "properties": {"a": json.loads("[" * 30 + "]" * 30)},
            },
            "properties",
        ),
        (
            {"event_type": "view", "user_id": "u", "item_id": "i", "event_time": "0001-01-01T00:00:00+14:00"},
            "event_time",
        ),
        ({"event_type": "view", "user_id": "u"}, "item_id"),
        ({"event_type": "search", "user_id": "u"}, "query"),
        ({"event_type": "purchase", "user_id": "u", "item_id": "i", "quantity": 0}, "$[0].quantity"),
        ({"event_type": "purchase", "user_id": "u", "item_id": "i", "price": -1}, "$[0].price"),
        (
            {
                "event_type": "view",
                "user_id": "u",
                "item_id": "i",
                "event_time": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
            },
            "event_time",
        ),
    ],
)
def test_an_invalid_event_is_rejected_and_the_field_named(fields: dict[str, object], named: str) -> None:
    with pytest.raises(RequestError) as rejected:
        _decode_events(json.dumps([fields]).encode())
    assert rejected.value.status == 422
    assert named in rejected.value.detail


def test_a_body_that_is_no_event_names_its_place() -> None:
    with pytest.raises(RequestError, match=re.escape("Expected `object`, got `int` - at `$[1]`")):
        _decode_events(b'[{"event_type": "view", "user_id": "u", "item_id": "i"}, 1]')


def test_an_event_without_id_and_time_gets_both() -> None:
    (event,) = _decode_events(_body(event_type="view", user_id="u", item_id="i"))
    assert event.event_id
    assert event.event_time is not None
    assert event.event_time.tzinfo is UTC


def test_too_many_events_are_rejected_as_a_whole() -> None:
    event = {"event_type": "view", "user_id": "u", "item_id": "i"}
    with pytest.raises(RequestError) as rejected:
        _decode_events(json.dumps([event] * 11).encode())
    assert rejected.value.status == 413
