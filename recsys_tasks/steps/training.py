"""A snapshot into a registered challenger."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import torch

from recsys_tasks.errors import InputError, OtherModelFormat
from recsys_tasks.evaluation.baselines import FITS
from recsys_tasks.evaluation.calibration import purchase_intents, reliability
from recsys_tasks.evaluation.comparison import Comparison, compare
from recsys_tasks.evaluation.gate import PRIMARY, Table
from recsys_tasks.evaluation.metrics import ranking_metrics
from recsys_tasks.evaluation.protocol import (
    TEST,
    TRAINING,
    VALIDATION,
    Answers,
    Questions,
    answer,
    model_ranks,
    model_scorer,
    moments,
    questions,
)
from recsys_tasks.evaluation.report import Report, report
from recsys_tasks.evaluation.segments import segments
from recsys_tasks.features.encoding import EncodedSnapshot, encode_snapshot, snapshot_vocabulary
from recsys_tasks.model import recipe
from recsys_tasks.model.export import export_graphs, verify_graphs
from recsys_tasks.model.files import TrainedModel, load_model, save_model, warm_start
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.training import TrainingData, build_network, train
from recsys_tasks.model.windows import freshness, training_stops
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
    data = _training_data(encoded)
    torch.manual_seed(chosen.seed)
    config = recipe.network_config(data, vocabulary, history=True, seconds=chosen.training_seconds)
    schedule = recipe.training_config(data, vocabulary, chosen.training_seconds, chosen.seed)
    schedule = replace(schedule, epochs=chosen.training_epochs)
    found = _champion()
    if found is None:
        started_from, network = "scratch", build_network(config, vocabulary)
    else:
        started_from, champion = found
        network = build_network(recipe.in_the_sizes_of(champion.network.config, config), vocabulary)
        shared = warm_start(network, vocabulary, champion)
        # It goes on from a good place: a small rate keeps what the champion knows.
        schedule = replace(schedule, epochs=1, seconds=chosen.incremental_seconds, rate=schedule.rate / 4)
        known = f"{shared} of {len(vocabulary)} items"
        log.info("Going on from champion version %s, which knows %s", started_from, known)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parameters = {
        **asdict(schedule),
        **{f"network_{name}": value for name, value in asdict(network.config).items()},
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    run_id = runs.start_run(source, parameters, {"started_from": started_from})
    try:
        asked = questions(encoded, VALIDATION, _VALIDATION_QUESTIONS)

        def measure(trained: Recommender) -> float:
            return ranking_metrics(model_ranks(trained, encoded.timeline, asked))[PRIMARY]

        report = train(
            network.to(device),
            data,
            schedule,
            measure,
            lambda epoch, figures: runs.log_epoch(run_id, epoch, figures),
            chosen.home / "checkpoints" / f"{source.snapshot_id}-{started_from}.pt",
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


def _champion() -> tuple[str, TrainedModel] | None:
    """The champion's number and its model, if there is one that this version of the package can go on from."""
    champion = versions.version_by_alias(CHAMPION)
    if champion is None:
        return None
    try:
        return champion.number, load_run_model(champion.run_id)
    except (OtherModelFormat, InputError) as error:
        log.warning("Training from scratch, not from champion version %s: %s", champion.number, error)
        return None


def evaluate_run(run_id: str) -> Table:
    """Metrics of a run's model and of the baselines on the test part of its snapshot, also logged to the run."""
    model, encoded = _judged(run_id, run_id)
    found = _report(model, encoded)
    runs.log_evaluation(run_id, found.table)
    runs.log_report(run_id, found.as_dict(), found.as_markdown())
    _log_calibration(run_id, model, encoded)
    return found.table


def compare_runs(run_id: str, rival_id: str, confidence: float) -> Comparison:
    """A run's model against another's on the test part of the first one's snapshot.

    Raises:
        OtherModelFormat: a model is of another version of this package.
        InputError: a model was deleted.
    """
    (model, encoded), (rival, by_rival) = _judged(run_id, run_id), _judged(rival_id, run_id)
    asked = questions(encoded, TEST)
    timeline = encoded.timeline
    return compare(
        _answers(model, encoded, asked),
        _answers(rival, by_rival, asked),
        timeline.user[asked.first],
        segments(timeline, asked),
        encoded.vocabulary.all_counts(),
        by_rival.vocabulary.all_counts(),
        confidence,
    )


def _answers(model: TrainedModel, encoded: EncodedSnapshot, asked: Questions) -> Answers:
    scorer = model_scorer(model.network, encoded.timeline)
    return answer(scorer, encoded.timeline, asked, skip_session=not model.network.config.sessions_repeat)


def _report(model: TrainedModel, encoded: EncodedSnapshot) -> Report:
    data = _training_data(encoded)
    scorers = {"test": model_scorer(model.network, encoded.timeline)}
    scorers |= {baseline: fit(data) for baseline, fit in FITS.items()}
    return report(scorers, data, questions(encoded, TEST), skip_session=not model.network.config.sessions_repeat)


def _log_calibration(run_id: str, model: TrainedModel, encoded: EncodedSnapshot) -> None:
    """Compares the purchase intent of the run's model, at some moment of each test session, with what followed."""
    asked = moments(encoded, TEST)
    came = encoded.timeline.buys[asked.target]
    found = reliability(purchase_intents(model.network, encoded.timeline, asked), came)
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "calibration.png"
        found.draw(picture)
        runs.log_calibration(run_id, found.as_dict(), picture)


def register_run(run_id: str) -> str:
    """Registers a run's model and makes it the challenger; the version's number."""
    return runs.register(run_id).number


def _judged(run_id: str, judged_on: str) -> tuple[TrainedModel, EncodedSnapshot]:
    """A run's model, and another run's snapshot in its numbers."""
    model = load_run_model(run_id)
    source = snapshot(client().get_run(judged_on).data.tags["snapshot_id"])
    return model, encode_snapshot(source, model.vocabulary)


def _training_data(encoded: EncodedSnapshot) -> TrainingData:
    timeline = encoded.timeline
    stops, final_stops = (training_stops(timeline, encoded.split, last) for last in (TRAINING, VALIDATION))
    fresh = freshness(timeline.seconds, final_stops, timeline.user_start[:-1])
    return TrainingData(timeline, encoded.vocabulary.all_counts(), stops, final_stops, fresh)


def load_run_model(run_id: str) -> TrainedModel:
    """The network of a run, with its vocabulary."""
    with versions.run_files(run_id) as folder:
        return load_model(folder)
