from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from recsys_tasks.evaluation.calibration import without_intent
from recsys_tasks.evaluation.model_card import model_card
from recsys_tasks.evaluation.report import EvaluationReport
from recsys_tasks.features.snapshot import Snapshot
from recsys_tasks.model.tensors import ComponentWeights
from recsys_tasks.storage.folder import Folder

AT = datetime(2024, 1, 1, tzinfo=UTC)
SNAPSHOT = Snapshot("s", Folder.of(Path()), AT, 1, AT, AT, 100, 20, 40, 0, 10, (), "items", "users", (), ())
PARAMETERS = {"num_parameters": 1_000, "embedding_dim": 16, "seconds": 60, "threads": 1, "seed": 0}
METRICS = {"mrr_20": 0.1, "recall_20": 0.2, "coverage_20": 0.5}


def _card(sizes: dict[str, int], mrr: dict[str, float]) -> str:
    by_segment = {"model": {segment: {"mrr_20": value} for segment, value in mrr.items()}}
    table = {"model": METRICS, "popularity": METRICS}
    report = EvaluationReport(table, {"model": {"mrr_20": (0.09, 0.11)}}, by_segment, sizes)
    return " ".join(
        model_card(
            "r", SNAPSHOT, report, without_intent("no purchases", np.zeros(2)), PARAMETERS, ComponentWeights(2.0, 0.5)
        ).split()
    )


@pytest.mark.parametrize(("size", "weakest"), [(99, "returning users"), (100, "new users")])
def test_the_weakest_segment_has_a_hundred_sessions(size: int, weakest: str) -> None:
    mrr = {"new users": 0.01, "returning users": 0.12}
    card = _card({"new users": size, "returning users": 900}, mrr)
    assert f"Weakest segment of those with at least 100 sessions: {weakest} (MRR@20 {mrr[weakest]:.4f}" in card


def test_without_a_large_segment_none_is_called_the_weakest() -> None:
    assert "No segment has 100 sessions" in _card({"new users": 3}, {"new users": 0.0})


def test_the_card_names_the_components_and_their_weights() -> None:
    card = _card({"new users": 3}, {"new users": 0.0})
    assert "items of the nearest past sessions" in card
    assert "discovery 2, session neighbors 0.5" in card
