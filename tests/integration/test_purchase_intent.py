"""Purchase intent: the exported model answers with the values of the evaluation, or with null."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recsys_tasks.engine.bundle import INTENT, Bundle
from recsys_tasks.engine.engine import Engine
from recsys_tasks.engine.purchase_intent import FEATURES, PurchaseIntent
from recsys_tasks.engine.ranking import ListOptions
from recsys_tasks.engine.session_decoder import Action
from recsys_tasks.evaluation.calibration import purchase_intent_inputs
from recsys_tasks.evaluation.protocol import PredictionTasks
from recsys_tasks.features.sequences import Timeline
from recsys_tasks.features.session_summary import ItemStatistics
from recsys_tasks.model.files import load_model
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, SEARCH, VIEW
from recsys_tasks.promotion.build import copy_model
from tests.shops import Exported, export_small_network, random_timeline

NAMES = {code: name for name, code in EVENT_TYPE_CODES.items()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_small_network(tmp_path_factory)


def _bundle(plain: Exported, folder: Path, intent: PurchaseIntent) -> Path:
    """The files that a promotion copies into a bundle, of a model with a purchase intent."""
    files = folder / "files"
    shutil.copytree(plain.folder, files)
    intent.save(files / INTENT)
    assert load_model(files).intent.reason == intent.reason
    building = folder / "building"
    building.mkdir()
    copy_model(files, building)
    return building


def _actions(timeline: Timeline, begin: int, end: int) -> list[Action]:
    return [
        Action(
            f"i{timeline.item[at] - FIRST_ITEM}" if timeline.item[at] >= FIRST_ITEM else "",
            NAMES[int(timeline.kind[at])],
            float(timeline.seconds[at]),
            query="blue item" if NAMES[int(timeline.kind[at])] == SEARCH else "",
        )
        for at in range(begin, end)
    ]


def test_the_engine_answers_with_the_values_of_the_evaluation(tmp_path: Path, plain: Exported) -> None:
    random = np.random.default_rng(0)
    weights = random.normal(size=16) / 10, random.normal(size=len(FEATURES)) / 3
    num_items = len(plain.vocabulary) - 5  # the statistics do not know the last items
    items = ItemStatistics(np.log(random.uniform(0.01, 0.5, num_items)), random.exponential(3.0, num_items))
    intent = PurchaseIntent(*weights, -0.5, items, slope=1.3, intercept=0.2)
    engine = Engine(Bundle.from_model(_bundle(plain, tmp_path, intent), plain.vocabulary))
    timeline = random_timeline(3)
    # The network was not trained on searches, which the engine leaves out.
    timeline = replace(timeline, kind=np.maximum(timeline.kind, EVENT_TYPE_CODES[VIEW]))
    target = np.arange(len(timeline))
    first = timeline.session_start[:-1][timeline.session]
    expected = intent.predict(*purchase_intent_inputs(plain.network, items, timeline, PredictionTasks(first, target)))
    compared = 0
    for at in target.tolist():
        begin = int(timeline.user_start[timeline.user[at]])
        past, session = _actions(timeline, begin, first[at]), _actions(timeline, first[at], at)
        start = float(timeline.session_seconds[at])
        for _ in range(2):  # the second answer decodes from the cache
            answer = engine.recommend(f"u{timeline.user[at]}", past, session, start, ListOptions(3))
            if (timeline.item[begin:at] >= FIRST_ITEM).any():
                assert answer.purchase_intent == pytest.approx(expected[at], abs=1e-5)
                compared += 1
    assert compared > 50
    assert expected.std() > 0.05


def test_a_model_without_purchase_intent_answers_null(tmp_path: Path, plain: Exported) -> None:
    intent = PurchaseIntent(reason="every training session has a purchase")
    engine = Engine(Bundle.from_model(_bundle(plain, tmp_path, intent), plain.vocabulary))
    answer = engine.recommend(None, [], [Action("i3", "view", 100.0)], 100.0, ListOptions(3))
    assert answer.items[0].source == "model"
    assert answer.purchase_intent is None
