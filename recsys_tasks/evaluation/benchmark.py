"""The `benchmark` verb: trains a model on a sequence file and predicts the last item of every test sequence."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from recsys_tasks.errors import InputError
from recsys_tasks.evaluation.baselines import BaselineData, baseline_fitters
from recsys_tasks.evaluation.gate import PRIMARY_METRIC
from recsys_tasks.evaluation.metrics import list_metrics, ranking_metrics
from recsys_tasks.evaluation.protocol import Scorer, model_ranks, model_scorer, rank_targets
from recsys_tasks.evaluation.sequence_files import SequenceDataset, load_sequence_dataset, merge_sessions
from recsys_tasks.model.distributed import training_device
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import ComponentWeights
from recsys_tasks.model.training_loop import build_network, train
from recsys_tasks.names import DECODER, GRU, NETWORK, NETWORKS, TRANSFORMER
from recsys_tasks.training import recipe
from recsys_tasks.training.component_weights import (
    apply_component_weights,
    choose_component_weights,
    choose_discovery_weight,
)
from recsys_tasks.training.hyperparameters import ALL_FROM_DATA, Hyperparameters
from recsys_tasks.training.models import ModelInput, load_model_fitter, vector_scorer

log = logging.getLogger(__name__)
BenchmarkMetrics = dict[str, Any]


def run_benchmark(
    train_file: Path,
    test_file: Path,
    items_file: Path | None,
    model: str,
    seed: int,
    minutes: float,
    strict: bool = False,
    hyperparameters: Hyperparameters = ALL_FROM_DATA,
) -> BenchmarkMetrics:
    """Returns metrics at 5, 10 and 20 over the full catalog, and training statistics.

    Ties count against the model.

    Args:
        train_file, test_file, items_file: sequence files, and item attributes.
        model: `transformer` (the model that `train` registers), `network` (without item neighbors), `decoder` or `gru`
            (without an encoder, sessions of a user merged), a baseline's name, or a plugin model's. Only `transformer`
            has session neighbors.
        seed: of all random number generators.
        minutes: training time of a network.
        strict: item ids only, and no training on the item before the target, as in published comparisons.
        hyperparameters: of a network, those that a person has set.

    Raises:
        InputError: a file is invalid, or `strict` is combined with item attributes.
    """
    if strict and items_file is not None:
        raise InputError("A strict benchmark has item ids only: leave out --items, or --strict")
    dataset = load_sequence_dataset(train_file, test_file, items_file, seed, strict)
    if model in (DECODER, GRU):
        dataset = merge_sessions(dataset)
    scorer, figures = fit_model(dataset, model, seed, 60 * minutes, hyperparameters)
    return {"model": model, "seed": seed, "strict": strict, **evaluate_scorer(dataset, scorer), **figures}


def evaluate_scorer(dataset: SequenceDataset, scorer: Scorer) -> BenchmarkMetrics:
    """Returns metrics of a scorer on the test part of a dataset."""
    started = time.perf_counter()
    exclude_session_items = not recipe.sessions_repeat(dataset.data)
    answers = rank_targets(scorer, dataset.data.timeline, dataset.test, exclude_session_items)
    return {
        **ranking_metrics(answers.ranks),
        **list_metrics(answers.lists, dataset.data.counts),
        "predict_seconds": time.perf_counter() - started,
        "items": len(dataset.encoded.vocabulary.item_ids),
        "sequences": len(dataset.test),
    }


def fit_model(
    dataset: SequenceDataset,
    model: str,
    seed: int,
    seconds: float,
    hyperparameters: Hyperparameters = ALL_FROM_DATA,
) -> tuple[Scorer, BenchmarkMetrics]:
    """Returns a model fitted to a dataset as a scorer, and its training statistics."""
    baselines = baseline_fitters()
    if model in baselines:
        started = time.perf_counter()
        scorer = baselines[model](BaselineData(dataset.data, dataset.validation))
        return scorer, {"train_seconds": time.perf_counter() - started, "epochs": 0, "parameters": 0}
    if model not in NETWORKS:
        return _fit_plugin_model(dataset, model, seed, seconds)
    torch.manual_seed(seed)
    vocabulary, timeline = dataset.encoded.vocabulary, dataset.data.timeline
    config = recipe.network_config(dataset.data, vocabulary, dataset.has_history, seconds)
    if model == DECODER:
        config = replace(config, num_decoder_layers=config.num_encoder_layers + config.num_decoder_layers)
    config = replace(config, recurrent=model == GRU)
    if model == NETWORK:
        config = replace(config, neighbor_tokens=0)
    config = hyperparameters.apply_to_network(config)
    data = recipe.with_item_neighbors(dataset.data)
    network = build_network(config, vocabulary, recipe.neighbors(dataset.data, config)).to(training_device())
    schedule = recipe.training_config(dataset.data, vocabulary, dataset.has_history, seconds, seed)
    schedule = hyperparameters.apply_to_training(schedule)
    log.info("%s, %s", network.config, schedule)

    def validate(trained: Recommender) -> float:
        return ranking_metrics(model_ranks(trained, timeline, dataset.validation))[PRIMARY_METRIC]

    def choose_weights(trained: Recommender) -> ComponentWeights:
        if model != TRANSFORMER:
            return ComponentWeights(choose_discovery_weight(trained, data, dataset.validation))
        return choose_component_weights(trained, data, dataset.validation)

    report = train(network, data, schedule, validate, choose_weights=choose_weights)
    apply_component_weights(network, data, report.component_weights)
    figures: BenchmarkMetrics = {
        "train_seconds": report.seconds,
        "epochs": len(report.epochs),
        "tokens_per_second": report.tokens_per_second,
        "stopped_by": report.stopped_by,
        "discovery_weight": report.discovery_weight,
        "session_neighbor_weight": report.session_neighbor_weight,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "threads": torch.get_num_threads(),
        "device": str(network.items.bias.device),
        "curve": report.epochs,
    }
    return model_scorer(network, timeline), figures


def _fit_plugin_model(
    dataset: SequenceDataset, model: str, seed: int, seconds: float
) -> tuple[Scorer, BenchmarkMetrics]:
    fit, started = load_model_fitter(model), time.perf_counter()
    fitted = fit(ModelInput(dataset.data, dataset.encoded.vocabulary, seconds, seed))
    of_session = sum(weight.numel() for weight in fitted.session.parameters())
    figures = {
        "train_seconds": time.perf_counter() - started,
        "parameters": fitted.vectors.size + fitted.bias.size + of_session,
        "model_parameters": dict(fitted.parameters),
    }
    return vector_scorer(fitted, dataset.data.timeline), figures
