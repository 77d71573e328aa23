"""The steps of the loop, as the DAGs and the command line call them: settings in, small references out."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

import torch

from recsys_tasks.errors import ConfigurationError, InputError
from recsys_tasks.evaluation.baselines import BASELINES, baseline_ranks
from recsys_tasks.evaluation.gate import PRIMARY, Decision, decide
from recsys_tasks.evaluation.metrics import ranking_metrics
from recsys_tasks.evaluation.protocol import TEST, VALIDATION, model_ranks, questions
from recsys_tasks.features.encoding import encode_snapshot, sessions_repeat, snapshot_vocabulary
from recsys_tasks.features.snapshot import (
    Snapshot,
    SnapshotParameters,
    build_snapshot,
    latest_snapshot_id,
    open_snapshot,
)
from recsys_tasks.feedback import Portion, advance, fetch
from recsys_tasks.ingestion import land, load, read_source
from recsys_tasks.ingestion.batch import Interval
from recsys_tasks.ingestion.load import LoadReport
from recsys_tasks.model.export import export_graphs, verify_graphs
from recsys_tasks.model.files import TrainedModel, save_model, warm_start
from recsys_tasks.model.network import NetworkConfig, Recommender
from recsys_tasks.model.training import TrainingConfig, build_network, train
from recsys_tasks.names import CHALLENGER, CHAMPION, FEEDBACK_SOURCE
from recsys_tasks.promotion.build import build_bundle
from recsys_tasks.promotion.push import push, roll_back
from recsys_tasks.registry import runs, versions
from recsys_tasks.registry.tracking import client
from recsys_tasks.settings import settings
from recsys_tasks.validation import ValidationReport, validate
from recsys_tasks.warehouse import engine, statement

log = logging.getLogger(__name__)
_VALIDATION_QUESTIONS = 1_500


# Ingestion


def land_source(source: str, paths: Sequence[str] = (), interval: Interval | None = None) -> list[str]:
    """Lands what a source has; ids of the batches."""
    return land(engine(), read_source(source, [Path(path) for path in paths], interval))


def validate_batches(batch_ids: Sequence[str], max_bad_share: float | None = None) -> list[ValidationReport]:
    """Validates landed batches; raises `BatchRejected` at the first that is bad as a whole."""
    share = settings().max_bad_share if max_bad_share is None else max_bad_share
    return [
        validate(
            engine(),
            batch_id,
            settings().validation_home,
            max_bad_share=share,
            data_docs_url=settings().data_docs_url,
        )
        for batch_id in batch_ids
    ]


def load_batches(batch_ids: Sequence[str]) -> list[LoadReport]:
    """Loads validated batches."""
    return [load(engine(), batch_id) for batch_id in batch_ids]


def fetch_feedback() -> list[Portion]:
    """Fetches what is new in the endpoints' journals."""
    return fetch(engine(), settings().endpoint_urls, _admin_token(), settings().home / "landing" / "feedback")


def load_feedback(portions: Sequence[Portion]) -> list[LoadReport]:
    """Lands, validates and loads fetched portions, then moves the cursors behind them.

    Bad rows are quarantined however many they are: one caller's mistakes must not stop everybody's feedback.
    """
    batch_ids = land_source(FEEDBACK_SOURCE, [portion.path for portion in portions])
    validate_batches(batch_ids, max_bad_share=1.0)
    reports = load_batches(batch_ids)
    advance(engine(), portions)
    return reports


# Features


def build_features(cutoff: datetime | None = None) -> Snapshot:
    """Builds the snapshot as of `cutoff`, or of everything there is."""
    chosen = settings()
    parameters = SnapshotParameters(chosen.validation_share, chosen.test_share, chosen.min_item_events)
    return build_snapshot(engine(), chosen.snapshots, parameters, cutoff)


def snapshot(snapshot_id: str | None = None) -> Snapshot:
    """The snapshot of that id, or the latest."""
    return open_snapshot(settings().snapshots, snapshot_id or latest_snapshot_id(engine()))


# Training


def train_model(snapshot_id: str | None = None) -> str:
    """Trains on a snapshot, from the champion's weights where there is a champion; the id of the MLflow run."""
    chosen, source = settings(), snapshot(snapshot_id)
    if chosen.training_threads:
        torch.set_num_threads(chosen.training_threads)
    vocabulary = snapshot_vocabulary(source)
    encoded = encode_snapshot(source, vocabulary)
    sizes = vocabulary.categories()[1]
    torch.manual_seed(chosen.seed)
    network = build_network(
        NetworkConfig(len(vocabulary), category_sizes=sizes, sessions_repeat=sessions_repeat(encoded)), vocabulary
    )
    config = TrainingConfig(epochs=chosen.training_epochs, seconds=chosen.training_seconds, seed=chosen.seed)
    champion = versions.version_by_alias(CHAMPION)
    if champion is not None:
        shared = warm_start(network, vocabulary, versions.load_run_model(champion.run_id))
        # It goes on from a good place: a small rate keeps what the champion knows.
        config = replace(config, epochs=1, seconds=chosen.incremental_seconds, rate=config.rate / 6)
        log.info(
            "Going on from champion version %s, which knows %d of %d items", champion.number, shared, len(vocabulary)
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parameters = {
        **asdict(config),
        **{f"network_{name}": value for name, value in asdict(network.config).items()},
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    tags = {"started_from": champion.number if champion else "scratch"}
    run_id = runs.start_run(source, parameters, tags)
    try:
        asked = questions(encoded, VALIDATION, _VALIDATION_QUESTIONS)

        def measure(trained: Recommender) -> float:
            return ranking_metrics(model_ranks(trained, encoded, asked))[PRIMARY]

        report = train(
            network.to(device),
            encoded.timeline,
            encoded.split,
            vocabulary,
            config,
            measure,
            lambda epoch, figures: runs.log_epoch(run_id, epoch, figures),
        )
        runs.log_epoch(run_id, report.best_epoch, {"tokens_per_second": report.tokens_per_second})
        with tempfile.TemporaryDirectory() as folder:
            save_model(TrainedModel(network.cpu(), vocabulary), Path(folder))
            export_graphs(network, Path(folder))
            verify_graphs(network, Path(folder))
            runs.log_model(run_id, Path(folder))
    except BaseException:
        runs.finish_run(run_id, "FAILED")
        raise
    runs.finish_run(run_id, "FINISHED")
    return run_id


def evaluate_run(run_id: str) -> dict[str, dict[str, float]]:
    """Metrics of a run's model and of the baselines on the test part of its snapshot, also logged to the run."""
    table = _model_table(run_id, run_id, "test")
    runs.log_evaluation(run_id, table)
    return table


def register_run(run_id: str) -> str:
    """Registers a run's model and makes it the challenger; the version's number."""
    return runs.register(run_id).number


def _model_table(run_id: str, judged_on: str, name: str) -> dict[str, dict[str, float]]:
    """Metrics of a run's model and of the baselines, on the test part of another run's snapshot."""
    source = snapshot(client().get_run(judged_on).data.tags["snapshot_id"])
    model = versions.load_run_model(run_id)
    encoded = encode_snapshot(source, model.vocabulary)
    asked = questions(encoded, TEST)
    table = {name: ranking_metrics(model_ranks(model.network, encoded, asked))}
    skip = not model.network.config.sessions_repeat
    for baseline, ranks in baseline_ranks(encoded, asked, skip).items():
        table[baseline] = ranking_metrics(ranks)
    return table


# Promotion


def judge(number: str | None = None) -> tuple[str, Decision]:
    """The gate's decision about a version (by default the challenger), recorded in MLflow.

    A refusal is recorded in the warehouse too.

    Raises:
        InputError: there is no challenger.
    """
    version = versions.version_by_number(number) if number else versions.version_by_alias(CHALLENGER)
    if version is None:
        raise InputError("There is no challenger; train a model first")
    table = runs.evaluation_of(version.run_id) or evaluate_run(version.run_id)
    champion = versions.version_by_alias(CHAMPION)
    rival = champion is not None and champion.number != version.number
    if champion is not None and rival:
        table["champion"] = _model_table(champion.run_id, version.run_id, "champion")["champion"]
        runs.log_evaluation(version.run_id, {"champion": table["champion"]})
    decision = decide(table, BASELINES, "champion" if rival else None, settings().champion_margin)
    runs.tag_decision(version, "promote" if decision.promote else "refuse", decision.reasons)
    if not decision.promote:
        _record(version, "refused", decision.reasons)
    for reason in decision.reasons:
        log.info("Version %s: %s", version.number, reason)
    return version.number, decision


def bundle(number: str) -> Path:
    """Builds the bundle of a version; its folder."""
    version = versions.version_by_number(number)
    return build_bundle(version, snapshot(version.snapshot_id), settings().home / "bundles")


def activate(number: str, folder: Path, reasons: Sequence[str] = ()) -> None:
    """Pushes a version's bundle to every endpoint and, once all serve it, makes it the champion."""
    version = versions.version_by_number(number)
    try:
        push(folder, settings().endpoint_urls, _admin_token())
    except Exception as error:
        _record(version, "failed", [str(error)], folder.name)
        raise
    versions.move_champion(version)
    with engine().connect() as connection:
        latest = connection.execute(statement("promotion/latest")).one_or_none()
    if latest is None or (latest.model_version, latest.bundle_digest) != (version.number, folder.name):
        _record(version, "promoted", reasons, folder.name)


def rollback() -> str:
    """Puts the previous model back on every endpoint, and the alias with it; the version that serves now."""
    number = roll_back(settings().endpoint_urls, _admin_token())
    version = versions.version_by_number(number)
    versions.move_champion(version)
    _record(version, "rolled_back", ["asked for by hand"])
    return number


def _record(version: versions.Version, decision: str, reasons: Sequence[str], digest: str | None = None) -> None:
    with engine().begin() as connection:
        connection.execute(
            statement("promotion/record"),
            {
                "model_version": version.number,
                "run_id": version.run_id,
                "snapshot_id": version.snapshot_id,
                "bundle_digest": digest,
                "decision": decision,
                "reasons": json.dumps(list(reasons)),
            },
        )


def _admin_token() -> str:
    token = settings().admin_token
    if token is None:
        raise ConfigurationError("RECSYS_ADMIN_TOKEN is not set; it must be the same as the endpoint's")
    return token.get_secret_value()


# The state of the loop


def status() -> dict[str, object]:
    """Counts of events, items, users and quarantine, the last snapshot, the champion, the feedback lag."""
    with engine().connect() as connection:
        row = connection.execute(statement("reports/status")).one()
    lag = row.feedback_lag_seconds
    return {**row._asdict(), "feedback_lag_seconds": None if lag is None else round(float(lag), 1)}
