"""Training runs in MLflow: artifacts, reproduction, registration, and the gate's decision."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
from sqlalchemy import Engine, text

from recsys_tasks.errors import ConfigurationError, InputError
from recsys_tasks.features.snapshot import open_snapshot
from recsys_tasks.names import CHAMPION, REGISTERED_MODEL
from recsys_tasks.registry import runs, versions
from recsys_tasks.registry.tracking import TUNING, client, experiment_id
from recsys_tasks.settings import settings
from recsys_tasks.stack import summary
from recsys_tasks.steps import features, promotion, training
from recsys_tasks.training.evaluation import evaluate_run
from recsys_tasks.training.hyperparameters import load_recipe
from recsys_tasks.training.lineage import SCRATCH, trained_until
from recsys_tasks.training.run_comparison import compare_runs
from recsys_tasks.training.study import open_study
from recsys_tasks.training.tuning import study_storage
from recsys_tasks.warehouse import database_url, engine
from tests.conftest import configured_shop
from tests.shops import LENIENT_GATE_RULES, START, fill


@dataclass(frozen=True)
class Shop:
    """A warehouse with a run whose model is registered as version 1."""

    warehouse: Engine
    run_id: str


@pytest.fixture(scope="module")
def shop(postgres: str, tracking_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    home = tmp_path_factory.mktemp("runs")
    (home / "gate.toml").write_text(LENIENT_GATE_RULES)
    options = {
        "MIN_ITEM_EVENTS": 1,
        "TEST_SHARE": 0.2,
        "MAX_TRAINING_EPOCHS": 8,
        "WARM_START_SECONDS": 3,
        "GATE_RULES": home / "gate.toml",
    }
    with configured_shop(postgres, tracking_template, home, **options) as warehouse:
        fill(warehouse)
        features.build_features()
        run_id = training.train_model()
        training.evaluate_run(run_id)
        training.register_run(run_id)
        yield Shop(warehouse, run_id)
        engine().dispose()


def _download(run_id: str, name: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(f"runs:/{run_id}/{name}"))


def _text(run_id: str, name: str) -> str:
    content: str = mlflow.artifacts.load_text(f"runs:/{run_id}/{name}")
    return content


def test_a_run_has_parameters_dataset_plots_and_model_card(shop: Shop) -> None:
    run = client().get_run(shop.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "0"
    assert run.inputs.dataset_inputs[0].dataset.digest == run.data.tags["snapshot_id"].rsplit("-", 1)[-1]
    artifacts = {entry.path for entry in client().list_artifacts(shop.run_id)}
    assert {"curves.png", "segments.png", "coverage.png"} <= artifacts
    assert {
        "evaluation.md",
        "examples.md",
        "model_card.md",
        "environment.txt",
        "training.json",
        "recipe.toml",
    } <= artifacts
    assert "torch==" in _text(shop.run_id, "environment.txt")
    assert "embedding_dim = 128  # 128 if the time budget allows" in _text(shop.run_id, "recipe.toml")
    assert "calibration.png" not in artifacts  # every session of this shop has a purchase
    card = _text(shop.run_id, "model_card.md")
    assert run.data.tags["snapshot_id"] in card
    assert f"reproduce {shop.run_id}" in card
    profile = json.loads(run.inputs.dataset_inputs[0].dataset.profile)
    assert profile["num_rows"] == profile["events"] == 1_200, "of the snapshot, not of a sample"
    shown = _text(shop.run_id, "examples.md")
    assert shown.count("next item: Item ") == 6
    assert "u1" not in shown


def test_a_reviewer_sees_the_metrics_that_matter_in_mlflow(shop: Shop) -> None:
    run = client().get_run(shop.run_id)
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith("Trained from scratch on the events before ")
    for row in ("Recall@20", "MRR@20", "Catalog coverage@20"):
        assert f"| {row} | " in note
    assert client().get_model_version(REGISTERED_MODEL, "1").description.startswith(note)
    logged = client().get_logged_model(run.outputs.model_outputs[0].model_id).metrics
    own = {metric.key: metric.value for metric in logged}
    assert own["mrr_at_20"] == run.data.metrics["mrr_at_20"]
    assert not any(name.startswith("baseline/") for name in own), "Compare shows the models"


@pytest.fixture(scope="module")
def reproduced(shop: Shop) -> tuple[str, dict[str, tuple[float, float]]]:
    """A reproduction of the run, and its metrics beside those of the run."""
    return training.reproduce(shop.run_id)


def test_reproducing_a_run_gives_the_same_metrics(
    shop: Shop, reproduced: tuple[str, dict[str, tuple[float, float]]]
) -> None:
    again, metrics = reproduced
    assert client().get_run(again).data.tags["reproduces"] == shop.run_id
    assert len(metrics) > 10
    assert all(original == found for original, found in metrics.values())


def test_a_study_trains_the_best_hyperparameters_as_a_version(shop: Shop) -> None:
    name = training.start_study("first", minutes=10, trial_minutes=0.03)
    training.run_trials(name, max_trials=3)
    study = open_study(name, study_storage(database_url()))
    space = study.trials[0].distributions
    found_elsewhere = study.trials[0].params | {"network.dropout": 0.45}  # by another process
    study.add_trial(optuna.trial.create_trial(params=found_elsewhere, distributions=space, value=2.0))

    run_id = training.train_best(name)

    assert run_id is not None
    run, study_run = client().get_run(run_id), client().get_run(study.user_attrs["run_id"])
    assert run.data.params["dropout"] == "0.45"
    assert run.data.tags["tuned_in"] == study_run.info.run_id
    assert "dropout = 0.45  # set in the recipe" in _text(run_id, "recipe.toml")
    trials = client().search_runs([experiment_id(TUNING)], f"tags.mlflow.parentRunId = '{study_run.info.run_id}'")
    assert len(trials) == len(study.trials) - 1  # the other one was not run here
    assert all("training.learning_rate" in trial.data.params for trial in trials)
    assert study_run.info.status == "FINISHED"
    assert study_run.data.metrics["best_mrr_20"] == 2.0
    artifacts = {entry.path for entry in client().list_artifacts(study_run.info.run_id)}
    assert {"importances.png", "parallel_coordinates.png", "study.md", "recipe.toml"} <= artifacts
    assert load_recipe(_download(study_run.info.run_id, "recipe.toml")).network.dropout == 0.45
    assert runs.load_latest_epochs()[0] == run_id  # trials are no trainings


def test_a_study_goes_on_with_its_snapshot_and_end(shop: Shop) -> None:
    name = training.start_study("again", minutes=0.2, trial_minutes=0.05)
    before = open_study(name, study_storage(database_url())).user_attrs
    assert training.start_study(name, minutes=500, trial_minutes=1) == name
    assert open_study(name, study_storage(database_url())).user_attrs == before


def test_an_unknown_study_is_named(shop: Shop) -> None:
    with pytest.raises(InputError, match="No study elsewhere"):
        training.run_trials("elsewhere")


def test_a_run_is_reproduced_on_its_own_device_only(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(ConfigurationError, match="Set RECSYS_TRAINING_DEVICE=cpu"):
        training.reproduce(shop.run_id)


def test_an_unknown_run_cannot_be_reproduced(shop: Shop) -> None:
    with pytest.raises(InputError, match="cannot be reproduced"):
        training.reproduce("0" * 32)


def test_a_run_is_registered_once_beside_many_other_models(shop: Shop) -> None:
    for number in range(100):  # fills the first page of MLflow's list, before ours
        client().create_registered_model(f"another model {number}")
    assert training.register_run(shop.run_id) == "1"
    assert len(client().search_model_versions(f"name = '{REGISTERED_MODEL}'")) == 1


def test_more_metrics_than_a_batch_holds_are_logged_in_few_calls(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, log_batch = [], mlflow.MlflowClient.log_batch

    def counting_log_batch(*arguments: Any, **named: Any) -> Any:
        calls.append(named)
        return log_batch(*arguments, **named)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", counting_log_batch)
    run_id = client().create_run(experiment_id()).info.run_id
    table = {
        "model": {f"metric_{number}": number / 7 for number in range(1_200)} | {"questions": 9.0},
        "popularity": {"mrr_20": 0.1, "first-time targets: mrr_20": 0.2, "target: add_to_cart: mrr_20": 0.3},
    }
    runs.log_evaluation(run_id, table)
    assert len(calls) == 2
    assert runs.load_evaluation(run_id) == table


def test_the_decision_is_stored_in_run_version_and_warehouse(shop: Shop) -> None:
    number, folder = promotion.build()
    decision = promotion.judge(number, folder)
    assert decision.promote, decision.reasons
    assert client().get_model_version(REGISTERED_MODEL, number).tags["decision"] == "promote"
    assert json.loads(_text(shop.run_id, "decision.json"))["promote"]
    assert "mrr_20 above the best baseline" in _text(shop.run_id, "decision.md")

    promotion.reject(number, decision.reasons, "somebody (7)", decision.as_dict())
    with shop.warehouse.connect() as connection:
        row = connection.execute(text("select * from promotions order by promotion_id desc limit 1")).one()
    assert (row.model_version, row.decision, row.approved_by) == (number, "refused", None)
    assert row.reasons[0] == "rejected by somebody (7)"
    assert row.evidence["findings"][0]["kept"]


def test_an_identical_challenger_ties_and_the_champion_stays(
    shop: Shop, reproduced: tuple[str, dict[str, tuple[float, float]]]
) -> None:
    versions.set_aliases("1", None)
    again, _ = reproduced
    number = training.register_run(again)
    built = promotion.build(number)
    for _ in range(2):  # like a retried task
        decision = promotion.judge(*built)
    assert not decision.promote
    assert "a tie, the champion stays" in decision.reasons[0]
    query = text("select bundle_digest from promotions where model_version = :number and decision = 'refused'")
    with shop.warehouse.connect() as connection:
        assert connection.scalars(query, {"number": number}).all() == [built[1].name]
    assert "**Gate: refuse**" in client().get_model_version(REGISTERED_MODEL, number).description
    table = runs.load_evaluation(again)
    for metric in summary.COLUMNS:  # the champion has every metric that `make run` shows
        assert table["champion"][metric] == pytest.approx(table["model"][metric])


def test_without_the_champions_files_only_the_baselines_decide(shop: Shop, tmp_path: Path) -> None:
    next_run = training.train_model()
    assert client().get_run(next_run).data.tags["started_from"] == "1"
    number = training.register_run(next_run)
    champion = versions.version_by_alias(CHAMPION)
    assert champion is not None
    files = _artifacts(champion.run_id)
    shutil.move(files, tmp_path)
    try:
        decision = promotion.judge(*promotion.build(number))
        assert any("not compared with champion version 1" in reason for reason in decision.reasons)
        assert client().get_run(training.train_model()).data.tags["started_from"] == SCRATCH
    finally:
        shutil.move(tmp_path / versions.MODEL_ARTIFACTS, files)


def _run_on(test_start: datetime, started_from: str) -> str:
    """A run without a model, on a snapshot that no longer exists."""
    tags = {
        "snapshot_id": "gone",
        "cutoff": (test_start + timedelta(days=9)).isoformat(),
        "test_start": test_start.isoformat(),
        "started_from": started_from,
    }
    return str(client().create_run(experiment_id(), tags=tags).info.run_id)


def _register_run(run_id: str) -> str:
    created = client().create_model_version(
        REGISTERED_MODEL, f"runs:/{run_id}/model", run_id, tags={"snapshot_id": "gone"}
    )
    return str(created.version)


def test_a_warm_start_inherits_what_its_ancestors_were_trained_on(shop: Shop) -> None:
    late, early = START + timedelta(days=50), START + timedelta(days=20)
    grandparent = _register_run(_run_on(late, SCRATCH))
    parent = _register_run(_run_on(early, grandparent))
    assert trained_until(_run_on(early, parent), settings().snapshots) == late
    assert trained_until(_run_on(early, SCRATCH), settings().snapshots) == early
    own = open_snapshot(settings().snapshots, runs.load_snapshot_id(shop.run_id)).test_start
    assert trained_until(shop.run_id, settings().snapshots) == own


def test_of_a_deleted_ancestor_all_is_taken_as_trained_on_that_it_can_have_seen(shop: Shop) -> None:
    began = datetime.now(UTC).replace(microsecond=0)
    assert trained_until(_run_on(START, "999"), settings().snapshots) >= began


def test_a_version_waits_if_its_test_sessions_were_in_the_champions_training(shop: Shop) -> None:
    champion = _register_run(_run_on(START + timedelta(days=1_000), SCRATCH))
    snapshots = settings().snapshots
    comparison = compare_runs(shop.run_id, shop.run_id, snapshots)
    assert comparison.num_tasks > 0
    assert comparison.num_excluded == 0
    warm = (
        client()
        .create_run(experiment_id(), tags={"snapshot_id": runs.load_snapshot_id(shop.run_id), "started_from": champion})
        .info.run_id
    )
    shutil.copytree(_artifacts(shop.run_id), _artifacts(warm))
    compared = compare_runs(warm, shop.run_id, snapshots)
    assert (compared.num_tasks, compared.num_excluded) == (0, comparison.num_tasks)
    with pytest.raises(InputError, match="was trained on every session"):
        evaluate_run(warm, snapshots)


def _artifacts(run_id: str) -> Path:
    return Path(client().get_run(run_id).info.artifact_uri.removeprefix("file://")) / versions.MODEL_ARTIFACTS


def test_a_further_version_on_the_same_sessions_is_a_further_try(shop: Shop) -> None:
    since, until = START + timedelta(days=900), START + timedelta(days=910)
    first, second, third = (versions.version_by_number(_register_run(_run_on(since, SCRATCH))) for _ in range(3))
    assert runs.count_earlier_tries(first, since, until) == 0
    assert runs.count_earlier_tries(second, since + timedelta(days=1), until) == 1
    assert runs.count_earlier_tries(first, since, until) == 0  # like a retried task
    assert runs.count_earlier_tries(third, until - timedelta(days=1), until + timedelta(days=9)) == 0


def test_a_model_of_a_package_is_trained_evaluated_and_judged_like_the_built_in_one(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECSYS_MODEL", "lstm")
    monkeypatch.setenv("RECSYS_TRAINING_SECONDS", "1")
    settings.cache_clear()
    try:
        run_id = training.train_model()
        table = training.evaluate_run(run_id)
        number, folder = promotion.build(training.register_run(run_id))
        decision = promotion.judge(number, folder)
        with pytest.raises(ConfigurationError, match="RECSYS_MODEL is lstm"):
            training.run_trials(training.start_study("other", minutes=0.12, trial_minutes=0.03))
        with pytest.raises(InputError, match="cannot be reproduced"):
            training.reproduce(run_id)
    finally:
        monkeypatch.undo()
        settings.cache_clear()
        runs.register(shop.run_id)
    run = client().get_run(run_id)
    assert (run.data.params["model"], run.data.params["lstm/width"]) == ("lstm", "128")
    assert table["model"]["mrr_20"] > 0
    assert decision.verdict in ("promote", "wait", "refuse"), decision.reasons
    assert "The model has no purchase intent" in _text(run_id, "evaluation.md")
