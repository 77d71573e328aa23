"""Bundles of small trained models."""

from __future__ import annotations

from pathlib import Path

import torch

from recsys_tasks.engine.catalog import CatalogColumns
from recsys_tasks.features.sequences import QUERY_WORDS
from recsys_tasks.model.export import export_graphs, verify_graphs
from recsys_tasks.model.files import TrainedModel, save_model
from recsys_tasks.model.training_loop import TrainingConfig, build_network, train
from recsys_tasks.promotion.build import golden_requests, seal_with_golden, write_data
from tests.shops import START, encoded_shop, small_config, training_data


def small_bundle(folder: Path, version: str, seed: int) -> Path:
    """Trains a small model and writes its sealed bundle; returns the folder."""
    shop = encoded_shop(seed=seed)
    torch.manual_seed(seed)
    network = build_network(small_config(shop.vocabulary, query_words=QUERY_WORDS), shop.vocabulary)
    train(network, training_data(shop), TrainingConfig(epochs=2, num_negatives=32), lambda _: 0.0)
    save_model(TrainedModel(network, shop.vocabulary), folder)
    export_graphs(network, folder)
    assert verify_graphs(network, folder) < 1e-4
    columns = catalog_columns(len(shop.vocabulary.item_ids))
    write_data(folder, columns, shop, float(shop.timeline.seconds.max()))
    lineage = {"model_version": version, "run_id": "r", "snapshot_id": "s", "cutoff": START.isoformat()}
    seal_with_golden(folder, lineage, golden_requests(shop))
    return folder


def catalog_columns(num_items: int) -> CatalogColumns:
    """Returns columns in which item `iN` costs N and has size N modulo 3; `i7` is sold out, `i8` has no values."""
    columns = CatalogColumns.empty(num_items)
    columns.price = [None if number == 8 else float(number) for number in range(num_items)]
    columns.properties = [{} if number == 8 else {"size": number % 3, "tags": ["new"]} for number in range(num_items)]
    columns.available_until[7] = START.timestamp()
    return columns
