"""The `benchmark` verb: trains on one sequence file, predicts the last item of every test sequence."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from recsys_tasks.evaluation.baselines import FITS
from recsys_tasks.evaluation.blend import best_weight, blend
from recsys_tasks.evaluation.gate import PRIMARY
from recsys_tasks.evaluation.metrics import list_metrics, ranking_metrics
from recsys_tasks.evaluation.protocol import Scorer, answer, model_ranks, model_scorer
from recsys_tasks.evaluation.sequence_files import SequenceTask, as_one_session, read_task
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.training_loop import build_network, train
from recsys_tasks.names import DECODER, GRU, TRANSFORMER, VMIS_KNN
from recsys_tasks.training import recipe

log = logging.getLogger(__name__)
Figures = dict[str, Any]


def benchmark(
    train_file: Path, test_file: Path, items_file: Path | None, model: str, seed: int, minutes: float
) -> Figures:
    """Metrics at 5, 10 and 20 over the full catalogue, ties against the model, and what the training took.

    Args:
        train_file, test_file, items_file: sequence files, and what is known of the items.
        model: `transformer` (with neighbours where they help), `network` (it alone), `decoder` or `gru` (without an
            encoder, all sessions as one), or a baseline's name.
        seed: of every random number.
        minutes: how long a network may train.

    Raises:
        InputError: a file is not what it should be.
    """
    task = read_task(train_file, test_file, items_file, seed)
    if model in (DECODER, GRU):
        task = as_one_session(task)
    scorer, figures = fit(task, model, seed, 60 * minutes)
    began = time.perf_counter()
    skip = not recipe.sessions_repeat(task.data)
    answers = answer(scorer, task.data.timeline, task.test, skip)
    return {
        "model": model,
        "seed": seed,
        **ranking_metrics(answers.ranks),
        **list_metrics(answers.lists, task.data.counts),
        **figures,
        "predict_seconds": time.perf_counter() - began,
        "items": len(task.encoded.vocabulary.item_ids),
        "sequences": len(task.test),
    }


def fit(task: SequenceTask, model: str, seed: int, seconds: float) -> tuple[Scorer, Figures]:
    """A model for a task, as a scorer, and what its training took."""
    everything = task.data._replace(stops=task.data.final_stops)
    if model in FITS:
        began = time.perf_counter()
        scorer = FITS[model](everything)
        return scorer, {"train_seconds": time.perf_counter() - began, "epochs": 0, "parameters": 0}
    torch.manual_seed(seed)
    vocabulary, timeline = task.encoded.vocabulary, task.data.timeline
    config = recipe.network_config(task.data, vocabulary, task.has_history, seconds)
    if model == DECODER:
        config = replace(config, decoder_layers=config.encoder_layers + config.decoder_layers)
    config = replace(config, recurrent=model == GRU)
    network = build_network(config, vocabulary, recipe.neighbours(task.data, config))
    schedule = recipe.training_config(task.data, vocabulary, task.has_history, seconds, seed)
    log.info("%s, %s", network.config, schedule)
    weight = 0.0

    def validate(trained: Recommender) -> float:
        return ranking_metrics(model_ranks(trained, timeline, task.validation))[PRIMARY]

    def weigh_neighbours(trained: Recommender) -> None:
        # The proportion that validation prefers, which may be none; soon the network will have seen validation.
        nonlocal weight
        if model == TRANSFORMER:
            skip = not config.sessions_repeat
            scorers = model_scorer(trained, timeline), FITS[VMIS_KNN](task.data)
            weight = best_weight(*scorers, timeline, task.validation, skip, PRIMARY)

    report = train(network, task.data, schedule, validate, before_decay=weigh_neighbours)
    figures: Figures = {
        "train_seconds": report.seconds,
        "epochs": len(report.epochs),
        "tokens_per_second": report.tokens_per_second,
        "stopped_by": report.stopped_by,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "neighbours_weight": weight,
        "threads": torch.get_num_threads(),
        "curve": report.epochs,
    }
    return blend(model_scorer(network, timeline), FITS[VMIS_KNN](everything), weight), figures
