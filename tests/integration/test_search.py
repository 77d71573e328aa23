"""Search on a running endpoint: totals, facets, orders, pages, highlights, explanations and suggestions."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from recsys_tasks.engine.bundle import pack
from recsys_tasks.engine.item_search import SEARCH_INDEX
from recsys_tasks.errors import InputError
from recsys_tasks.search.index_files import PRIVATE
from recsys_tasks.serving.app import create_app
from recsys_tasks.settings import Settings
from tests.integration.endpoints import TOKEN

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
SHOP: dict[str, dict[str, Any]] = {
    "zen": {
        "title": "Zenbook 14 laptop",
        "category_path": "Computers > Laptops",
        "brand": "Asus",
        "price": 999.0,
        "properties": {
            "description": "Light, for travel",
            "color": "silver",
            "ports": ["USB-C", "HDMI"],
            "image": "z.jpg",
        },
        "available_from": "2020-01-01T00:00:00Z",
    },
    "think": {
        "title": "ThinkPad X1 laptop",
        "category_path": "Computers > Laptops",
        "brand": "Lenovo",
        "price": 1500.0,
        "properties": {"color": "black", "ports": ["USB-C"]},
        "available_from": "2021-01-01T00:00:00Z",
    },
    "sleeve": {
        "title": "Laptop <sleeve>",
        "category_path": "Computers > Accessories",
        "brand": "Asus",
        "price": 19.0,
        "properties": {"color": "black"},
    },
    "mouse": {"title": "Mouse", "category_path": "Computers > Accessories", "price": 25.0},
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, bundles: list[Path]) -> Iterator[TestClient]:
    home = tmp_path_factory.mktemp("search")
    with TestClient(create_app(Settings(home=home, admin_token=TOKEN))) as client:
        assert client.put("/v1/admin/model", content=pack(bundles[0]), headers=HEADERS).status_code == 200
        for item_id, item in SHOP.items():
            assert client.put(f"/v1/items/{item_id}", json=item, headers=HEADERS).status_code == 200
        yield client


def _search(client: TestClient, query: str, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/search", json={"query": query, "record": False, **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def _ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def test_all_texts_of_an_item_are_searched(client: TestClient) -> None:
    for query in ("zenbook", "travel", "silver", "hdmi", "asus laptop"):
        assert _ids(_search(client, query))[0] == "zen", query


def test_the_name_of_a_category_finds_the_category_first(client: TestClient) -> None:
    assert set(_ids(_search(client, "laptops"))[:2]) == {"zen", "think"}


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("price_ascending", ["sleeve", "zen", "think"]),
        ("price_descending", ["think", "zen", "sleeve"]),
        ("newest", ["think", "zen", "sleeve"]),
    ],
)
def test_results_are_sorted_as_asked(client: TestClient, sort: str, expected: list[str]) -> None:
    assert _ids(_search(client, "laptop", sort=sort)) == expected


def test_facets_count_what_their_filters_find(client: TestClient) -> None:
    fields = ["category", "brand", "price", "properties.color", "properties.ports"]
    answer = _search(client, "laptop", facets=fields)
    assert answer["total"] == 3
    assert {value["value"]: value["count"] for value in answer["facets"]["category"]} == {
        "Computers": 3,
        "Computers > Laptops": 2,
        "Computers > Accessories": 1,
    }
    assert {value["value"]: value["count"] for value in answer["facets"]["properties.ports"]} == {"USB-C": 2, "HDMI": 1}
    for field, values in answer["facets"].items():
        for value in values:
            condition: dict[str, Any] = {"field": field} | {
                name: bound for name, bound in value.items() if name in ("at_least", "at_most")
            }
            if "value" in value:
                condition["under" if field == "category" else "one_of"] = [value["value"]]
            assert _search(client, "laptop", filter=condition)["total"] == value["count"], condition


@pytest.mark.parametrize("sort", ["relevance", "price_ascending"])
def test_cursors_page_through_all_results_once(client: TestClient, sort: str) -> None:
    whole = _search(client, "blue", k=500, sort=sort)
    pages, cursor = [], None
    while True:
        page = _search(client, "blue", k=4, sort=sort, cursor=cursor)
        pages.append(_ids(page))
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert [*chain.from_iterable(pages)] == _ids(whole)
    assert len(pages) > 2
    assert whole["total"] == len(whole["items"])
    assert whole["next_cursor"] is None


def test_a_cursor_belongs_to_its_search(client: TestClient) -> None:
    cursor = _search(client, "blue", k=4)["next_cursor"]
    for body in ({"query": "red", "cursor": cursor}, {"query": "blue", "cursor": "bm90IGEgY3Vyc29y"}):
        answer = client.post("/v1/search", json={"k": 4, **body})
        assert answer.status_code == 422
        assert "$.cursor" in answer.json()["detail"]


def test_highlights_and_item_data_are_returned_on_request(client: TestClient) -> None:
    plain = _search(client, "sleeve")["items"][0]
    assert not {"highlight", "signals", "data"} & set(plain)
    item = _search(client, "sleeve laptop", highlight=True, fields=["price", "brand", "category", "properties.color"])
    assert item["items"][0]["highlight"] == "<em>Laptop</em> &lt;<em>sleeve</em>&gt;"
    assert item["items"][0]["data"] == {
        "price": 19.0,
        "brand": "Asus",
        "category": "Computers > Accessories",
        "properties.color": "black",
    }


def test_the_shares_of_a_score_add_up(client: TestClient) -> None:
    for item in _search(client, "asus laptop", explain=True, user_id="u1")["items"]:
        assert sum(item["signals"].values()) == pytest.approx(item["score"])
        assert {"text", "words", "name", "popularity"} <= set(item["signals"])


def test_corrections_are_told_and_a_query_without_matches_falls_back(client: TestClient) -> None:
    answer = _search(client, "zenbok")
    assert _ids(answer) == ["zen"]
    assert answer["relaxations"] == [{"kind": "spelling", "searched": "zenbook", "instead_of": "zenbok"}]
    nothing = _search(client, "冰箱", k=3)
    assert (nothing["fallback"], nothing["total"], nothing["next_cursor"]) == (True, 0, None)
    assert len(nothing["items"]) == 3


def test_suggestions_complete_queries_and_find_items(client: TestClient) -> None:
    answer = client.get("/v1/suggest", params={"q": "lapt", "k": 5}).json()
    assert answer["queries"] == ["Laptops"]
    assert {item["item_id"] for item in answer["items"]} == {"zen", "think", "sleeve"}
    assert "<em>laptop</em>" in answer["items"][0]["highlight"]
    assert client.get("/v1/suggest", params={"q": "lenv"}).json()["queries"] == ["Lenovo"]
    assert client.get("/v1/suggest", params={"q": "thinkpad x"}).json()["items"][0]["item_id"] == "think"


@pytest.mark.parametrize("url", ["/v1/suggest", "/v1/suggest?q=", "/v1/suggest?q=a&k=0", "/v1/suggest?q=%00"])
def test_an_invalid_prefix_is_rejected(client: TestClient, url: str) -> None:
    assert client.get(url).status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        {"query": "  "},
        {"query": "x" * 1_001},
        {"query": "laptop", "sort": "cheapest"},
        {"query": "laptop", "facets": ["color"]},
        {"query": "laptop", "fields": ["cost"]},
        {"query": "laptop", "filter": {"field": "price); DROP", "at_most": 1}},
    ],
)
def test_an_invalid_search_is_rejected(client: TestClient, body: dict[str, Any]) -> None:
    assert client.post("/v1/search", json=body).status_code == 422


@pytest.mark.parametrize(
    "query",
    ["?!,.;", "🎧🎧🎧", "<b>laptop</b>", "'; DROP TABLE items; --", "laptop 笔记本 שלום", "\u202elaptop", "ק" * 999],
)
def test_unusual_queries_are_answered(client: TestClient, query: str) -> None:
    assert _search(client, query)["items"]
    assert client.get("/v1/suggest", params={"q": query}).status_code == 200


def test_an_item_replaced_is_found_by_its_new_text_only(client: TestClient) -> None:
    item = {"title": "Trackball", "category_path": "Computers > Accessories"}
    assert client.put("/v1/items/mouse", json=item, headers=HEADERS).status_code == 200
    assert "mouse" in _ids(_search(client, "trackball"))
    assert "mouse" not in _ids(_search(client, "mouse"))


def test_searches_are_answered_while_items_are_indexed(client: TestClient) -> None:
    def put(number: int) -> int:
        item = {"title": "Identical title", "category_path": "Many"}
        return int(client.put(f"/v1/items/same-{number}", json=item, headers=HEADERS).status_code)

    with ThreadPoolExecutor(1) as pool:
        puts = pool.map(put, range(40))
        totals = [_search(client, "identical title")["total"] for _ in range(20)]
        assert set(puts) == {200}
    assert all(earlier <= later for earlier, later in pairwise(totals))
    assert _search(client, "identical title")["total"] == 40


def test_searches_are_answered_while_the_index_of_a_new_model_is_built(tmp_path: Path, bundles: list[Path]) -> None:
    with _open_endpoint(tmp_path) as client, ThreadPoolExecutor(1) as pool:
        for bundle in bundles[:2]:
            deployed = pool.submit(client.put, "/v1/admin/model", content=pack(bundle), headers=HEADERS)
            if bundle == bundles[0]:
                assert deployed.result().status_code == 200
                assert client.put("/v1/items/mouse", json=SHOP["mouse"], headers=HEADERS).status_code == 200
        found = [_ids(_search(client, "mouse"))]
        while not deployed.done():
            found.append(_ids(_search(client, "mouse")))
        assert deployed.result().status_code == 200
        assert all(ids == ["mouse"] for ids in [*found, _ids(_search(client, "mouse"))])


def _open_endpoint(home: Path, **settings: Any) -> TestClient:
    return TestClient(create_app(Settings(home=home, admin_token=TOKEN, **settings)))


@pytest.fixture(scope="module")
def deployed_home(tmp_path_factory: pytest.TempPathFactory, bundles: list[Path]) -> Path:
    """Home of an endpoint with a model, and an item that was put later; not to be written to."""
    home = tmp_path_factory.mktemp("deployed")
    with _open_endpoint(home) as client:
        assert client.put("/v1/admin/model", content=pack(bundles[0]), headers=HEADERS).status_code == 200
        assert client.put("/v1/items/mouse", json=SHOP["mouse"], headers=HEADERS).status_code == 200
    return home


@pytest.fixture
def deployed(tmp_path: Path, deployed_home: Path) -> Path:
    """A copy of that home."""
    shutil.copytree(deployed_home, tmp_path, dirs_exist_ok=True)
    return tmp_path


def _index_file(home: Path, pattern: str = "index.json") -> Path:
    return next(home.glob(f"**/{SEARCH_INDEX}/{pattern}"))


def test_an_endpoint_starts_with_the_index_of_the_deployment(deployed: Path) -> None:
    written = _index_file(deployed).stat().st_mtime_ns
    with _open_endpoint(deployed) as client:
        assert _ids(_search(client, "mouse")) == ["mouse"], "and with the items that were put since"
    assert _index_file(deployed).stat().st_mtime_ns == written


@pytest.mark.parametrize("pattern", ["index.json", "*.idx", "*.term", "words.json"])
def test_a_damaged_index_is_built_again_at_the_start(deployed: Path, pattern: str) -> None:
    _index_file(deployed, pattern).write_bytes(b"damaged")
    with _open_endpoint(deployed) as client:
        assert _ids(_search(client, "mouse")) == ["mouse"]
    assert b"damaged" not in _index_file(deployed, pattern).read_bytes()


def test_other_languages_build_the_index_again(deployed: Path, tmp_path: Path) -> None:
    settings = tmp_path / "search.toml"
    settings.write_text('languages = ["german"]')
    with _open_endpoint(deployed, search_settings=settings) as client:
        assert _ids(_search(client, "mouse")) == ["mouse"]
    assert b'"languages":["german"]' in _index_file(deployed).read_bytes()


def test_what_a_killed_process_left_is_removed(deployed: Path) -> None:
    left = _index_file(deployed).parents[1] / f"{PRIVATE}x"
    left.mkdir()
    with _open_endpoint(deployed):
        assert not left.exists()


def test_invalid_search_settings_prevent_the_start(tmp_path: Path) -> None:
    file = tmp_path / "search.toml"
    file.write_text("[fields]\ntitel = 1\n")
    with pytest.raises(InputError, match="titel"):
        create_app(Settings(home=tmp_path, admin_token=TOKEN, search_settings=file))
