"""A snapshot into a registered challenger."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import torch

from recsys_tasks.evaluation.baselines import baseline_ranks
from recsys_tasks.evaluation.gate import PRIMARY
from recsys_tasks.evaluation.metrics import ranking_metrics
from recsys_tasks.evaluation.protocol import TEST, VALIDATION, model_ranks, questions
from recsys_tasks.features.encoding import encode_snapshot, sessions_repeat, snapshot_vocabulary
from recsys_tasks.model.export import export_graphs, verify_graphs
from recsys_tasks.model.files import TrainedModel, load_model, save_model, warm_start
from recsys_tasks.model.network import NetworkConfig, Recommender
from recsys_tasks.model.training import TrainingConfig, build_network, train
from recsys_tasks.names import CHAMPION
from recsys_tasks.registry import runs, versions
from recsys_tasks.registry.tracking import client
from recsys_tasks.settings import settings
from recsys_tasks.steps.featuring import snapshot

log = logging.getLogger(__name__)
_VALIDATION_QUESTIONS = 1_500


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
        shared = warm_start(network, vocabulary, load_run_model(champion.run_id))
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
    table = metrics_table(run_id, run_id, "test")
    runs.log_evaluation(run_id, table)
    return table


def register_run(run_id: str) -> str:
    """Registers a run's model and makes it the challenger; the version's number."""
    return runs.register(run_id).number


def metrics_table(run_id: str, judged_on: str, name: str) -> dict[str, dict[str, float]]:
    """Metrics of a run's model and of the baselines, on the test part of another run's snapshot."""
    source = snapshot(client().get_run(judged_on).data.tags["snapshot_id"])
    model = load_run_model(run_id)
    encoded = encode_snapshot(source, model.vocabulary)
    asked = questions(encoded, TEST)
    table = {name: ranking_metrics(model_ranks(model.network, encoded, asked))}
    skip = not model.network.config.sessions_repeat
    for baseline, ranks in baseline_ranks(encoded, asked, skip).items():
        table[baseline] = ranking_metrics(ranks)
    return table


def load_run_model(run_id: str) -> TrainedModel:
    """The network of a run, with its vocabulary."""
    with versions.run_files(run_id) as folder:
        return load_model(folder)
