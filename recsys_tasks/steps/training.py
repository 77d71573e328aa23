"""A snapshot into a registered challenger."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from recsys_tasks.errors import InputError, OtherModelFormat
from recsys_tasks.evaluation.baselines import FITS
from recsys_tasks.evaluation.calibration import purchase_intents, reliability
from recsys_tasks.evaluation.comparison import Comparison, compare
from recsys_tasks.evaluation.examples import examples
from recsys_tasks.evaluation.gate import PRIMARY, Table
from recsys_tasks.evaluation.metrics import ranking_metrics
from recsys_tasks.evaluation.model_card import model_card
from recsys_tasks.evaluation.plots import draw_coverage, draw_curves, draw_segments
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
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot, encode_snapshot, snapshot_vocabulary
from recsys_tasks.features.snapshot import Snapshot
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.export import export_graphs, verify_graphs
from recsys_tasks.model.files import TrainedModel, load_model, save_model, warm_start
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import NetworkConfig
from recsys_tasks.model.training_loop import Plan, TrainingConfig, TrainingData, TrainingReport, build_network, train
from recsys_tasks.model.windows import freshness, news, training_stops
from recsys_tasks.names import CHAMPION
from recsys_tasks.registry import runs, versions
from recsys_tasks.registry.tracking import client
from recsys_tasks.settings import settings
from recsys_tasks.steps.features import snapshot
from recsys_tasks.training import recipe

log = logging.getLogger(__name__)
SCRATCH = "scratch"
_VALIDATION_QUESTIONS = 1_500
_NOTHING: Mapping[str, str] = {}


def train_model(snapshot_id: str | None = None, from_scratch: bool = False) -> str:
    """Trains on a snapshot, from the champion's weights where there is a champion, unless it is to be from the start;
    the id of the MLflow run."""
    chosen = settings()
    if chosen.training_threads:
        torch.set_num_threads(chosen.training_threads)
    task = _task(snapshot(snapshot_id))
    config = recipe.network_config(task.data, task.vocabulary, history=True, seconds=chosen.training_seconds)
    schedule = recipe.training_config(task.data, task.vocabulary, True, chosen.training_seconds, chosen.seed)
    schedule = replace(schedule, epochs=chosen.training_epochs)
    found = None if from_scratch else _champion()
    if found is None:
        return _fit(task, _fresh_network(config, task, chosen.seed), schedule, SCRATCH)
    champion, model = found
    network = _fresh_network(recipe.in_the_sizes_of(model.network.config, config), task, chosen.seed)
    task = _go_on(task, network, champion, model)
    schedule = replace(schedule, epochs=1, seconds=chosen.incremental_seconds)
    return _fit(task, network, schedule, champion.number)


def _go_on(task: _Task, network: Recommender, version: versions.Version, model: TrainedModel) -> _Task:
    """Gives a network the weights of a version's model; the task, of which mostly what that does not know is read."""
    known = warm_start(network, task.vocabulary, model)
    log.info("Going on from version %s, which knows %d of %d items", version.number, known, len(task.vocabulary))
    try:
        until = snapshot(version.snapshot_id).test_start.timestamp()  # of its test part nothing was learned
    except InputError as error:
        log.warning("All is read alike, as it is not known what version %s knows: %s", version.number, error)
        return task
    timeline, stops = task.data.timeline, task.data.stops
    counts = news(timeline.seconds, until, stops, timeline.user_start[:-1])
    if counts is None:
        return task
    # Windows that end before that are read now and then, and in the others what is new is what is asked for.
    timeline = replace(timeline, weight=(timeline.weight * counts).astype(np.float32))
    return task._replace(data=task.data._replace(timeline=timeline, news=counts))


def reproduce(run_id: str) -> tuple[str, dict[str, tuple[float, float]]]:
    """Does a run's training again: the same snapshot, seeds, threads, start and schedule.

    Returns:
        The new run's id, and for each metric of the evaluation what it was then and what it is now.

    Raises:
        InputError: the run, its snapshot or the version it started from is gone.
    """
    then = runs.training_of(run_id)
    torch.set_num_threads(then["threads"])
    task = _task(snapshot(client().get_run(run_id).data.tags["snapshot_id"]))
    schedule = TrainingConfig(**then["schedule"], plan=Plan(**then["plan"]))
    network = _fresh_network(load_run_model(run_id).network.config, task, schedule.seed)
    if then["started_from"] != SCRATCH:
        started_from = versions.version_by_number(then["started_from"])
        task = _go_on(task, network, started_from, load_run_model(started_from.run_id))
    again = _fit(task, network, schedule, then["started_from"], {"reproduces": run_id})
    before, now = runs.evaluation_of(run_id)["test"], evaluate_run(again)["test"]
    return again, {metric: (before[metric], now[metric]) for metric in before}


class _Task(NamedTuple):
    """A snapshot as training takes it."""

    source: Snapshot
    encoded: EncodedSnapshot
    vocabulary: Vocabulary
    data: TrainingData


def _task(source: Snapshot) -> _Task:
    vocabulary = snapshot_vocabulary(source)
    encoded = encode_snapshot(source, vocabulary)
    return _Task(source, encoded, vocabulary, _training_data(encoded))


def _fresh_network(config: NetworkConfig, task: _Task, seed: int) -> Recommender:
    torch.manual_seed(seed)
    return build_network(config, task.vocabulary)


def _fit(
    task: _Task, network: Recommender, schedule: TrainingConfig, started_from: str, tags: Mapping[str, str] = _NOTHING
) -> str:
    """Trains a network as a run of its own, which gets the figures and the model; the run's id."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parameters = {
        **_without_plan(schedule),
        **{f"network_{name}": value for name, value in asdict(network.config).items()},
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    asked = questions(task.encoded, VALIDATION, _VALIDATION_QUESTIONS)

    def measure(trained: Recommender) -> float:
        return ranking_metrics(model_ranks(trained, task.encoded.timeline, asked))[PRIMARY]

    with runs.start_run(task.source, parameters, {"started_from": started_from, **tags}) as run_id:
        found = train(
            network.to(device),
            task.data,
            schedule,
            measure,
            lambda epoch, figures: runs.log_epoch(run_id, epoch, figures),
            settings().home / "checkpoints" / f"{task.source.snapshot_id}-{started_from}.pt",
        )
        _log_training(run_id, found, schedule, started_from)
        with tempfile.TemporaryDirectory() as folder:
            save_model(TrainedModel(network.cpu(), task.vocabulary), Path(folder))
            export_graphs(network, Path(folder))
            verify_graphs(network, Path(folder))
            runs.log_model(run_id, Path(folder))
    return run_id


def _without_plan(schedule: TrainingConfig) -> dict[str, Any]:
    """What a schedule was set to, not what an earlier training decided by the clock."""
    return {name: value for name, value in asdict(schedule).items() if name != "plan"}


def _log_training(run_id: str, found: TrainingReport, schedule: TrainingConfig, started_from: str) -> None:
    figures = {name: float(getattr(found, name)) for name in ("best_epoch", "steps", "tokens_per_second")}
    again = {
        "schedule": _without_plan(schedule),
        "plan": asdict(found.plan),
        "stopped_by": found.stopped_by,
        "started_from": started_from,
        "threads": torch.get_num_threads(),
    }
    runs.log_training(run_id, figures, again)


def _champion() -> tuple[versions.Version, TrainedModel] | None:
    """The champion and its model, if there is one that this version of the package can go on from."""
    champion = versions.version_by_alias(CHAMPION)
    if champion is None:
        return None
    try:
        return champion, load_run_model(champion.run_id)
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
    _log_story(run_id, model, encoded, found)
    return found.table


def _log_story(run_id: str, model: TrainedModel, encoded: EncodedSnapshot, found: Report) -> None:
    """Adds pictures, examples and the model card to a run."""
    run = client().get_run(run_id)
    source = snapshot(run.data.tags["snapshot_id"])
    scorer, skip = model_scorer(model.network, encoded.timeline), not model.network.config.sessions_repeat
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_curves(runs.epochs_of(run_id), folder / "curves.png")
        draw_segments(found, folder / "segments.png")
        draw_coverage(found, folder / "coverage.png")
        shown = examples(scorer, encoded, questions(encoded, TEST), skip)
        (folder / "examples.md").write_text(shown, encoding="utf-8")
        card = model_card(run_id, source, found, run.data.params)
        (folder / "model_card.md").write_text(card, encoding="utf-8")
        runs.log_files(run_id, folder)


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
