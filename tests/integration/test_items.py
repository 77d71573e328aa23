"""Item updates on a running endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from recsys_tasks.engine.bundle import pack
from recsys_tasks.serving.app import create_app
from recsys_tasks.settings import Settings
from tests.integration.endpoints import TOKEN
from tests.shops import START

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
BLUE = {"title": "Bottle, blue", "category_path": "D1 > C1", "price": 500.0}


@pytest.fixture
def client(tmp_path: Path, bundles: list[Path]) -> Iterator[TestClient]:
    with TestClient(create_app(_settings(tmp_path))) as client:
        _promote(client, bundles[0])
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
    answer = client.post("/v1/recommendations", json={"session": [{"item_id": "bottle"}], "record": False}).json()
    assert answer["items"][0]["source"] == "model"
    assert answer["items"][0]["reason"].startswith("because you viewed Bottle, blue")


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
