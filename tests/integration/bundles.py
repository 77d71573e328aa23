"""Real bundles of small trained models."""

from __future__ import annotations

from pathlib import Path

import torch

from recsys_tasks.engine.catalog import Columns
from recsys_tasks.features.sequences import QUERY_WORDS
from recsys_tasks.model.export import export_graphs, verify_graphs
from recsys_tasks.model.files import TrainedModel, save_model
from recsys_tasks.model.training_loop import TrainingConfig, build_network, train
from recsys_tasks.promotion.build import golden_requests, seal_with_golden, write_data
from tests.shops import START, encoded_shop, small_config, training_data


def small_bundle(folder: Path, version: str, seed: int) -> Path:
    shop = encoded_shop(seed=seed)
    torch.manual_seed(seed)
    network = build_network(small_config(shop.vocabulary, query_words=QUERY_WORDS), shop.vocabulary)
    train(network, training_data(shop), TrainingConfig(epochs=2, negatives=32), lambda _: 0.0)
    save_model(TrainedModel(network, shop.vocabulary), folder)
    export_graphs(network, folder)
    assert verify_graphs(network, folder) < 1e-4
    columns = catalogue_columns(len(shop.vocabulary.item_ids))
    write_data(folder, columns, shop, float(shop.timeline.seconds.max()))
    lineage = {"model_version": version, "run_id": "r", "snapshot_id": "s", "cutoff": START.isoformat()}
    seal_with_golden(folder, lineage, golden_requests(shop))
    return folder


def catalogue_columns(items: int) -> Columns:
    """Item `iN` costs N and is of size N modulo 3; `i7` is not to be had any more, of `i8` nothing is known."""
    columns = Columns.unknown(items)
    columns.price = [None if number == 8 else float(number) for number in range(items)]
    columns.properties = [{} if number == 8 else {"size": number % 3, "tags": ["new"]} for number in range(items)]
    columns.available_until[7] = START.timestamp()
    return columns
