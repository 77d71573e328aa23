"""The HTTP routes of the endpoint, with the bundle of a small trained model."""

from __future__ import annotations

import gzip
import json
import logging
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import zstandard
from starlette.testclient import TestClient

from recsys_tasks.engine.bundle import MANIFEST, pack, read_bundle, write_manifest
from recsys_tasks.errors import InputError
from recsys_tasks.features.sequences import MAX_TOKENS
from recsys_tasks.model.export import verify_graphs
from recsys_tasks.model.files import load_model
from recsys_tasks.names import FIRST_ITEM
from recsys_tasks.serving.access import new_key
from recsys_tasks.serving.app import create_app
from recsys_tasks.serving.erasure import ErasedUsers
from recsys_tasks.serving.event_log import EventLog
from recsys_tasks.settings import Settings
from tests.integration.endpoints import install_bundle

TOKEN = {"Authorization": "Bearer secret"}


def _settings(home: Path) -> Settings:
    return Settings(home=home, admin_token="secret")  # noqa: S106


@pytest.fixture
def client(tmp_path: Path, bundles: list[Path]) -> Iterator[TestClient]:
    install_bundle(tmp_path, bundles[0])
    with TestClient(create_app(_settings(tmp_path))) as client:
        yield client


def _items(client: TestClient, **body: object) -> list[str]:
    answer = client.post("/v1/recommendations", json=body)
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def test_a_returning_user_gets_items_of_the_model_best_first(client: TestClient) -> None:
    answer = client.post("/v1/recommendations", json={"user_id": "u1", "k": 5}).json()
    scores = [item["score"] for item in answer["items"]]
    assert answer["model_version"] == "1"
    assert answer["request_id"]
    assert scores == sorted(scores, reverse=True)
    assert len(set(item["item_id"] for item in answer["items"])) == 5
    assert {item["source"] for item in answer["items"]} == {"model"}


def test_a_new_user_gets_popular_items_marked_as_such(client: TestClient) -> None:
    answer = client.post("/v1/recommendations", json={"user_id": "nobody", "k": 5}).json()
    assert {item["source"] for item in answer["items"]} == {"popular"}
    assert len(answer["items"]) == 5


def test_a_posted_event_affects_the_next_list(client: TestClient) -> None:
    before = client.post("/v1/recommendations", json={"user_id": "fresh"}).json()
    event = {"event_type": "purchase", "user_id": "fresh", "session_id": "s", "item_id": "i3"}
    assert client.post("/v1/events", json=event).status_code == 200
    after = client.post("/v1/recommendations", json={"user_id": "fresh"}).json()
    assert before["items"][0]["source"] == "popular"
    assert after["items"][0]["source"] == "model"
    assert "i3" not in [item["item_id"] for item in after["items"]]  # sessions of this shop do not repeat


@pytest.mark.parametrize("minutes", [0, 4])
def test_an_event_of_a_clock_that_is_ahead_counts_in_the_next_list(client: TestClient, minutes: float) -> None:
    at = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
    event = {"event_type": "purchase", "user_id": "ahead", "item_id": "i3", "event_time": at}
    assert client.post("/v1/events", json=event).status_code == 200
    answer = client.post("/v1/recommendations", json={"user_id": "ahead", "k": 5}).json()
    assert {item["source"] for item in answer["items"]} == {"model"}


def test_users_with_the_same_session_id_do_not_see_what_the_other_did(client: TestClient) -> None:
    def post(item_id: str, **user: str) -> None:
        event = {"event_type": "view", "session_id": "shared", "item_id": item_id, **user}
        assert client.post("/v1/events", json=event).status_code == 200

    def list_of(**user: str) -> list[str]:
        return _items(client, session_id="shared", k=5, record=False, time="2024-03-06T10:00:00Z", **user)

    post("i3")
    anonymous = list_of()
    assert list_of(user_id="first") == anonymous, "nobody has begun the session yet: it may be this user's"
    post("i4", user_id="first")
    first = list_of(user_id="first")
    assert list_of(user_id="second") == _items(client, k=5, record=False, time="2024-03-06T10:00:00Z")
    post("i20", user_id="second")
    assert list_of(user_id="first") == first
    assert list_of(user_id="second") != list_of(user_id="third"), "their own actions count"


def _buy(client: TestClient, item_id: str, num_users: int, name: str = "u", **fields: object) -> None:
    events = [
        {"event_type": "purchase", "user_id": f"{name}{n}", "item_id": item_id, **fields} for n in range(num_users)
    ]
    assert client.post("/v1/events", json=events).status_code == 200


@pytest.fixture
def trusted(tmp_path: Path, bundles: list[Path]) -> Iterator[TestClient]:
    """A caller with a key for events."""
    install_bundle(tmp_path, bundles[0])
    with TestClient(create_app(Settings(home=tmp_path, write_keys=("shop",)))) as client:
        client.headers["Authorization"] = "Bearer shop"
        yield client


def test_a_trending_item_is_recommended_to_others_at_once(trusted: TestClient) -> None:
    rare = _items(trusted, user_id="nobody", k=500)[-1]
    _buy(trusted, rare, num_users=50, name="new ")
    first = trusted.post("/v1/recommendations", json={"user_id": "nobody", "k": 5}).json()["items"][0]
    assert (first["item_id"], first["reason"]) == (rare, "many want it now")


def test_trending_items_never_displace_the_best_of_a_known_user(trusted: TestClient) -> None:
    at = {"time": "2024-03-01T00:00:00Z"}  # the user's own scores depend on the time
    before = {k: _items(trusted, user_id="u1", k=k, **at) for k in (5, 10, 20)}
    everything = _items(trusted, user_id="nobody", k=500)
    rare = [item for item in reversed(everything) if item not in before[20]][:4]
    for item_id in rare:
        _buy(trusted, item_id, num_users=50, name="new ")
    best = before[20][:4]
    hidden = _items(trusted, user_id="u1", k=5, exclude=best, **at)
    assert hidden[:4] == [item for item in before[20] if item not in best][:4], "also where the best are excluded"
    for k, own in before.items():
        shown = _items(trusted, user_id="u1", k=k, **at)
        assert shown[:4] == own[:4]
        trending = [item for item in shown if item in rare]
        assert len(trending) == k // 5
        assert [item for item in shown if item not in rare] == own[: k - len(trending)]


@pytest.mark.parametrize("crowd", [1, 10, 100, 1_000])
@pytest.mark.parametrize("name", ["made up ", "u"])
def test_callers_without_a_key_make_no_item_trend(client: TestClient, crowd: int, name: str) -> None:
    """Neither by made-up visitors, nor in the name of known users."""
    rare = _items(client, user_id="nobody", k=500)[-1]
    for number in range(300):
        event = {"event_type": "view", "user_id": f"u{number % 60}", "item_id": f"i{number % 40}"}
        assert client.post("/v1/events", json=event).status_code == 200
    before = _items(client, user_id="nobody", k=500)
    _buy(client, rare, num_users=crowd, name=name)
    assert _items(client, user_id="nobody", k=500) == before


def test_known_users_make_items_trend_from_their_own_addresses(tmp_path: Path, bundles: list[Path]) -> None:
    install_bundle(tmp_path, bundles[0])
    with TestClient(create_app(Settings(home=tmp_path))) as client:
        rare = _items(client, user_id="nobody", k=500)[-1]
        for number in range(40):
            page = TestClient(client.app, client=(f"10.0.0.{number}", 1))
            page.post("/v1/events", json={"event_type": "purchase", "user_id": f"u{number}", "item_id": rare})
        assert _items(client, user_id="nobody", k=1) == [rare]


def test_events_that_a_list_led_to_do_not_make_an_item_trend(client: TestClient) -> None:
    before = _items(client, user_id="nobody", k=500)
    request_id = client.post("/v1/recommendations", json={"user_id": "somebody"}).json()["request_id"]
    _buy(client, before[-1], num_users=50, request_id=request_id)
    assert _items(client, user_id="nobody", k=500) == before


def test_trending_items_can_be_turned_off(tmp_path: Path, bundles: list[Path]) -> None:
    install_bundle(tmp_path, bundles[0])
    with TestClient(create_app(Settings(home=tmp_path, trending_half_life_hours=0))) as client:
        before = _items(client, user_id="nobody", k=500)
        _buy(client, before[-1], num_users=50)
        assert _items(client, user_id="nobody", k=500) == before


def test_an_unclicked_impression_lowers_an_item_until_acted_on(tmp_path: Path, bundles: list[Path]) -> None:
    folder = tmp_path / "discounting"
    shutil.copytree(bundles[0], folder)
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    lineage = {name: value for name, value in manifest.items() if name not in ("files", "format")}
    write_manifest(folder, lineage | {"examination": [1.0, 0.5, 0.25], "fatigue": [1.0, 0.01]})
    install_bundle(tmp_path / "home", folder)
    with TestClient(create_app(_settings(tmp_path / "home"))) as client:
        others = _items(client, user_id="u2", k=3, record=False)
        first = client.post("/v1/recommendations", json={"user_id": "u1", "k": 3}).json()
        best = first["items"][0]["item_id"]
        assert best not in _items(client, user_id="u1", k=15, record=False)
        assert _items(client, user_id="u2", k=3, record=False) == others
        event = {"event_type": "view", "user_id": "u1", "item_id": best, "request_id": first["request_id"]}
        assert client.post("/v1/events", json=event).status_code == 200
        assert best in _items(client, user_id="u1", k=15, record=False)


def test_impressions_of_recorded_lists_are_counted_once(client: TestClient, tmp_path: Path) -> None:
    for is_recorded in (True, False):
        shown = client.post("/v1/recommendations", json={"user_id": "u1", "k": 3, "record": is_recorded}).json()
        impressions = [
            {"event_type": "impression", "user_id": "u1", "item_id": item["item_id"], "request_id": shown["request_id"]}
            for item in shown["items"]
        ]
        answer = client.post("/v1/events", json=impressions).json()
        assert (answer["accepted"], answer["ignored"]) == ((0, 3) if is_recorded else (3, 0))
        assert len(answer["event_ids"]) == 3
    logged = [json.loads(line) for line in EventLog(tmp_path / "endpoint" / "journal").read_lines()]
    assert len({(event["request_id"], event["item_id"]) for event in logged}) == len(logged) == 6


def test_a_request_sent_again_with_its_idempotency_key_counts_once(client: TestClient, tmp_path: Path) -> None:
    event = {"event_type": "view", "user_id": "u", "item_id": "i3"}
    requests: list[tuple[str, Any, str]] = [
        ("/v1/events", [event, event], "event_ids"),
        ("/v1/recommendations", {"user_id": "u1"}, "request_id"),
        ("/v1/search", {"query": "blue"}, "request_id"),
    ]
    for path, body, ids in requests:
        first, again, other = (
            client.post(path, json=body, headers={"Idempotency-Key": key}).json()[ids] for key in ("a", "a", "b")
        )
        assert first == again != other
    logged = [json.loads(line) for line in EventLog(tmp_path / "endpoint" / "journal").read_lines()]
    shown = [event["event_id"] for event in logged if event["event_type"] == "impression"]
    assert len(shown) == len(set(shown)), "a list that was sent again is logged once"
    others = [client.post(path, json=body, headers={"Idempotency-Key": "a"}).json() for path, body, _ in requests[1:]]
    assert others[0]["request_id"] != others[1]["request_id"]
    assert client.post("/v1/events", json=event, headers={"Idempotency-Key": "x" * 201}).status_code == 422


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_bodies_and_answers_may_be_compressed(client: TestClient, encoding: str) -> None:
    compress = gzip.compress if encoding == "gzip" else zstandard.compress
    headers = {"Content-Encoding": encoding}
    body = {"user_id": "u1", "k": 3, "time": "2024-06-01T00:00:00Z", "record": False}
    answer = client.post("/v1/recommendations", content=compress(json.dumps(body).encode()), headers=headers)
    assert [item["item_id"] for item in answer.json()["items"]] == _items(client, **body)
    broken = [(compress(b"{}")[:-3], 400), (b"{}", 400), (compress(b"{}") + compress(b"{}"), 400)]
    for content, status in [(compress(b" " * (2 << 20)), 413), *broken]:
        assert client.post("/v1/recommendations", content=content, headers=headers).status_code == status, content[:9]
    with client.stream("GET", "/openapi.json", headers={"Accept-Encoding": encoding}) as document:
        assert document.headers["Content-Encoding"] == encoding
        raw = b"".join(document.iter_raw())
    decompressed = (
        gzip.decompress(raw) if encoding == "gzip" else zstandard.ZstdDecompressor().decompressobj().decompress(raw)
    )
    assert json.loads(decompressed)["openapi"]
    refused = client.post("/v1/recommendations", content=b"{}", headers={"Content-Encoding": "br"})
    assert refused.status_code == 415


def test_what_can_be_cached_is_checked_by_its_tag_and_lists_are_not_stored(client: TestClient) -> None:
    for path in ("/v1/items/i3", "/v1/items/i3/similar", "/v1/model", "/v1/suggest?q=it"):
        first = client.get(path)
        assert first.headers["Cache-Control"] == "private, no-cache"
        again = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    item = client.get("/v1/items/i3").headers["ETag"]
    assert client.patch("/v1/items/i3", json={"price": 77.0}, headers=TOKEN).status_code == 200
    assert client.get("/v1/items/i3", headers={"If-None-Match": item}).status_code == 200
    assert client.post("/v1/recommendations").headers["Cache-Control"] == "no-store"


def test_anonymous_actions_become_those_of_the_first_user_of_their_session(client: TestClient) -> None:
    def later(user_id: str) -> list[str]:
        return _items(client, user_id=user_id, session_id="later", exclude_seen=True, k=500)

    def post(**fields: str) -> None:
        assert client.post("/v1/events", json={"session_id": "before login", **fields}).status_code == 200

    viewed = later("new")[0]
    post(event_type="view", item_id=viewed)
    assert viewed in later("new"), "nobody knows yet whose view it was"
    post(event_type="search", query="blue", user_id="new")
    post(event_type="search", query="blue", user_id="another")
    assert viewed not in later("new")
    assert viewed in later("another")


def test_a_search_event_affects_the_next_list(client: TestClient) -> None:
    before = _items(client, session=[{"item_id": "i3"}])
    session = [{"item_id": "i3"}, {"event_type": "search", "query": "blue item"}]
    assert _items(client, session=session) != before
    at = datetime.now(UTC).isoformat()
    for event in ({"item_id": "i3", "event_type": "view"}, {"event_type": "search", "query": "blue item"}):
        assert client.post("/v1/events", json={**event, "session_id": "s", "event_time": at}).status_code == 200
    assert _items(client, session_id="s") != before


def test_a_request_with_only_a_query_uses_the_model_if_the_query_has_words_of_titles(client: TestClient) -> None:
    for query, source in (("something blue", "model"), ("teapot", "popular")):
        answer = client.post("/v1/recommendations", json={"query": query}).json()
        assert {item["source"] for item in answer["items"]} == {source}


@pytest.mark.parametrize(
    ("event", "problem"), [({"event_type": "search"}, "needs `query`"), ({"event_type": "view"}, "needs `item_id`")]
)
def test_a_session_event_without_a_required_field_is_rejected(
    client: TestClient, event: dict[str, str], problem: str
) -> None:
    answer = client.post("/v1/recommendations", json={"session": [{"item_id": "i3"}, event]})
    assert answer.status_code == 422
    assert problem in answer.json()["detail"]
    assert "$.session[1]" in answer.json()["detail"]


def test_a_session_sent_with_the_request_equals_a_posted_one(client: TestClient) -> None:
    at = datetime.now(UTC).isoformat()
    session = [{"item_id": "i3", "event_type": "purchase", "event_time": at}]
    client.post(
        "/v1/events",
        json={"event_type": "purchase", "session_id": "posted", "item_id": "i3", "event_time": at},
    )
    assert _items(client, session=session, time=at) == _items(client, session_id="posted", time=at)


def test_a_session_longer_than_the_limit_keeps_its_latest_events(client: TestClient) -> None:
    began = datetime(2024, 3, 1, tzinfo=UTC)

    def items_after(first: str, last: str) -> list[str]:
        items = [first] * 60 + ["i5"] * (MAX_TOKENS - 2) + [last]
        times = [(began + timedelta(seconds=row)).isoformat() for row in range(len(items))]
        session = [
            {"item_id": item, "event_type": "view", "event_time": at} for item, at in zip(items, times, strict=True)
        ]
        return _items(client, session=session, time=times[-1], k=20)

    assert items_after("i3", "i8") == items_after("i9", "i8") != items_after("i3", "i11")


def test_seen_items_can_be_excluded(client: TestClient, bundles: list[Path]) -> None:
    seen = _items_of_history(bundles[0], "u1")
    assert set(_items(client, user_id="u1", k=20)) & seen
    assert not set(_items(client, user_id="u1", k=20, exclude_seen=True)) & seen


def _items_of_history(folder: Path, user_id: str) -> set[str]:
    """Returns the items in a user's history in a bundle."""
    bundle = read_bundle(folder)
    items, *_ = bundle.histories.of(user_id)
    return {bundle.vocabulary.item_id(number) for number in items.tolist() if number >= FIRST_ITEM}


def test_events_and_the_model_survive_a_restart(client: TestClient, tmp_path: Path) -> None:
    event = {"event_type": "purchase", "user_id": "fresh", "session_id": "s", "item_id": "i3"}
    client.post("/v1/events", json=event)
    before = _items(client, user_id="fresh", session_id="s", time="2024-03-01T00:00:00Z")
    with TestClient(create_app(_settings(tmp_path))) as again:
        assert _items(again, user_id="fresh", session_id="s", time="2024-03-01T00:00:00Z") == before
        assert again.get("/v1/model").json()["model_version"] == "1"


def test_the_event_log_has_impressions_and_events_and_requires_the_token(client: TestClient) -> None:
    assert client.get("/v1/admin/journal").status_code == 401
    answer = client.post("/v1/recommendations", json={"user_id": "u1", "k": 3}).json()
    client.post(
        "/v1/events",
        json=[{"event_type": "view", "user_id": "u1", "item_id": "i1", "event_id": "mine"}],
    )
    client.post("/v1/recommendations", json={"user_id": "u1", "k": 3, "record": False})
    journal = client.get("/v1/admin/journal", headers=TOKEN).json()
    name = journal["segments"][-1]["name"]
    lines = client.get(f"/v1/admin/journal/{name}", headers=TOKEN).content.splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["event_type"] for event in events] == ["impression"] * 3 + ["view"]
    assert [event["position"] for event in events[:3]] == [1, 2, 3]
    assert {event["request_id"] for event in events[:3]} == {answer["request_id"]}
    assert events[3]["event_id"] == "mine"


def test_a_cached_history_gives_the_same_list_as_a_fresh_one(
    client: TestClient, tmp_path: Path, bundles: list[Path]
) -> None:
    for number, day in enumerate(("2024-03-01", "2024-03-05")):
        event = {"event_type": "purchase", "user_id": "u1", "session_id": f"s{number}", "item_id": "i3"}
        client.post("/v1/events", json=event | {"event_time": f"{day}T10:00:00Z"})
    requests = [
        {"user_id": "u1", "session_id": f"s{number}", "time": "2024-03-06T10:00:00Z", "k": 10, "record": False}
        for number in (0, 1, 0)
    ]
    cached = [client.post("/v1/recommendations", json=request).json()["items"] for request in requests]
    for request, items in zip(requests, cached, strict=True):
        with TestClient(create_app(_settings(tmp_path))) as fresh:
            assert fresh.post("/v1/recommendations", json=request).json()["items"] == items


def test_a_user_with_only_unknown_items_gets_popular_ones(client: TestClient) -> None:
    client.post("/v1/events", json={"event_type": "view", "user_id": "odd", "item_id": "never-heard-of"})
    answer = client.post("/v1/recommendations", json={"user_id": "odd"}).json()
    assert {item["source"] for item in answer["items"]} == {"popular"}


def test_events_after_the_time_of_the_request_are_ignored(client: TestClient) -> None:
    answer = client.post("/v1/recommendations", json={"user_id": "u1", "time": "1990-01-01T00:00:00Z"}).json()
    assert {item["source"] for item in answer["items"]} == {"popular"}


def test_a_corrupt_active_bundle_is_replaced_by_the_previous_one(
    client: TestClient, bundles: list[Path], tmp_path: Path
) -> None:
    digest = client.put("/v1/admin/model", content=pack(bundles[1]), headers=TOKEN).json()["bundle"]
    (tmp_path / "endpoint" / "bundles" / digest / "decoder.onnx").write_bytes(b"")
    with TestClient(create_app(_settings(tmp_path))) as again:
        assert again.get("/v1/model").json()["model_version"] == "1"


def test_a_deployment_can_be_rolled_back(client: TestClient, bundles: list[Path]) -> None:
    first = _items(client, user_id="u1")
    client.put("/v1/admin/model", content=pack(bundles[1]), headers=TOKEN)
    assert client.get("/v1/model").json()["model_version"] == "2"
    assert client.delete("/v1/admin/model", headers=TOKEN).json()["model_version"] == "1"
    assert _items(client, user_id="u1") == first
    assert client.delete("/v1/admin/model", headers=TOKEN).status_code == 409


def _flip(bundle: Path, copy: Path, name: str) -> bytes:
    for file in bundle.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    return pack(copy)


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx", "vocabulary.json", "golden.json", "histories.npz"])
def test_a_bundle_with_a_flipped_bit_is_rejected_and_the_active_one_stays(
    client: TestClient, bundles: list[Path], tmp_path: Path, name: str
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    answer = client.put("/v1/admin/model", content=_flip(bundles[1], broken, name), headers=TOKEN)
    assert answer.status_code == 422
    assert name in answer.json()["detail"]
    assert client.get("/v1/model").json()["model_version"] == "1"


def test_a_bundle_with_a_wrong_golden_answer_is_rejected(
    client: TestClient, bundles: list[Path], tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for file in bundles[1].iterdir():
        (wrong / file.name).write_bytes(file.read_bytes())
    golden = json.loads((wrong / "golden.json").read_text(encoding="utf-8"))
    golden[1]["answer"][0]["score"] += 0.1
    (wrong / "golden.json").write_text(json.dumps(golden), encoding="utf-8")
    manifest = json.loads((wrong / MANIFEST).read_text(encoding="utf-8"))
    lineage = {name: value for name, value in manifest.items() if name not in ("files", "format")}
    write_manifest(wrong, lineage)
    answer = client.put("/v1/admin/model", content=pack(wrong), headers=TOKEN)
    assert (answer.status_code, client.get("/v1/model").json()["model_version"]) == (422, "1")
    assert "Golden request 1" in answer.json()["detail"]


@pytest.mark.parametrize(("headers", "status"), [({}, 401), ({"Authorization": "Bearer wrong"}, 401)])
def test_the_admin_routes_require_the_token(client: TestClient, headers: dict[str, str], status: int) -> None:
    answer = client.put("/v1/admin/model", content=b"x", headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_invalid_requests_get_a_problem_document_naming_the_field(client: TestClient) -> None:
    answer = client.post("/v1/recommendations", json={"k": -1})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = msgspec.json.decode(answer.content)
    assert problem["status"] == 422
    assert "$.k" in problem["detail"]
    assert client.get("/nothing").status_code == 404
    answer = client.get("/v1/events")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert client.patch("/v1/admin/model").headers["allow"] == "DELETE, GET, HEAD, PUT"
    assert client.post("/v1/events", content=b"x" * (2 << 20)).status_code == 413


def test_an_endpoint_without_a_model_is_not_ready_but_stores_events(tmp_path: Path) -> None:
    with TestClient(create_app(_settings(tmp_path))) as empty:
        assert empty.post("/v1/recommendations", json={}).status_code == 503
        assert empty.get("/readyz").status_code == 503
        assert empty.get("/healthz").status_code == 200
        event = {"event_type": "view", "user_id": "u", "item_id": "i"}
        assert empty.post("/v1/events", json=event).status_code == 200  # events are stored without a model


def test_metrics_count_requests_and_show_the_version(client: TestClient) -> None:
    client.post("/v1/recommendations", json={})
    text = client.get("/metrics").text
    assert 'recsys_request_seconds_count{route="/v1/recommendations",status="200"} 1.0' in text
    assert "recsys_model_version 1.0" in text


def test_a_loaded_model_gives_the_scores_it_was_saved_with(bundles: list[Path]) -> None:
    again = load_model(bundles[0])
    assert verify_graphs(again.network, bundles[0]) < 1e-4
    assert read_bundle(bundles[0]).model_version == "1"


# Erasure of users

SESSION = {"session_id": "s", "item_id": "i3", "event_type": "view"}


def _erase(client: TestClient, user_id: str) -> int:
    answer = client.delete(f"/v1/admin/users/{quote(user_id, safe='')}", headers=TOKEN)
    assert (answer.status_code, answer.json()["forgotten"]) == (200, True)
    num_lines: int = answer.json()["journal_lines"]
    return num_lines


def _lists(client: TestClient, *user_ids: str) -> list[list[object]]:
    """Returns the lists of users at one time: without session, without seen items, and in two sessions."""
    at = datetime.now(UTC).isoformat()  # scores depend on it
    variants: list[dict[str, object]] = [
        {},
        {"exclude_seen": True, "k": 500},
        {"session_id": "s"},
        {"session": [{"item_id": "i1"}]},
    ]
    shared = {"k": 5, "record": False, "time": at}
    return [
        [
            client.post("/v1/recommendations", json={"user_id": user_id, **shared, **variant}).json()["items"]
            for variant in variants
        ]
        for user_id in user_ids
    ]


def _journal_bytes(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in (home / "endpoint" / "journal").iterdir())


def test_an_erased_user_gets_the_lists_of_an_unknown_one_also_after_a_restart(
    client: TestClient, tmp_path: Path
) -> None:
    client.post("/v1/events", json=[SESSION, SESSION | {"user_id": "u1"}, SESSION | {"user_id": "u2"}])
    client.post("/v1/recommendations", json={"user_id": "u1", "session_id": "t", "k": 2})  # impressions
    client.post("/v1/events", json={"event_type": "view", "session_id": "t", "item_id": "i4"})
    size = len(_journal_bytes(tmp_path))
    own, other = _lists(client, "u1", "nobody")
    assert own != other
    assert _erase(client, "u1") == 5
    content = _journal_bytes(tmp_path)
    assert (len(content), content.count(b"u1"), content.count(b"u2")) == (size, 0, 1)
    own, other = _lists(client, "u1", "nobody")
    assert own == other
    assert _items(client, session_id="t", k=3) == _items(client, k=3)
    with TestClient(create_app(_settings(tmp_path))) as again:
        assert again.get("/readyz").status_code == 200  # golden requests of the user still pass
        own, other = _lists(again, "u1", "nobody")
        assert own == other
        assert _erase(again, "u1") == 0


def test_the_erasure_of_a_user_keeps_the_events_of_others(client: TestClient) -> None:
    client.post("/v1/events", json=[SESSION | {"user_id": "u1"}, SESSION | {"user_id": "u2", "item_id": "i5"}])
    before = _items(client, user_id="u2", k=5, record=False)
    _erase(client, "u1")
    after = client.post("/v1/recommendations", json={"user_id": "u2", "k": 5, "record": False}).json()["items"]
    assert {item["source"] for item in after} == {"model"}
    assert [item["item_id"] for item in after] == before


def test_an_erased_user_who_returns_is_a_new_user(client: TestClient, tmp_path: Path) -> None:
    client.post("/v1/events", json=SESSION | {"user_id": "u1"})
    assert _erase(client, "u1") == 1
    at = "2024-03-01T10:00:00Z"
    for user in ("u1", "new"):
        event = {"event_type": "view", "user_id": user, "session_id": f"of-{user}", "item_id": "i7"}
        client.post("/v1/events", json=event | {"event_time": at})
    own, new, other = _lists(client, "u1", "new", "nobody")
    assert own == new != other
    with TestClient(create_app(_settings(tmp_path))) as again:
        own, new, other = _lists(again, "u1", "new", "nobody")
        assert own == new != other
        assert _erase(again, "u1") == 1


def test_an_erasure_interrupted_by_a_crash_is_finished_at_the_next_start(client: TestClient, tmp_path: Path) -> None:
    client.post("/v1/events", json=[SESSION, SESSION | {"user_id": "u1"}])
    home = tmp_path / "endpoint"
    ErasedUsers(home / "forgotten.jsonl").add("u1", EventLog(home / "journal").segments()[-1])
    assert b"u1" in _journal_bytes(tmp_path)
    with TestClient(create_app(_settings(tmp_path))) as again:
        assert b"u1" not in _journal_bytes(tmp_path)
        own, other = _lists(again, "u1", "nobody")
        assert own == other
        assert _erase(again, "u1") == 0


def test_byte_offsets_of_the_event_log_stay_valid_after_an_erasure(client: TestClient) -> None:
    client.post("/v1/events", json=[SESSION | {"user_id": "u1"}, SESSION | {"user_id": "u2"}])
    segment = client.get("/v1/admin/journal", headers=TOKEN).json()["segments"][-1]
    _erase(client, "u1")
    client.post("/v1/events", json=SESSION | {"user_id": "u3"})
    url = f"/v1/admin/journal/{segment['name']}"
    all_lines = client.get(url, headers=TOKEN).content.splitlines()
    rest = client.get(url, params={"offset": segment["bytes"]}, headers=TOKEN).content
    assert [line and json.loads(line)["user_id"] for line in map(bytes.strip, all_lines)] == [b"", "u2", "u3"]
    assert json.loads(rest)["user_id"] == "u3"


def test_a_bundle_with_a_later_cutoff_is_used_for_an_erased_user(
    client: TestClient, bundles: list[Path], tmp_path: Path
) -> None:
    _erase(client, "u1")
    later = tmp_path / "later"
    shutil.copytree(bundles[0], later)
    manifest = json.loads((later / MANIFEST).read_text(encoding="utf-8"))
    lineage = {name: value for name, value in manifest.items() if name not in ("files", "format")}
    write_manifest(later, lineage | {"cutoff": (datetime.now(UTC) + timedelta(seconds=1)).isoformat()})
    assert client.put("/v1/admin/model", content=pack(later), headers=TOKEN).status_code == 200
    own, other = _lists(client, "u1", "nobody")
    assert own != other


@pytest.mark.parametrize("user_id", ["a/b", "../etc", "ü?#", "two words"])
def test_a_user_with_any_id_can_be_erased(client: TestClient, user_id: str) -> None:
    client.post("/v1/events", json=SESSION | {"user_id": user_id})
    assert _erase(client, user_id) == 1
    assert _erase(client, user_id) == 0


def test_erasure_requires_the_token_and_an_id(client: TestClient, tmp_path: Path) -> None:
    assert client.delete("/v1/admin/users/u1").status_code == 401
    assert client.delete("/v1/admin/users/", headers=TOKEN).status_code == 422
    assert not (tmp_path / "endpoint" / "forgotten.jsonl").exists()
    own, other = _lists(client, "u1", "nobody")
    assert own != other


def test_no_file_and_no_log_line_names_an_erased_user(
    client: TestClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="recsys_tasks"):
        client.post("/v1/events", json=SESSION | {"user_id": "somebody-special"})
        _erase(client, "somebody-special")
        with TestClient(create_app(_settings(tmp_path))):
            pass
    contents = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"somebody-special" in content for content in contents)
    assert "somebody-special" not in "".join(
        record.getMessage() for record in caplog.records if "recsys" in record.name
    )


def test_all_items_match_the_filter_and_all_matching_items_are_listed(client: TestClient) -> None:
    condition = {"all": [{"field": "price", "at_most": 9}, {"not": {"field": "category", "under": ["D0"]}}]}
    for user in ("u1", "nobody"):
        assert set(_items(client, user_id=user, filter=condition, k=50)) == {"i1", "i3", "i5", "i9"}  # i7 is sold out


def test_a_filter_on_an_unknown_field_is_rejected_with_its_path(client: TestClient) -> None:
    bad = {"any": [{"field": "price", "at_least": 1}, {"field": "colour", "one_of": ["red"]}]}
    answer = client.post("/v1/recommendations", json={"filter": bad})
    assert answer.status_code == 422
    assert "no field 'colour'" in answer.json()["detail"]
    assert "`$.filter.any[1]`" in answer.json()["detail"]


def test_context_items_change_the_list_and_are_not_in_it(client: TestClient) -> None:
    alone = _items(client, user_id="u1")
    together = _items(client, user_id="u1", context_items=["i3", "i4"])
    assert not {"i3", "i4"} & set(together)
    assert together != [item for item in alone if item not in ("i3", "i4")][: len(together)]


def test_bought_items_can_be_excluded_without_viewed_ones(client: TestClient) -> None:
    for item, kind in (("i3", "purchase"), ("i4", "view")):
        event = {"event_type": kind, "user_id": "fresh", "session_id": f"of {item}", "item_id": item}
        client.post("/v1/events", json={**event, "event_time": "2024-06-01T00:00:00Z"}).raise_for_status()
    items = _items(client, user_id="fresh", exclude_bought=True, exclude=["i5"], k=50)
    assert "i4" in items
    assert not {"i3", "i5"} & set(items)


def test_items_are_explained_by_what_the_data_show(client: TestClient) -> None:
    answer = client.post("/v1/recommendations", json={"session": [{"item_id": "i3"}], "k": 60}).json()
    because_of = {item["because_of"]: item["reason"] for item in answer["items"]}
    assert because_of["i3"] == "because you viewed Item 3, yellow"
    others = {item["reason"] for item in answer["items"] if item["because_of"] is None}
    assert all(not reason or reason.startswith("popular in C") for reason in others)
    answer = client.post("/v1/recommendations", json={"k": 3}).json()
    assert {item["reason"] for item in answer["items"]} == {"popular"}


def test_a_batch_returns_the_lists_of_its_requests(client: TestClient) -> None:
    at = "2024-06-01T00:00:00Z"
    requests = [{"user_id": f"u{number}", "k": 4, "time": at, "record": False} for number in range(5)]
    answers = client.post("/v1/recommendations/batch", json={"requests": requests}).json()["answers"]
    assert [[item["item_id"] for item in answer["items"]] for answer in answers] == [
        _items(client, **request) for request in requests
    ]
    answer = client.post("/v1/recommendations/batch", json={"requests": [{}, {"filter": {}}]})
    assert answer.status_code == 422
    assert "`$.requests[1].filter`" in answer.json()["detail"]


def test_similar_items_have_the_nearest_vectors(client: TestClient, bundles: list[Path]) -> None:
    bundle = read_bundle(bundles[0])
    similarity = bundle.items.dot(bundle.items[bundle.vocabulary.numbers(["i3"])][0])
    answer = client.get("/v1/items/i3/similar", params={"k": 4}).json()
    item_ids = [item["item_id"] for item in answer["items"]]
    nearest = [bundle.vocabulary.item_id(int(n)) for n in similarity.argsort()[::-1] if n > 1]
    assert item_ids == [item for item in nearest if item not in ("i3", "i7")][:4]
    assert client.get("/v1/items/unheard%20of/similar").status_code == 404
    for k in ("0", "501", "many"):
        assert client.get("/v1/items/i3/similar", params={"k": k}).status_code == 422


def test_merchandising_rules_apply_and_invalid_ones_prevent_the_start(tmp_path: Path, bundles: list[Path]) -> None:
    install_bundle(tmp_path, bundles[0])
    rules = tmp_path / "rules.toml"
    rules.write_text("[[pin]]\nitem_id = 'i30'\nposition = 1\n", encoding="utf-8")
    settings = Settings(home=tmp_path, merchandising_rules=rules)
    with TestClient(create_app(settings)) as client:
        first = client.post("/v1/recommendations", json={"user_id": "u1"}).json()["items"][0]
    assert (first["item_id"], first["source"], first["reason"]) == ("i30", "pinned", "chosen by the shop")
    rules.write_text("pin = 'i30'", encoding="utf-8")
    with pytest.raises(InputError, match=r"rules\.toml"):
        create_app(settings)


def _search(client: TestClient, **body: object) -> dict[str, Any]:
    answer = client.post("/v1/search", json=body)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def test_a_search_returns_only_items_that_match_the_query(client: TestClient) -> None:
    answer = _search(client, query="blue", k=50)
    assert not answer["fallback"]
    assert {item["title"].split(", ")[1] for item in answer["items"]} == {"blue"}
    assert {(item["source"], item["reason"]) for item in answer["items"]} == {("search", "matches the search")}
    cheap = _search(client, query="blue", filter={"field": "price", "at_most": 10})["items"]
    assert {item["item_id"] for item in cheap} == {"i2", "i6", "i10"}


def test_equal_matches_are_ordered_by_user(client: TestClient) -> None:
    at = "2024-06-01T00:00:00Z"
    orders = {
        tuple(
            item["item_id"] for item in _search(client, query="blue", user_id=f"u{n}", time=at, record=False)["items"]
        )
        for n in range(6)
    }
    assert len(orders) > 1
    assert len({frozenset(order) for order in orders}) == 1


def test_a_search_without_matches_returns_recommendations_marked_as_fallback(client: TestClient) -> None:
    answer = _search(client, query="teapot", k=5)
    assert answer["fallback"]
    assert len(answer["items"]) == 5
    assert {item["source"] for item in answer["items"]} == {"popular"}


def test_a_recorded_search_affects_the_next_list_also_after_a_restart(tmp_path: Path, client: TestClient) -> None:
    before = _items(client, user_id="fresh", session_id="s")
    _search(client, query="blue", user_id="fresh", session_id="s", record=False)
    assert _items(client, user_id="fresh", session_id="s") == before
    _search(client, query="blue", user_id="fresh", session_id="s")
    after = _items(client, user_id="fresh", session_id="s")
    assert after != before
    with TestClient(create_app(_settings(tmp_path))) as again:
        assert _items(again, user_id="fresh", session_id="s") == after


def test_a_search_requires_a_query(client: TestClient) -> None:
    for body in ({}, {"query": ""}, {"query": None}):
        assert client.post("/v1/search", json=body).status_code == 422


@pytest.mark.parametrize(
    ("key", "lists", "events", "admin"),
    [
        (None, 401, 401, 401),
        ("wrong", 401, 401, 401),
        ("reader", 200, 401, 401),
        ("another reader", 200, 401, 401),
        ("writer", 401, 200, 401),
        ("secret", 200, 200, 200),
        (" secret ", 200, 200, 200),
        ("ключ", 401, 401, 401),
    ],
)
def test_a_key_grants_its_scope_only(
    tmp_path: Path, bundles: list[Path], key: str | None, lists: int, events: int, admin: int
) -> None:
    install_bundle(tmp_path, bundles[0])
    settings = Settings(
        home=tmp_path,
        admin_token="secret",  # noqa: S106
        read_keys=("reader", "another reader"),
        write_keys=("writer",),
    )
    headers = {} if key is None else {b"Authorization": f"Bearer {key}".encode()}
    with TestClient(create_app(settings)) as client:
        assert client.post("/v1/recommendations", headers=headers).status_code == lists
        assert client.post("/v1/search", json={"query": "blue"}, headers=headers).status_code == lists
        event = {"event_type": "view", "user_id": "u", "item_id": "i3"}
        assert client.post("/v1/events", json=event, headers=headers).status_code == events
        assert client.get("/v1/admin/model", headers=headers).status_code == admin
        for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
            assert client.get(path).status_code == 200


def test_the_name_of_the_authorization_scheme_has_no_case(client: TestClient) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert client.get("/v1/admin/model", headers={"Authorization": f"{scheme} secret"}).status_code == 200


@pytest.mark.parametrize(
    ("content_type", "origin", "status"),
    [
        ("text/plain", "https://elsewhere.example", 415),
        ("application/x-www-form-urlencoded; charset=utf-8", "https://elsewhere.example", 415),
        ("", "https://elsewhere.example", 415),
        ("application/json; charset=utf-8", "https://shop.example", 200),
        ("application/x-www-form-urlencoded", None, 200),  # what curl sends
    ],
)
def test_a_foreign_page_cannot_post_without_consent(
    client: TestClient, content_type: str, origin: str | None, status: int
) -> None:
    headers = {"Content-Type": content_type} | ({} if origin is None else {"Origin": origin})
    event = b'{"event_type": "view", "user_id": "u", "item_id": "i3"}'
    assert client.post("/v1/events", content=event, headers=headers).status_code == status


def test_a_key_that_may_not_post_events_records_no_lists_and_searches(tmp_path: Path, bundles: list[Path]) -> None:
    install_bundle(tmp_path, bundles[0])
    settings = Settings(home=tmp_path, read_keys=("reader", "both"), write_keys=("both",))
    with TestClient(create_app(settings)) as client:
        for key, is_recorded in (("reader", False), ("both", True)):
            client.headers["Authorization"] = f"Bearer {key}"
            lists = client.post("/v1/recommendations", json={"user_id": key}).json()
            found = client.post("/v1/search", json={"query": "blue", "user_id": key}).json()
            batch = client.post("/v1/recommendations/batch", json={"requests": [{"user_id": key}]}).json()["answers"]
            assert [answer["recorded"] for answer in (lists, found, *batch)] == [is_recorded] * 3
    events = [json.loads(line) for line in EventLog(tmp_path / "endpoint" / "journal").read_lines()]
    assert {event["user_id"] for event in events} == {"both"}
    assert {event["event_type"] for event in events} == {"impression", "search"}


def test_the_rate_limit_tells_what_is_left_and_counts_by_cost(tmp_path: Path, bundles: list[Path]) -> None:
    install_bundle(tmp_path, bundles[0])
    with TestClient(create_app(Settings(home=tmp_path, admin_token="secret", rate_limit=1))) as client:  # noqa: S106
        assert "RateLimit" not in client.post("/v1/recommendations", headers=TOKEN).headers
        event = {"event_type": "view", "user_id": "u", "item_id": "i3"}
        requests: list[tuple[str, Any]] = [
            ("/v1/recommendations", {"k": 500, "record": False}),
            ("/v1/events", [event] * 500),
            ("/v1/items/i3/similar", {"k": 500}),
        ]
        for number, (path, body) in enumerate(requests):
            caller = TestClient(client.app, client=(f"10.0.0.{number}", 1))
            answer = caller.post(path, json=body)
            assert (answer.status_code, answer.headers["RateLimit-Policy"]) == (200, '"caller";q=1;w=1')
            assert re.fullmatch('"caller";r=0;t=[1-5]', answer.headers["RateLimit"]), "five requests' worth"
            refused = caller.post("/v1/recommendations")
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["Retry-After"]) <= 5


def test_a_key_may_have_a_rate_limit_of_its_own(tmp_path: Path, bundles: list[Path]) -> None:
    install_bundle(tmp_path, bundles[0])
    (slow, slow_entry), (fast, fast_entry) = (new_key(name, ["read"]) for name in ("slow", "fast"))
    (tmp_path / "keys.toml").write_text(f"{slow_entry}\nrate_limit = 0.001\n{fast_entry}\n", encoding="utf-8")
    with TestClient(create_app(Settings(home=tmp_path, keys_file=tmp_path / "keys.toml"))) as client:
        for key, statuses in ((slow, [200, 429, 429]), (fast, [200] * 3)):
            headers = {"Authorization": f"Bearer {key}"}
            assert [client.post("/v1/recommendations", headers=headers).status_code for _ in range(3)] == statuses


def test_a_filter_and_rules_together_have_a_bounded_number_of_conditions(client: TestClient) -> None:
    condition = {"field": "price", "at_most": 5}
    most: dict[str, Any] = {"filter": {"all": [condition] * 99}, "rules": {}}
    assert client.post("/v1/recommendations", json=most).status_code == 200
    most["rules"] = {"weigh": [{"filter": condition, "factor": 2}]}
    answer = client.post("/v1/recommendations", json=most)
    assert (answer.status_code, "together" in answer.json()["detail"]) == (422, True)


def test_only_pages_of_allowed_origins_may_call(tmp_path: Path, bundles: list[Path]) -> None:
    install_bundle(tmp_path, bundles[0])
    with TestClient(create_app(Settings(home=tmp_path, allowed_origins=("https://shop.example",)))) as client:
        for origin, allowed in (("https://shop.example", "https://shop.example"), ("https://elsewhere.example", None)):
            preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            preflight["Access-Control-Request-Headers"] = "authorization,content-type,idempotency-key"
            answers = [
                client.options("/v1/recommendations", headers=preflight),
                client.post("/v1/recommendations", json={}, headers={"Origin": origin}),
            ]
            assert [answer.headers.get("Access-Control-Allow-Origin") for answer in answers] == [allowed] * 2
            assert "Origin" in answers[1].headers["Vary"]


def test_no_redirect_repeats_the_host_of_the_caller(tmp_path: Path, bundles: list[Path], client: TestClient) -> None:
    headers = {"Host": "elsewhere.example"}
    assert client.post("/v1/recommendations/", headers=headers, follow_redirects=False).status_code == 404
    with TestClient(create_app(Settings(home=tmp_path / "other", allowed_hosts=("shop.example",)))) as bound:
        assert bound.get("/healthz", headers=headers).status_code == 400
        assert bound.get("/healthz", headers={"Host": "shop.example"}).status_code == 200


def test_a_sparse_bundle_is_refused_before_it_fills_the_disk(client: TestClient, tmp_path: Path) -> None:
    with (tmp_path / MANIFEST).open("wb") as file:
        file.truncate(1 << 40)
    sparse = tmp_path / "sparse.tar"
    subprocess.run(["tar", "--sparse", "-cf", sparse, "-C", tmp_path, MANIFEST], check=True)
    assert sparse.stat().st_size < 1 << 20
    answer = client.put("/v1/admin/model", content=sparse.read_bytes(), headers=TOKEN)
    assert answer.status_code == 422, answer.text


def test_invented_keys_and_batches_do_not_evade_the_rate_limit(tmp_path: Path, bundles: list[Path]) -> None:
    install_bundle(tmp_path, bundles[0])
    with TestClient(create_app(Settings(home=tmp_path, rate_limit=10))) as limited:
        costly = limited.post("/v1/recommendations/batch", json={"requests": [{"k": 500}] * 100})
        assert (costly.status_code, "counts as 500" in costly.json()["detail"]) == (413, True)
        batch = {"requests": [{"record": False}] * 100}
        assert limited.post("/v1/recommendations/batch", json=batch).status_code == 200
        assert limited.post("/v1/recommendations").status_code == 429
    with TestClient(create_app(Settings(home=tmp_path, rate_limit=0.001, read_keys=("reader",)))) as limited:
        event = {"event_type": "view", "user_id": "u", "item_id": "i3"}
        statuses = [
            limited.post("/v1/events", json=event, headers={"Authorization": f"Bearer {number}"}).status_code
            for number in range(50)
        ]
        assert statuses == [200] + [429] * 49
        assert limited.get("/v1/admin/model").status_code == 429, "nobody may try many keys"
