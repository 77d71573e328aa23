"""One training as an MLflow run: from scratch or from the champion's weights, and reproduced from what was logged."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys_tasks.errors import InputError, OtherModelFormat
from recsys_tasks.evaluation.gate import PRIMARY
from recsys_tasks.evaluation.metrics import ranking_metrics
from recsys_tasks.evaluation.protocol import VALIDATION, model_ranks, questions
from recsys_tasks.features.snapshot import Snapshot, open_snapshot
from recsys_tasks.model.export import export_graphs, verify_graphs
from recsys_tasks.model.files import TrainedModel, save_model, warm_start
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import NetworkConfig
from recsys_tasks.model.training_loop import Plan, TrainingConfig, TrainingReport, build_network, train
from recsys_tasks.model.windows import news
from recsys_tasks.names import CHAMPION
from recsys_tasks.registry import runs, versions
from recsys_tasks.training import recipe
from recsys_tasks.training.evaluation import evaluate_run, load_run_model
from recsys_tasks.training.task import TrainingTask, read_task

log = logging.getLogger(__name__)
SCRATCH = "scratch"
_VALIDATION_QUESTIONS = 1_500
_NO_TAGS: Mapping[str, str] = {}


@dataclass(frozen=True)
class TrainingOptions:
    """What a deployment decides about a training; the rest follows from the data (`training.recipe`).

    Attributes:
        seconds: time budget of a training from scratch.
        warm_start_seconds: time budget of a training that starts from the champion's weights.
        max_epochs: passes over the training events, at most.
        threads: CPU threads; 0 leaves the choice to PyTorch.
        seed: of every random number.
        checkpoints: folder of the checkpoints that an interrupted training resumes from.
    """

    seconds: float
    warm_start_seconds: float
    max_epochs: int
    threads: int
    seed: int
    checkpoints: Path


def train_run(snapshot: Snapshot, snapshots: Path, options: TrainingOptions, from_scratch: bool = False) -> str:
    """Trains on a snapshot as an MLflow run of its own: from the champion's weights where there is a usable champion.

    Args:
        snapshot: what to learn from.
        snapshots: folder of snapshots, where the champion's own is looked up.
        options: time budgets, seed and threads.
        from_scratch: whether to ignore the champion.

    Returns:
        The id of the run.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    task = read_task(snapshot)
    config = recipe.network_config(task.data, task.vocabulary, history=True, seconds=options.seconds)
    schedule = recipe.training_config(task.data, task.vocabulary, True, options.seconds, options.seed)
    schedule = replace(schedule, epochs=options.max_epochs)
    found = None if from_scratch else _load_champion()
    if found is None:
        return _fit(task, _new_network(config, task, options.seed), schedule, SCRATCH, options.checkpoints)
    champion, model = found
    network = _new_network(recipe.in_the_sizes_of(model.network.config, config), task, options.seed)
    task = _warm_start(task, network, champion, model, snapshots)
    schedule = replace(schedule, epochs=1, seconds=options.warm_start_seconds)
    return _fit(task, network, schedule, champion.number, options.checkpoints)


def reproduce_run(run_id: str, snapshots: Path, checkpoints: Path) -> tuple[str, dict[str, tuple[float, float]]]:
    """Does a run's training again: the same snapshot, seeds, threads, start and schedule.

    Returns:
        The new run's id, and for each metric of the evaluation what it was then and what it is now.

    Raises:
        InputError: the run, its snapshot or the version it started from is gone.
    """
    then = runs.training_of(run_id)
    torch.set_num_threads(then["threads"])
    task = read_task(open_snapshot(snapshots, runs.snapshot_of(run_id)))
    schedule = TrainingConfig(**then["schedule"], plan=Plan(**then["plan"]))
    network = _new_network(load_run_model(run_id).network.config, task, schedule.seed)
    if then["started_from"] != SCRATCH:
        started_from = versions.version_by_number(then["started_from"])
        task = _warm_start(task, network, started_from, load_run_model(started_from.run_id), snapshots)
    again = _fit(task, network, schedule, then["started_from"], checkpoints, {"reproduces": run_id})
    before, now = runs.evaluation_of(run_id)["test"], evaluate_run(again, snapshots)["test"]
    return again, {metric: (before[metric], now[metric]) for metric in before}


def _warm_start(
    task: TrainingTask, network: Recommender, version: versions.Version, model: TrainedModel, snapshots: Path
) -> TrainingTask:
    """Gives a network the weights of a version's model; the task, of which mostly what that does not know is read."""
    known = warm_start(network, task.vocabulary, model)
    log.info("Going on from version %s, which knows %d of %d items", version.number, known, len(task.vocabulary))
    try:
        until = open_snapshot(
            snapshots, version.snapshot_id
        ).test_start.timestamp()  # of its test part nothing was learned
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


def _new_network(config: NetworkConfig, task: TrainingTask, seed: int) -> Recommender:
    torch.manual_seed(seed)
    return build_network(config, task.vocabulary)


def _fit(
    task: TrainingTask,
    network: Recommender,
    schedule: TrainingConfig,
    started_from: str,
    checkpoints: Path,
    tags: Mapping[str, str] = _NO_TAGS,
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

    with runs.start_run(task.snapshot, parameters, {"started_from": started_from, **tags}) as run_id:
        found = train(
            network.to(device),
            task.data,
            schedule,
            measure,
            lambda epoch, figures: runs.log_epoch(run_id, epoch, figures),
            checkpoints / f"{task.snapshot.snapshot_id}-{started_from}.pt",
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


def _load_champion() -> tuple[versions.Version, TrainedModel] | None:
    """The champion and its model, if there is one that this version of the package can go on from."""
    champion = versions.version_by_alias(CHAMPION)
    if champion is None:
        return None
    try:
        return champion, load_run_model(champion.run_id)
    except (OtherModelFormat, InputError) as error:
        log.warning("Training from scratch, not from champion version %s: %s", champion.number, error)
        return None
