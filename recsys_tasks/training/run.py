"""Training as an MLflow run: from scratch, from the champion's weights, or as a reproduction of an earlier run."""

from __future__ import annotations

import copy
import io
import logging
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys_tasks.engine.purchase_intent import PurchaseIntent
from recsys_tasks.errors import ConfigurationError, IncompatibleModelFormat, InputError, NotEnoughData, UnavailableError
from recsys_tasks.evaluation.gate import PRIMARY_METRIC
from recsys_tasks.evaluation.metrics import ranking_metrics
from recsys_tasks.evaluation.protocol import VALIDATION, PredictionTasks, model_ranks, select_prediction_tasks
from recsys_tasks.features.serving_data import catalog_columns
from recsys_tasks.features.snapshot import Snapshot, open_snapshot
from recsys_tasks.features.text_encoder import TextEncoder
from recsys_tasks.model import distributed
from recsys_tasks.model.export import export_graphs, verify_graphs
from recsys_tasks.model.files import PLUGIN_MODEL, TrainedModel, save_model, warm_start
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import ComponentWeights, NetworkConfig
from recsys_tasks.model.training_loop import TrainingConfig, TrainingPlan, TrainingReport, build_network, train
from recsys_tasks.model.vector_model import export_vector_model
from recsys_tasks.model.windows import replay_weights
from recsys_tasks.names import CHAMPION, TRANSFORMER
from recsys_tasks.registry import runs, versions
from recsys_tasks.storage.folder import Folder, StoredFile
from recsys_tasks.training import recipe
from recsys_tasks.training.component_weights import (
    apply_component_weights,
    apply_discovery_weight,
    choose_component_weights,
)
from recsys_tasks.training.evaluation import evaluate_run, load_run_model
from recsys_tasks.training.hyperparameters import ALL_FROM_DATA, Hyperparameters, format_recipe
from recsys_tasks.training.lineage import SCRATCH
from recsys_tasks.training.models import ModelFitter, ModelInput, load_model_fitter
from recsys_tasks.training.purchase_intent import fit_purchase_intent
from recsys_tasks.training.second_stage import MIN_QUESTIONS, FittedStage, fit_second_stage, import_lightgbm
from recsys_tasks.training.task import TrainingTask, read_task
from recsys_tasks.training.tuning import TuningTask, without_validation_events

log = logging.getLogger(__name__)
_PYTORCH_THREADS = torch.get_num_threads()  # the cores this process may use; read before a training changes it
_NO_SESSIONS = "too few sessions to train on"
_CONTENT_ONLY = "not trained (--content-only): item vectors come from content, biases from popularity"
_VALIDATION_QUESTIONS = 1_500
_MAX_STAGE_QUESTIONS = 5_000
_NO_STAGE = FittedStage(b"", "none")
_NO_TAGS: Mapping[str, str] = {}


@dataclass(frozen=True)
class TrainingOptions:
    """Settings of a training that depend on the deployment; the rest follows from the data (`training.recipe`).

    Attributes:
        seconds: time budget of a training from scratch.
        warm_start_seconds: time budget of a training that starts from the champion's weights.
        max_epochs: maximum number of passes over the training events.
        threads: CPU threads; 0 for all cores but one.
        seed: of all randomness.
        checkpoints: folder of the states of trainings, from which an interrupted one resumes.
        encoder: of the items' texts; None for none.
        text_cache: folder of text vectors.
        hyperparameters: those that a person has set.
        model: name of the model, see `training.models`.
        second_stage: whether to fit a second stage of ranking.
    """

    seconds: float
    warm_start_seconds: float
    max_epochs: int
    threads: int
    seed: int
    checkpoints: Folder
    encoder: TextEncoder | None = None
    text_cache: Folder | None = None
    hyperparameters: Hyperparameters = ALL_FROM_DATA
    model: str = TRANSFORMER
    second_stage: bool = True


def train_run(
    snapshot: Snapshot,
    snapshots: Folder,
    options: TrainingOptions,
    from_scratch: bool = False,
    tags: Mapping[str, str] = _NO_TAGS,
    content_only: bool = False,
) -> str:
    """Trains on a snapshot as a new MLflow run; starts from the champion's weights if there is a usable champion.

    Where there are too few sessions to train on, the run's model only places the items by their content.

    Args:
        snapshot: training data.
        snapshots: folder of snapshots, which contains the champion's.
        options: time budgets, seed and threads.
        from_scratch: whether to ignore the champion.
        tags: of the run.
        content_only: whether to train nothing, so that items are placed by their content and popularity.

    Returns:
        The run id.

    Raises:
        ConfigurationError: there is no model of that name, or its package cannot be imported.
        InvariantError: the arrays or the graphs of a plugin model are invalid.
        NotEnoughData: there is no event to train on.
    """
    use_threads(options)
    if options.model != TRANSFORMER and not content_only:
        if distributed.is_started_by_torchrun():
            raise ConfigurationError(f"The model {options.model} trains in one process. Start it without torchrun")
        fit = load_model_fitter(options.model)
        if snapshot.has_held_out_sessions:
            return _fit_plugin_model(fit, snapshot, options, tags)
        log.info("%s, so that items are placed by their content: %s", _NO_SESSIONS, snapshot.snapshot_id)
    task = _read_task(snapshot, options.encoder, options.text_cache)
    given = options.hyperparameters
    config, schedule = configurations(task, options)
    if content_only:
        config = replace(config, is_trained=False)
    loaded = None if from_scratch or not config.is_trained else _load_common_champion()
    if loaded is not None:
        champion, model = loaded
        trained_sizes = recipe.with_trained_sizes(model.network.config, config)
        if given.apply_to_network(trained_sizes) == trained_sizes:
            network = _new_network(trained_sizes, task, options.seed)
            task = _warm_start(task, network, champion, model, snapshots)
            schedule = replace(schedule, epochs=1, seconds=options.warm_start_seconds, keep_best=True)
            return _fit(
                task,
                network,
                schedule,
                champion.number,
                options.checkpoints,
                given,
                tags,
                options.second_stage,
                _inherit_stage(champion, model),
            )
        log.info("The recipe has other sizes than version %s: trained from scratch", champion.number)
    network = _new_network(config, task, options.seed)
    return _fit(task, network, schedule, SCRATCH, options.checkpoints, given, tags, options.second_stage)


def _fit_plugin_model(fit: ModelFitter, snapshot: Snapshot, options: TrainingOptions, tags: Mapping[str, str]) -> str:
    """Fits a plugin model as a new MLflow run; returns the run id."""
    task = read_task(snapshot)
    parameters = {PLUGIN_MODEL: options.model, "seed": options.seed, "seconds": options.seconds, "is_trained": True}
    with runs.start_run(snapshot, parameters, {"started_from": SCRATCH, **tags}) as run_id:
        model = fit(ModelInput(task.data, task.vocabulary, options.seconds, options.seed))
        runs.log_parameters(run_id, {f"{options.model}/{name}": value for name, value in model.parameters.items()})
        with tempfile.TemporaryDirectory() as folder:
            repeat = recipe.sessions_repeat(task.data)
            export_vector_model(options.model, model, task.vocabulary, repeat, Path(folder))
            runs.log_model(run_id, Path(folder))
    return run_id


def use_threads(options: TrainingOptions) -> None:
    """Sets the CPU threads of PyTorch.

    By default all cores but one, for the processes beside the training: a thread that waits for a core stops all
    others. Processes of one training share the cores.
    """
    # `torchrun` sets OMP_NUM_THREADS to 1.
    cores = len(os.sched_getaffinity(0)) if distributed.is_started_by_torchrun() else _PYTORCH_THREADS
    default = (cores - 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(options.threads or max(1, default))


def configurations(task: TrainingTask, options: TrainingOptions) -> tuple[NetworkConfig, TrainingConfig]:
    """Returns the configurations of a training from scratch: the recipe's, with the hyperparameters that are set."""
    text_dim = 0 if task.text is None else task.text.shape[1]
    config = recipe.network_config(task.data, task.vocabulary, True, options.seconds, text_dim)
    spaces = {} if task.spaces is None else task.spaces.dims
    config = replace(config, vector_spaces=spaces, is_trained=task.snapshot.has_held_out_sessions)
    schedule = recipe.training_config(task.data, task.vocabulary, True, options.seconds, options.seed)
    given = options.hyperparameters
    return given.apply_to_network(config), given.apply_to_training(replace(schedule, epochs=options.max_epochs))


def tuning_task(snapshot: Snapshot, options: TrainingOptions) -> TuningTask:
    """Returns the task of a study's trials on a snapshot.

    Raises:
        ConfigurationError: a plugin model is set.
        NotEnoughData: the snapshot has too few sessions to train on.
    """
    if options.model != TRANSFORMER:
        raise ConfigurationError(
            f"Only the {TRANSFORMER} can be tuned, and RECSYS_MODEL is {options.model}. Unset it for this command"
        )
    if not snapshot.has_held_out_sessions:
        raise NotEnoughData(
            f"Snapshot {snapshot.snapshot_id} has {_NO_SESSIONS}. Ingest more days and build a new snapshot"
        )
    task = _read_task(snapshot, options.encoder, options.text_cache)
    config, schedule = configurations(task, options)
    return TuningTask(
        without_validation_events(task.data),
        config,
        schedule,
        options.hyperparameters,
        lambda changed: _new_network(changed, task, options.seed),
        _validation_metric(task, select_prediction_tasks(task.encoded, VALIDATION, _VALIDATION_QUESTIONS)),
    )


def reproduce_run(
    run_id: str,
    snapshots: Folder,
    checkpoints: Folder,
    encoder: TextEncoder | None = None,
    text_cache: Folder | None = None,
) -> tuple[str, dict[str, tuple[float, float]]]:
    """Retrains a run from its snapshot, seed, threads, initial weights and schedule.

    Returns:
        The new run id, and for each evaluation metric the original and the new value.

    Raises:
        ConfigurationError: the run was trained on another device.
        InputError: the run was not trained, or the run, its snapshot or the version it started from no longer exists.
        IncompatibleModelFormat: the run was trained by another version of this package.
    """
    original = runs.load_training_record(run_id)
    if original.get("processes", 1) > 1:
        raise InputError(
            f"Run {run_id} was trained in {original['processes']} processes and cannot be reproduced in one"
        )
    device = torch.device(runs.load_parameters(run_id).get("device", "cpu")).type
    if device != distributed.training_device().type:
        raise ConfigurationError(
            f"Run {run_id} was trained on the device {device!r}, which rounds differently. "
            f"Set RECSYS_TRAINING_DEVICE={device}"
        )
    torch.set_num_threads(original["threads"])
    task = _read_task(open_snapshot(snapshots, runs.load_snapshot_id(run_id)), encoder, text_cache)
    config = load_run_model(run_id).network.config  # before the schedule: checks the format of the run
    if not config.is_trained:
        raise InputError(f"Run {run_id} was not trained, so it has no metrics to compare")
    schedule = TrainingConfig(**original["schedule"], plan=TrainingPlan(**original["plan"]))
    network, inherited = _new_network(config, task, schedule.seed), None
    if original["started_from"] != SCRATCH:
        started_from = versions.version_by_number(original["started_from"])
        champion = load_run_model(started_from.run_id)
        task = _warm_start(task, network, started_from, champion, snapshots)
        inherited = _inherit_stage(started_from, champion)
    new_run_id = _fit(
        task,
        network,
        schedule,
        original["started_from"],
        checkpoints,
        tags={"reproduces": run_id},
        second_stage=original.get("second_stage", False),
        inherited_stage=inherited,
    )
    before, after = runs.load_evaluation(run_id)["model"], evaluate_run(new_run_id, snapshots)["model"]
    return new_run_id, {metric: (before[metric], after[metric]) for metric in before if metric in after}


def _read_task(snapshot: Snapshot, encoder: TextEncoder | None, cache: Folder | None) -> TrainingTask:
    task = read_task(snapshot, encoder, cache)
    return task._replace(data=recipe.with_item_neighbors(task.data))


def _warm_start(
    task: TrainingTask, network: Recommender, version: versions.Version, model: TrainedModel, snapshots: Folder
) -> TrainingTask:
    """Copies a version's weights into a network; returns the task with replay weights for events it was trained on.

    The validation events stay out of the training, so that the version's own weights can win.
    """
    task = task._replace(data=without_validation_events(task.data))
    known = warm_start(network, task.vocabulary, model)
    apply_discovery_weight(network, 1 / model.network.config.discovery_weight)  # chosen again after the training
    log.info("Warm start from version %s: %d of %d items are known to it", version.number, known, len(task.vocabulary))
    try:
        # The version was not trained on the test part of its snapshot.
        until = open_snapshot(snapshots, version.snapshot_id).test_start.timestamp()
    except InputError as error:
        log.warning(
            "All events get the same weight, as the snapshot of version %s is not available: %s", version.number, error
        )
        return task
    timeline, stops = task.data.timeline, task.data.stops
    weights = replay_weights(timeline.seconds, until, stops, timeline.user_start[:-1])
    if weights is None:
        return task
    # The weights sample the windows by their last event, and weight the targets of the sampled windows.
    timeline = replace(timeline, weight=(timeline.weight * weights).astype(np.float32))
    return task._replace(data=task.data._replace(timeline=timeline, replay_weights=weights))


def _new_network(config: NetworkConfig, task: TrainingTask, seed: int) -> Recommender:
    torch.manual_seed(seed)
    spaces = None if task.spaces is None else task.spaces.vectors
    network = build_network(
        config, task.vocabulary, text=task.text, spaces=spaces, expected_counts=task.expected_counts
    )
    if not config.is_trained:
        network.items.place_by_content()
    return network


def _fit(
    task: TrainingTask,
    network: Recommender,
    schedule: TrainingConfig,
    started_from: str,
    checkpoints: Folder,
    given: Hyperparameters = ALL_FROM_DATA,
    tags: Mapping[str, str] = _NO_TAGS,
    second_stage: bool = False,
    inherited_stage: FittedStage | None = None,
) -> str:
    """Trains a network as a new MLflow run, with its metrics and model; returns the run id.

    In a process group, every process takes part in the training, and rank 0 alone writes the run. A warm start inherits
    the second stage: the version that it starts from may have been trained on the validation sessions.
    """
    if second_stage:
        import_lightgbm()  # before the training, if it cannot be
    device = distributed.training_device()
    rank, world_size = distributed.rank_and_world_size()
    parameters = {
        **_without_plan(schedule),
        **asdict(network.config),
        "num_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "threads": torch.get_num_threads(),
        "processes": world_size,
        "device": str(device),
    }
    asked = select_prediction_tasks(task.encoded, VALIDATION, _VALIDATION_QUESTIONS)
    # Not that of a study or a reproduction: another training may run at the same time.
    purpose = re.sub(r"[^\w-]", "_", tags.get("study", tags.get("reproduces", "")))
    name = f"{task.snapshot.snapshot_id}-{started_from}{purpose}"
    checkpoint, before_decay = checkpoints.file(f"{name}.pt"), checkpoints.file(f"{name}.before-decay.pt")

    def choose_weights(trained: Recommender) -> ComponentWeights:
        if rank == 0:
            _save_weights(trained, before_decay)
        return choose_component_weights(trained, task.data, asked)

    def fit(on_epoch: Callable[[int, dict[str, float]], None]) -> TrainingReport:
        metric = _validation_metric(task, asked)
        return train(network.to(device), task.data, schedule, metric, on_epoch, checkpoint, choose_weights)

    if rank > 0:
        if network.config.is_trained:
            fit(lambda epoch, figures: None)
        return distributed.broadcast_text("")
    with runs.start_run(task.snapshot, parameters, {"started_from": started_from, **tags}) as run_id:
        if network.config.is_trained:
            report = fit(lambda epoch, figures: runs.log_epoch(run_id, epoch, figures))
            apply_component_weights(network, task.data, report.component_weights)
        else:
            reason = _CONTENT_ONLY if task.snapshot.has_held_out_sessions else _NO_SESSIONS
            report = TrainingReport(stopped_by=reason)
        _log_training(run_id, report, schedule, started_from, second_stage)
        runs.log_text(run_id, format_recipe(network.config, schedule, given), "recipe.toml")
        with tempfile.TemporaryDirectory() as folder:
            inherited = inherited_stage if second_stage else _NO_STAGE
            intent, stage = _fit_on_states(network, before_decay, task, report, schedule.seed, inherited)
            runs.log_parameters(run_id, {"second_stage": stage.description})
            save_model(TrainedModel(network.cpu(), task.vocabulary, intent, stage.graph), Path(folder))
            export_graphs(network, Path(folder))
            verify_graphs(network, Path(folder))
            runs.log_model(run_id, Path(folder))
    distributed.broadcast_text(run_id)
    for state in (checkpoint, before_decay):
        try:
            state.remove()
        except UnavailableError as error:  # the run is complete
            log.warning("%s was not removed: %s", state, error)
    return run_id


def _validation_metric(task: TrainingTask, asked: PredictionTasks) -> Callable[[Recommender], float]:
    return lambda trained: ranking_metrics(model_ranks(trained, task.encoded.timeline, asked))[PRIMARY_METRIC]


def _save_weights(network: Recommender, file: StoredFile) -> None:
    content = io.BytesIO()
    torch.save(network.state_dict(), content)
    file.write(content.getvalue())


def _fit_on_states(
    network: Recommender,
    before_decay: StoredFile,
    task: TrainingTask,
    report: TrainingReport,
    seed: int,
    inherited_stage: FittedStage | None,
) -> tuple[PurchaseIntent, FittedStage]:
    """Fits the purchase intent, and the second stage unless it is inherited, to a trained network."""
    if not network.config.is_trained:
        return PurchaseIntent(reason=report.stopped_by), _NO_STAGE
    intent = _fit_intent(network, before_decay, task)
    if inherited_stage is not None:
        return intent, inherited_stage
    return intent, _fit_second_stage(network, before_decay, task, report.component_weights, seed)


def _fit_intent(network: Recommender, before_decay: StoredFile, task: TrainingTask) -> PurchaseIntent:
    """Purchase intent, fitted after the training and not within its time budget."""
    return fit_purchase_intent(_load_earlier(network, before_decay), task.data, task.encoded)


def _fit_second_stage(
    network: Recommender, before_decay: StoredFile, task: TrainingTask, weights: ComponentWeights, seed: int
) -> FittedStage:
    """Fits the second stage to the validation sessions, with the network that was not trained on them."""
    tasks = select_prediction_tasks(task.encoded, VALIDATION, _MAX_STAGE_QUESTIONS)
    if len(tasks) < MIN_QUESTIONS:
        return _NO_STAGE._replace(description=f"none: only {len(tasks)} held-out sessions")
    earlier = _load_earlier(network, before_decay).cpu()
    data = task.data._replace(final_stops=task.data.stops)
    if data.neighbors is not None:
        earlier.item_neighbors = data.neighbors
    apply_component_weights(earlier, data, weights)
    with tempfile.TemporaryDirectory() as folder:
        save_model(TrainedModel(earlier.eval(), task.vocabulary), Path(folder))
        export_graphs(earlier, Path(folder))
        catalog = catalog_columns(task.snapshot.item_table(), task.vocabulary)
        return fit_second_stage(Path(folder), task.encoded, tasks, catalog, seed)


def _inherit_stage(version: versions.Version, model: TrainedModel) -> FittedStage:
    """The second stage of the version that a warm start begins from."""
    return FittedStage(model.second_stage, f"that of version {version.number}" if model.second_stage else "none")


def _load_earlier(network: Recommender, before_decay: StoredFile) -> Recommender:
    """A copy of a network as it was before the decay phase, which trains on the validation events.

    Its weights are in a file because an interrupted training may resume in the decay phase.
    """
    earlier = copy.deepcopy(network)
    earlier.load_state_dict(
        torch.load(io.BytesIO(before_decay.read()), weights_only=True, map_location=network.items.bias.device)
    )
    return earlier


def _without_plan(schedule: TrainingConfig) -> dict[str, Any]:
    """The fields of a configuration without the plan, which results from an earlier training."""
    return {name: value for name, value in asdict(schedule).items() if name != "plan"}


def _log_training(
    run_id: str, report: TrainingReport, schedule: TrainingConfig, started_from: str, second_stage: bool
) -> None:
    names = ("best_epoch", "steps", "tokens_per_second", "discovery_weight", "session_neighbor_weight")
    figures = {name: float(getattr(report, name)) for name in names}
    reproduction = {
        "schedule": _without_plan(schedule),
        "plan": asdict(report.plan),
        "stopped_by": report.stopped_by,
        "started_from": started_from,
        "threads": torch.get_num_threads(),
        "processes": distributed.rank_and_world_size()[1],
        "second_stage": second_stage,
    }
    runs.log_training(run_id, figures, reproduction)


def _load_common_champion() -> tuple[versions.Version, TrainedModel] | None:
    """The champion as `_load_champion` finds it; in a process group, rank 0 decides for all."""
    rank, _ = distributed.rank_and_world_size()
    loaded = _load_champion() if rank == 0 else None
    number = distributed.broadcast_text(loaded[0].number if loaded else "")
    if rank == 0 or not number:
        return loaded
    version = versions.version_by_number(number)
    return version, load_run_model(version.run_id)


def _load_champion() -> tuple[versions.Version, TrainedModel] | None:
    """The champion and its model; None if it is not trained, or this version of the package cannot read it."""
    champion = versions.version_by_alias(CHAMPION)
    if champion is None:
        return None
    try:
        model = load_run_model(champion.run_id)
    except (IncompatibleModelFormat, InputError) as error:
        log.warning("Training from scratch, not from champion version %s: %s", champion.number, error)
        return None
    return (champion, model) if model.network.config.is_trained else None
