"""Real bundles of small trained models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from recsys_tasks.features.sequences import QUERY_WORDS
from recsys_tasks.model.export import export_graphs, verify_graphs
from recsys_tasks.model.files import TrainedModel, save_model
from recsys_tasks.model.training import TrainingConfig, build_network, train
from recsys_tasks.promotion.build import golden_requests, histories, seal_with_golden
from recsys_tasks.serving.bundle import HISTORIES
from tests.shops import START, encoded_shop, small_config, training_data


def small_bundle(folder: Path, version: str, seed: int) -> Path:
    shop = encoded_shop(seed=seed)
    torch.manual_seed(seed)
    network = build_network(small_config(shop.vocabulary, query_words=QUERY_WORDS), shop.vocabulary)
    train(network, training_data(shop), TrainingConfig(epochs=2, negatives=32), lambda _: 0.0)
    save_model(TrainedModel(network, shop.vocabulary), folder)
    export_graphs(network, folder)
    assert verify_graphs(network, folder) < 1e-4
    np.savez(folder / HISTORIES, **histories(shop, float(shop.timeline.seconds.max())))  # type: ignore[arg-type]
    lineage = {"model_version": version, "run_id": "r", "snapshot_id": "s", "cutoff": START.isoformat()}
    seal_with_golden(folder, lineage, golden_requests(shop))
    return folder
