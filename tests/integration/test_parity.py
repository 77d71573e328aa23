"""The lists of the evaluation are the lists that `POST /v1/recommendations` answers with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from recsys_tasks.engine.second_stage import FEATURES
from recsys_tasks.evaluation.protocol import TEST, PredictionTasks, model_scorer, rank_targets, select_prediction_tasks
from recsys_tasks.evaluation.served_lists import rank_served, session_actions
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot, build_vocabulary, encode_snapshot
from recsys_tasks.features.serving_data import catalog_columns
from recsys_tasks.features.snapshot import SnapshotParameters, build_snapshot
from recsys_tasks.model.export import export_graphs
from recsys_tasks.model.files import TrainedModel, save_model
from recsys_tasks.model.tensors import ComponentWeights
from recsys_tasks.model.training_loop import TrainingConfig, build_network, train
from recsys_tasks.names import UNKNOWN_ITEM
from recsys_tasks.promotion.build import golden_requests, seal_with_golden, write_data
from recsys_tasks.serving.app import create_app
from recsys_tasks.settings import Settings
from recsys_tasks.storage.folder import Folder
from recsys_tasks.training.component_weights import apply_component_weights
from recsys_tasks.training.recipe import with_item_neighbors
from recsys_tasks.training.second_stage import Questions, fit_questions
from recsys_tasks.training.task import training_data
from tests.conftest import fresh_warehouse
from tests.integration.endpoints import install_bundle
from tests.shops import START, add_batch, event, fill, small_config

LONG_HISTORY = 5_000


class EvaluatedShop(NamedTuple):
    """A snapshot with its test part, a bundle of a model trained on it, and the evaluated lists."""

    encoded: EncodedSnapshot
    tasks: PredictionTasks
    bundle: Path
    lists: np.ndarray


@pytest.fixture(scope="module")
def shop(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> EvaluatedShop:
    folder = tmp_path_factory.mktemp("parity")
    random = np.random.default_rng(0)
    with fresh_warehouse(postgres) as warehouse:
        fill(warehouse, users=40)
        add_batch(warehouse, [*_long_history(random), *_overlapping_sessions(), *_unknown_items()])
        snapshot = build_snapshot(warehouse, Folder.of(folder), SnapshotParameters(0.1, 0.2, 2))
    vocabulary = build_vocabulary(snapshot)
    encoded = encode_snapshot(snapshot, vocabulary)
    torch.manual_seed(0)
    config = small_config(vocabulary, neighbor_tokens=4, num_trained_items=vocabulary.num_trained)
    network = build_network(config, vocabulary)
    data = with_item_neighbors(training_data(encoded))
    train(network, data, TrainingConfig(epochs=2, num_negatives=32), lambda _: 0)
    apply_component_weights(network, data, ComponentWeights(discovery=1.5, session_neighbors=1.0))
    bundle = folder / "bundle"
    save_model(TrainedModel(network, vocabulary, second_stage=_second_stage()), bundle)
    export_graphs(network, bundle)
    columns = catalog_columns(snapshot.item_table(), vocabulary)
    write_data(bundle, columns, encoded, snapshot.cutoff.timestamp())
    lineage = {"model_version": "1", "run_id": "r", "snapshot_id": "s", "cutoff": snapshot.cutoff.isoformat()}
    seal_with_golden(bundle, lineage, golden_requests(encoded))
    tasks = select_prediction_tasks(encoded, TEST)
    served = rank_served(bundle, encoded, tasks, columns)
    first_stage = rank_targets(model_scorer(network, encoded.timeline), encoded.timeline, tasks).lists
    assert (first_stage[:, 0] != served.lists[:, 0]).mean() > 0.5, "the second stage decides"
    return EvaluatedShop(encoded, tasks, bundle, served.lists)


def _second_stage() -> bytes:
    """Trees that rank what the user took long ago before what the model prefers."""
    random = np.random.default_rng(0)
    features = random.normal(size=(600, 20, len(FEATURES))).astype(np.float32)
    features[..., FEATURES.index("days_since_action")] = random.uniform(0, 100, (600, 20))
    target = features[..., FEATURES.index("days_since_action")].argmax(1)
    return fit_questions(
        Questions(features.reshape(-1, len(FEATURES)), np.full(600, 20), target, np.arange(600), 600), seed=0
    ).graph


def _long_history(random: np.random.Generator) -> list[dict[str, object]]:
    """A user with 5,000 events before the last weeks, and a session in them."""
    rows = []
    for number in range(LONG_HISTORY):
        at = START + timedelta(minutes=15 * number)
        item = int(random.choice(40, p=np.arange(40, 0, -1) / 820))
        rows.append(event("collector", f"long {number // 5}", f"i{item}", at) | {"event_id": f"long {number}"})
    return [*rows, *_session("collector", "last", ["i3", "i7", "i1"], START + timedelta(days=70))]


def _overlapping_sessions() -> list[dict[str, object]]:
    """Users whose second session begins within the first: at +10 minutes, with an event of the first at +15."""
    rows = []
    for number in range(3):
        start = START + timedelta(days=69, hours=number)
        rows += _session(f"u{number}", f"phone {number}", ["i1", "i2", "i3", "i4"], start, minutes=15)
        later = start + timedelta(minutes=10)
        rows += _session(f"u{number}", f"laptop {number}", ["i5", "i6", "i9"], later, minutes=2)
    return rows


def _unknown_items() -> list[dict[str, object]]:
    """A session on items that are not in the catalog, between known ones."""
    return _session("u5", "unknown", ["i1", "nowhere 1", "nowhere 2", "i8"], START + timedelta(days=70, hours=3))


def _session(user: str, session: str, items: list[str], start: datetime, minutes: int = 1) -> list[dict[str, object]]:
    return [event(user, session, item, start + timedelta(minutes=minutes * n)) for n, item in enumerate(items)]


def test_evaluated_and_served_lists_are_identical(shop: EvaluatedShop, tmp_path: Path) -> None:
    encoded, tasks = shop.encoded, shop.tasks
    install_bundle(tmp_path, shop.bundle)
    with TestClient(create_app(Settings(home=tmp_path, admin_token="secret"))) as client:  # noqa: S106
        for row in range(len(tasks)):
            listed = [item["item_id"] for item in _request(client, encoded, tasks, row)]
            expected = [encoded.vocabulary.item_id(number) for number in shop.lists[row].tolist() if number]
            assert listed == expected, f"task {row} of user {_user_id(encoded, tasks, row)}"


def _request(client: TestClient, encoded: EncodedSnapshot, tasks: PredictionTasks, row: int) -> list[dict[str, object]]:
    first, target = int(tasks.first[row]), int(tasks.target[row])
    session = [
        {
            "event_type": action.event_type,
            "item_id": action.item_id or "nowhere",
            "event_time": datetime.fromtimestamp(action.seconds, UTC).isoformat(),
        }
        for action in session_actions(encoded, first, target)
    ]
    started = datetime.fromtimestamp(float(encoded.timeline.session_seconds[first]), UTC)
    body = {"user_id": _user_id(encoded, tasks, row), "session": session, "time": started.isoformat(), "k": 20}
    answer = client.post("/v1/recommendations", json=body)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, object]] = answer.json()["items"]
    return items


def _user_id(encoded: EncodedSnapshot, tasks: PredictionTasks, row: int) -> str | None:
    return encoded.user_ids[int(encoded.timeline.user[tasks.first[row]])]


def test_the_tasks_cover_long_histories_overlaps_and_unknown_items(shop: EvaluatedShop) -> None:
    timeline, tasks = shop.encoded.timeline, shop.tasks
    history = tasks.first - timeline.user_start[timeline.user[tasks.first]]
    assert history.max() >= LONG_HISTORY
    assert (tasks.first >= shop.encoded.num_events).sum() == 3  # causal copies of the overlapping sessions
    unknown = [UNKNOWN_ITEM in timeline.item[f:t] for f, t in zip(tasks.first, tasks.target, strict=True)]
    assert any(unknown)


def test_no_history_has_an_event_after_its_session_began(shop: EvaluatedShop) -> None:
    timeline, tasks = shop.encoded.timeline, shop.tasks
    for first in tasks.first.tolist():
        past = timeline.seconds[timeline.user_start[timeline.user[first]] : first]
        assert (past <= timeline.session_seconds[first]).all()
