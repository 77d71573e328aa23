"""Plugin models: the LSTM and the LightGCN of the tutorial, from their entry point to the engine."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recsys_tasks.engine.bundle import Bundle
from recsys_tasks.engine.engine import Engine
from recsys_tasks.engine.item_updates import ItemUpdate
from recsys_tasks.engine.ranking import ListOptions
from recsys_tasks.errors import IncompatibleModelFormat, InvariantError
from recsys_tasks.evaluation.baselines import BASELINE_FITTERS, BaselineData
from recsys_tasks.evaluation.metrics import ranking_metrics
from recsys_tasks.evaluation.protocol import TEST, VALIDATION, rank_targets, select_prediction_tasks
from recsys_tasks.evaluation.served_lists import rank_served, session_actions
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.model.files import load_model
from recsys_tasks.model.vector_model import VectorModel, export_vector_model, is_vector_model
from recsys_tasks.names import POPULARITY
from recsys_tasks.plugins import MODEL_GROUP
from recsys_tasks.training.models import ModelInput, load_model_fitter, vector_scorer
from recsys_tasks.wire.items import Item
from tests.packages import install
from tests.shops import encoded_shop, training_data

LIGHTGCN = Path(__file__).parents[2] / "docs" / "examples" / "lightgcn" / "recsys_lightgcn.py"
SECONDS = 3.0


@pytest.fixture(scope="module")
def shop() -> EncodedSnapshot:
    return encoded_shop(users=120)


@pytest.fixture(scope="module", params=["lstm", "lightgcn"])
def model(
    request: pytest.FixtureRequest, shop: EncodedSnapshot, tmp_path_factory: pytest.TempPathFactory
) -> VectorModel:
    with pytest.MonkeyPatch.context() as patch:
        code = LIGHTGCN.read_text(encoding="utf-8")
        folder = tmp_path_factory.mktemp("packages")
        install(patch, folder, LIGHTGCN.stem, code, {MODEL_GROUP: {"lightgcn": f"{LIGHTGCN.stem}:fit"}})
        return load_model_fitter(request.param)(ModelInput(training_data(shop), shop.vocabulary, SECONDS, seed=0))


@pytest.fixture(scope="module")
def exported(model: VectorModel, shop: EncodedSnapshot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_vector_model("other", model, shop.vocabulary, sessions_repeat=False, folder=folder)
    return folder


def test_it_is_better_than_popularity(model: VectorModel, shop: EncodedSnapshot) -> None:
    data, tasks = training_data(shop), select_prediction_tasks(shop, TEST)
    popularity = BASELINE_FITTERS[POPULARITY](BaselineData(data, select_prediction_tasks(shop, VALIDATION)))
    own, other = (
        ranking_metrics(rank_targets(scorer, shop.timeline, tasks, exclude_session_items=True).ranks)["mrr_20"]
        for scorer in (vector_scorer(model, shop.timeline), popularity)
    )
    assert own > 1.2 * other


def test_the_endpoints_lists_are_the_evaluated_ones(model: VectorModel, exported: Path, shop: EncodedSnapshot) -> None:
    tasks = select_prediction_tasks(shop, TEST, 40)
    served = rank_served(exported, shop, tasks)
    evaluated = rank_targets(vector_scorer(model, shop.timeline), shop.timeline, tasks, exclude_session_items=True)
    np.testing.assert_array_equal(served.lists, evaluated.lists)


def test_a_session_that_goes_on_gets_lists_without_its_items(exported: Path, shop: EncodedSnapshot) -> None:
    engine = Engine(Bundle.from_model(exported, shop.vocabulary))
    task = select_prediction_tasks(shop, TEST)
    session = session_actions(shop, int(task.first[0]), int(task.target[0]))
    for length in range(len(session) + 1):  # one event more at each request, from the session's state
        answer = engine.recommend(None, (), session[:length], session[0].seconds, ListOptions(5))
        assert len(answer.items) == 5
        assert not {item.item_id for item in answer.items} & {action.item_id for action in session[:length]}
    assert engine.recommend(None, (), session, session[0].seconds, ListOptions(5)).purchase_intent is None


def test_sessions_may_repeat_items_if_the_training_ones_do(
    model: VectorModel, shop: EncodedSnapshot, tmp_path: Path
) -> None:
    export_vector_model("other", model, shop.vocabulary, sessions_repeat=True, folder=tmp_path)
    engine = Engine(Bundle.from_model(tmp_path, shop.vocabulary))
    tasks = select_prediction_tasks(shop, TEST, 20)
    repeated = 0
    for first, target in zip(tasks.first.tolist(), tasks.target.tolist(), strict=True):
        session = session_actions(shop, first, target)
        answer = engine.recommend(None, (), session, session[0].seconds, ListOptions(20))
        repeated += len({item.item_id for item in answer.items} & {action.item_id for action in session})
    assert repeated


def test_an_item_that_is_new_to_the_model_can_be_added(exported: Path, shop: EncodedSnapshot) -> None:
    bundle = replace(Bundle.from_model(exported, shop.vocabulary), manifest={"cutoff": "2024-01-01T00:00:00+00:00"})
    updated = Engine(bundle).with_items({"new": ItemUpdate("new", datetime.now(UTC), Item("Item 1, blue"))})
    assert len(updated.recommend(None, (), (), 1.7e9, ListOptions(5)).items) == 5


def test_it_is_no_network_to_start_from(exported: Path) -> None:
    assert is_vector_model(exported)
    with pytest.raises(IncompatibleModelFormat, match="other is a plugin model"):
        load_model(exported)


class _Last(nn.Module):
    def forward(self, history: Tensor, session: Tensor) -> Tensor:
        return torch.cat([history, session[:, 1:]], 1)[:, -1]


@pytest.mark.parametrize(
    ("items", "biases", "value", "reason"),
    [(-1, 0, 1.0, "item vectors"), (0, 1, 1.0, "biases"), (0, 0, np.nan, "not finite"), (0, 0, 2.0, "Normalize")],
)
def test_arrays_that_do_not_fit_are_refused(
    shop: EncodedSnapshot, tmp_path: Path, items: int, biases: int, value: float, reason: str
) -> None:
    size = len(shop.vocabulary)
    model = VectorModel(np.full((size + items, 4), value), np.zeros(size + biases), _Last())
    with pytest.raises(InvariantError, match=reason):
        export_vector_model("other", model, shop.vocabulary, sessions_repeat=False, folder=tmp_path)
