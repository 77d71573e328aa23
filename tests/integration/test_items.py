"""Item updates on a running endpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from recsys_tasks.engine.bundle import pack
from recsys_tasks.serving.app import create_app
from recsys_tasks.serving.workers import WorkerFolders
from recsys_tasks.settings import Settings
from tests.integration.endpoints import TOKEN, install_bundle
from tests.shops import START

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
BLUE = {"title": "Bottle, blue", "category_path": "D1 > C1", "price": 500.0}


@pytest.fixture
def client(tmp_path: Path, bundles: list[Path]) -> Iterator[TestClient]:
    install_bundle(tmp_path, bundles[0])
    with TestClient(create_app(_settings(tmp_path))) as client:
        yield client


def _settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, admin_token=TOKEN)


def _promote(client: TestClient, bundle: Path) -> None:
    assert client.put("/v1/admin/model", content=pack(bundle), headers=HEADERS).status_code == 200


def _put_item(client: TestClient, item_id: str, item: dict[str, Any]) -> bool:
    answer = client.put(f"/v1/items/{item_id}", json=item, headers=HEADERS)
    assert answer.status_code == 200, answer.text
    return bool(answer.json()["trained"])


def _listed(client: TestClient, **body: Any) -> list[str]:
    answer = client.post("/v1/recommendations", json={"k": 60, "record": False, **body})
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def _found(client: TestClient, query: str, **body: Any) -> list[dict[str, Any]]:
    answer = client.post("/v1/search", json={"query": query, "record": False, **body}).json()
    return [] if answer["fallback"] else list(answer["items"])


def test_a_new_item_is_in_the_next_list_and_search(client: TestClient) -> None:
    assert "bottle" not in _listed(client, user_id="u1")
    assert not _found(client, "bottle")
    assert _put_item(client, "bottle", BLUE) is False
    assert "bottle" in _listed(client, user_id="u1")
    assert [item["title"] for item in _found(client, "bottle")] == ["Bottle, blue"]
    assert _listed(client, user_id="u1", filter={"field": "price", "at_least": 400}) == ["bottle"]
    similar = client.get("/v1/items/bottle/similar?k=1").json()["items"][0]
    assert similar["title"].endswith("blue")


def test_a_new_item_is_similar_to_items_with_the_same_words_and_category(client: TestClient) -> None:
    _put_item(client, "near", {"title": "Item, green", "category_path": "D1 > C4"})  # like i9
    _put_item(client, "far", {"title": "Lamp, red", "category_path": "D0 > C0"})
    similarity = {}
    for name in ("near", "far"):
        items = client.get(f"/v1/items/{name}/similar?k=60").json()["items"]
        similarity[name] = {item["item_id"]: item["score"] for item in items}
    assert similarity["near"]["i9"] > similarity["far"].get("i9", 0.0)


def test_actions_on_a_new_item_are_used(client: TestClient) -> None:
    _put_item(client, "bottle", BLUE)
    session = [{"item_id": "bottle"}]
    answer = client.post("/v1/recommendations", json={"session": session, "record": False}).json()
    assert answer["items"][0]["source"] == "model"
    assert _listed(client, session=session) != _listed(client, session=[{"item_id": "i3"}])


def test_a_known_item_can_be_replaced(client: TestClient) -> None:
    before = _listed(client, user_id="u1")
    assert _put_item(client, before[0], {"title": "Lamp", "price": 9.0, "available_until": START.isoformat()}) is True
    assert before[0] not in _listed(client, user_id="u1")
    _put_item(client, before[0], {"title": "Lamp", "price": 9.0})
    assert _listed(client, user_id="u1")[0] == before[0]
    assert [item["item_id"] for item in _found(client, "lamp")] == [before[0]]


def test_a_new_item_survives_a_restart_and_a_change_of_models(
    client: TestClient, tmp_path: Path, bundles: list[Path]
) -> None:
    _put_item(client, "bottle", BLUE)
    listed = _listed(client, user_id="u1")
    with TestClient(create_app(_settings(tmp_path))) as again:
        assert _listed(again, user_id="u1") == listed
        _promote(again, bundles[1])
        assert _found(again, "bottle")
        again.delete("/v1/admin/model", headers=HEADERS)
        assert _listed(again, user_id="u1") == listed


def test_a_malformed_line_prevents_neither_the_start_nor_other_item_updates(client: TestClient, tmp_path: Path) -> None:
    _put_item(client, "bottle", BLUE)
    next((tmp_path / "endpoint" / "items").glob("*.jsonl")).open("ab").write(b"{not json}\n")
    with TestClient(create_app(_settings(tmp_path))) as again:
        assert _found(again, "bottle")


@pytest.mark.parametrize(
    "item", [{}, {"title": ""}, {"title": "t", "price": -1}, {"title": "t", "unknown": 1}, {"title": "t\0"}]
)
def test_an_invalid_item_is_rejected(client: TestClient, item: dict[str, Any]) -> None:
    assert client.put("/v1/items/i1", json=item, headers=HEADERS).status_code == 422
    assert client.put("/v1/items/i1", json=BLUE).status_code == 401


def test_interests_apply_to_an_unknown_user_only(client: TestClient) -> None:
    body = {"interests": ["green things", "blue"], "k": 30, "record": False}
    items = client.post("/v1/recommendations", json={"user_id": "nobody", **body}).json()["items"]
    colors = [item["title"].split(", ")[1] for item in items]
    assert set(colors[:20]) == {"green", "blue"}
    assert not {"green", "blue"} & set(colors[20:])
    assert {item["source"] for item in items} == {"interests"}
    known = client.post("/v1/recommendations", json={"user_id": "u1", **body}).json()["items"]
    assert {item["source"] for item in known} == {"model"}


def _item(client: TestClient, item_id: str) -> dict[str, Any]:
    answer = client.get(f"/v1/items/{item_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_an_item_is_returned_as_lists_see_it(client: TestClient) -> None:
    known = _item(client, "i9")
    assert (known["trained"], known["item"]["title"], known["item"]["price"]) == (True, "Item 9, green", 9.0)
    _put_item(client, "bottle", BLUE)
    assert _item(client, "bottle") == {"item_id": "bottle", "trained": False, "item": BLUE}
    assert client.get("/v1/items/nothing").status_code == 404


def test_put_replaces_all_fields_and_patch_those_of_the_body(client: TestClient) -> None:
    _put_item(client, "bottle", BLUE | {"brand": "Acme", "properties": {"size": 1}})
    answer = client.patch("/v1/items/bottle", json={"price": 9.5}, headers=HEADERS)
    assert answer.status_code == 200, answer.text
    assert _item(client, "bottle")["item"] == BLUE | {"brand": "Acme", "properties": {"size": 1}, "price": 9.5}
    assert "bottle" in _listed(client, filter={"field": "price", "at_least": 9.5, "at_most": 9.5})
    assert client.patch("/v1/items/bottle", json={"price": None}, headers=HEADERS).status_code == 200
    assert "price" not in _item(client, "bottle")["item"]
    _put_item(client, "bottle", {"title": "Bottle"})
    assert _item(client, "bottle")["item"] == {"title": "Bottle"}


def test_a_removed_item_is_in_no_list_until_it_is_put_again(client: TestClient, tmp_path: Path) -> None:
    best = _listed(client, user_id="u1")[0]
    assert client.delete(f"/v1/items/{best}", headers=HEADERS).status_code == 200
    assert best not in _listed(client, user_id="u1")
    assert not [item for item in _found(client, "item", k=60) if item["item_id"] == best]
    with TestClient(create_app(_settings(tmp_path))) as again:
        assert best not in _listed(again, user_id="u1")
    patched = client.patch(f"/v1/items/{best}", json={"available_until": None}, headers=HEADERS)
    assert (patched.status_code, best in _listed(client, user_id="u1")) == (200, True)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PATCH", "/v1/items/nothing", {"price": 1}, 404),
        ("DELETE", "/v1/items/nothing", None, 404),
        ("PATCH", "/v1/items/i9", {"cost": 1}, 422),
        ("PATCH", "/v1/items/i9", {"price": -1}, 422),
        ("PATCH", "/v1/items/i9", {"title": ""}, 422),
        ("PATCH", "/v1/items/i9", {"brand": "x" * 300}, 422),
        ("PATCH", "/v1/items/i9", [], 422),
    ],
)
def test_an_invalid_change_is_rejected_and_changes_nothing(
    client: TestClient, method: str, path: str, body: Any, status: int
) -> None:
    before = _item(client, "i9")
    assert client.request(method, path, json=body, headers=HEADERS).status_code == status
    assert _item(client, "i9") == before
    assert client.request(method, "/v1/items/i9", json=body).status_code == 401


def _lines(*items: dict[str, Any] | str) -> bytes:
    return "\n".join(item if isinstance(item, str) else json.dumps(item) for item in items).encode()


def test_many_items_are_stored_at_once_and_bad_lines_are_returned_with_reasons(client: TestClient) -> None:
    bottles = [{"item_id": f"bottle-{number}", **BLUE} for number in range(30)]
    body = _lines(*bottles, "", "{", {"item_id": "x"}, {"item_id": "y", "title": "Y", "price": -1})
    answer = client.post("/v1/items", content=body, headers=HEADERS).json()
    assert answer["stored"] == 30
    assert [line["line"] for line in answer["rejected"]] == [32, 33, 34]
    assert "price" in answer["rejected"][-1]["detail"]
    assert len(_found(client, "bottle", k=50)) == 30
    assert client.post("/v1/items", content=b"{}\n" * 10_001, headers=HEADERS).status_code == 413
    assert client.post("/v1/items", content=body).status_code == 401


def test_similar_items_can_be_filtered_and_exclude_what_a_user_has(client: TestClient) -> None:
    nearest = client.get("/v1/items/i3/similar?k=60").json()["items"]
    assert client.post("/v1/items/i3/similar", json={"k": 60}).json()["items"] == nearest
    first, second = (item["item_id"] for item in nearest[:2])
    event = {"event_type": "purchase", "user_id": "shopper", "item_id": first}
    assert client.post("/v1/events", json=event).status_code == 200
    body = {"user_id": "shopper", "exclude_bought": True, "exclude": [second], "k": 60, "fields": ["category"]}
    remaining = client.post("/v1/items/i3/similar", json=body).json()["items"]
    assert [item["item_id"] for item in remaining] == [item["item_id"] for item in nearest[2:]]
    category = remaining[0]["data"]["category"]
    filtered = client.post(
        "/v1/items/i3/similar", json={"filter": {"field": "category", "one_of": [category]}, "fields": ["category"]}
    ).json()["items"]
    assert {item["data"]["category"] for item in filtered} == {category}
    assert client.post("/v1/items/absent/similar", json={}).status_code == 404


def test_users_who_may_like_an_item_have_not_bought_it(client: TestClient) -> None:
    def users(item_id: str) -> list[str]:
        answer = client.get(f"/v1/items/{item_id}/users?k=500", headers=HEADERS)
        assert answer.status_code == 200, answer.text
        scores = [user["score"] for user in answer.json()["users"]]
        assert scores == sorted(scores, reverse=True)
        return [user["user_id"] for user in answer.json()["users"]]

    engine = client.app.state.endpoint.models.engine  # type: ignore[attr-defined]
    found = users("i3")
    assert found
    for user_id in found:
        assert "i3" not in engine.seen_item_ids(user_id, "purchase")
    assert client.get("/v1/items/i3/users").status_code == 401
    assert client.delete(f"/v1/admin/users/{found[0]}", headers=HEADERS).status_code == 200
    assert found[0] not in users("i3")


# Merchandising rules


def _pin(item_id: str, position: int = 1) -> dict[str, Any]:
    return {"pin": [{"item_id": item_id, "position": position}]}


def test_rules_change_without_a_restart_have_versions_and_can_be_undone(client: TestClient, tmp_path: Path) -> None:
    assert client.get("/v1/admin/rules", headers=HEADERS).json() == {"version": 0, "time": None, "rules": {}}
    before = _listed(client)
    for version, item_id in enumerate(("i30", "i31"), start=1):
        answer = client.put("/v1/admin/rules", json=_pin(item_id), headers=HEADERS)
        assert (answer.json()["version"], answer.headers["ETag"]) == (version, f'"{version}"')
        assert _listed(client)[0] == item_id
    with TestClient(create_app(_settings(tmp_path))) as restarted:
        assert _listed(restarted)[0] == "i31"
    first = client.get("/v1/admin/rules?version=1", headers=HEADERS).json()["rules"]
    client.put("/v1/admin/rules", json=first, headers=HEADERS)
    assert _listed(client)[0] == "i30"
    client.put("/v1/admin/rules", json={}, headers=HEADERS)
    assert _listed(client) == before
    assert client.get("/v1/admin/rules?version=9", headers=HEADERS).status_code == 404


def test_a_change_of_rules_that_another_one_preceded_is_refused(client: TestClient) -> None:
    for tag, status in (('"0"', 200), ('"0"', 412), ('"1"', 200), ("*", 200)):
        answer = client.put("/v1/admin/rules", json=_pin("i30"), headers={**HEADERS, "If-Match": tag})
        assert answer.status_code == status
    wrong = {"weigh": [{"filter": {"field": "colour", "one_of": ["a"]}, "factor": 2}]}
    answer = client.put("/v1/admin/rules", json=wrong, headers=HEADERS)
    assert (answer.status_code, "$.weigh[0].filter" in answer.json()["detail"]) == (422, True)


def test_all_workers_of_a_machine_apply_new_rules(tmp_path: Path, bundles: list[Path]) -> None:
    workers = [WorkerFolders.for_worker(tmp_path, number, 2) for number in range(2)]
    with ExitStack() as stack:
        one, two = (stack.enter_context(TestClient(create_app(_settings(tmp_path), folders))) for folders in workers)
        for client in (one, two):
            _promote(client, bundles[0])
        one.put("/v1/admin/rules", json=_pin("i30"), headers=HEADERS)
        deadline = time.monotonic() + 10
        while _listed(two)[0] != "i30" and time.monotonic() < deadline:
            pass
        assert _listed(two)[0] == "i30"


def test_rules_of_a_request_apply_to_its_list_alone_beside_those_of_the_shop(client: TestClient) -> None:
    before = _listed(client)
    client.put("/v1/admin/rules", json=_pin("i30", 2), headers=HEADERS)
    bury = {"weigh": [{"filter": {"field": "item_id", "one_of": [before[0]]}, "factor": 0}]}
    own = _listed(client, rules={**_pin("i31"), **bury})
    assert own[:2] == ["i31", "i30"]
    assert before[0] not in own
    assert _listed(client)[:2] == [before[0], "i30"]
    answer = client.post("/v1/recommendations", json={"rules": {"pin": [{"item_id": "i3", "position": 0}]}})
    assert answer.status_code == 422
