"""Ablation study of the network and its training: `python benchmarks/ablations.py TRAIN TEST --minutes 6`.

Trains the full recipe and one variant without each part on a sequence file, for the same time, and compares their
validation metrics. The test file only determines how validation is split.
"""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.report import host_info, print_table, write_json
from recsys_tasks.evaluation.metrics import ranking_metrics
from recsys_tasks.evaluation.protocol import model_ranks
from recsys_tasks.evaluation.sequence_files import SequenceDataset, load_sequence_dataset
from recsys_tasks.model.attention import Rotation, rotation
from recsys_tasks.model.network import ItemTable, Recommender
from recsys_tasks.model.training_loop import TrainingConfig, TrainingData, build_network, train
from recsys_tasks.training import recipe

METRICS = ("recall_20", "mrr_20")
Network = Callable[[Recommender], None]
Schedule = Callable[[TrainingData, TrainingConfig], tuple[TrainingData, TrainingConfig]]


def main() -> None:
    """Runs the ablations that apply to the data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--items", type=Path)
    parser.add_argument("--minutes", type=float, default=6.0, help="minutes of each training")
    parser.add_argument("--without", nargs="+", help="parts to remove, one at a time; default: all that apply")
    parser.add_argument("--json")
    args = parser.parse_args()
    task = load_sequence_dataset(args.train, args.test, args.items, seed=0)
    parts = args.without or [name for name, (_, _, applies) in PARTS.items() if applies(task)]
    rows: list[dict[str, object]] = []
    for name in ("nothing", *parts):
        metrics = _train_variant(name, task, 60 * args.minutes)
        rows.append({"without": name, **metrics})
        print(rows[-1], flush=True)
    shown = [{name: f"{value:.4f}" if name in METRICS else value for name, value in row.items()} for row in rows]
    host = host_info("torch") | {"threads": str(torch.get_num_threads()), "minutes each": str(args.minutes)}
    print_table(f"Validation of {args.train}, {len(task.validation)} questions", shown, host)
    write_json(args.json, {"rows": rows, "machine": host})


def _train_variant(name: str, task: SequenceDataset, seconds: float) -> dict[str, float]:
    change_network, change_schedule, _ = PARTS.get(name, (_keep_network, _keep_schedule, _applies))
    # The validation part is excluded from the decay phase, too.
    data = recipe.with_item_neighbors(task.data._replace(final_stops=task.data.stops))
    vocabulary = task.encoded.vocabulary
    torch.manual_seed(0)
    config = recipe.network_config(data, vocabulary, task.has_history, seconds)
    network = build_network(config, vocabulary, recipe.neighbors(data, config))
    change_network(network)
    data, schedule = change_schedule(data, recipe.training_config(data, vocabulary, task.has_history, seconds, seed=0))

    def validate(trained: Recommender) -> float:
        return ranking_metrics(model_ranks(trained, data.timeline, task.validation))["mrr_20"]

    report = train(network, data, schedule, validate)
    found = ranking_metrics(model_ranks(network, data.timeline, task.validation))
    return {**{metric: found[metric] for metric in METRICS}, "events/s": report.tokens_per_second}


# Networks without a part


def _no_copying(network: Recommender) -> None:
    network.config = replace(network.config, copying=False)


def _no_neighbor_component(network: Recommender) -> None:
    network.config = replace(network.config, neighbor_tokens=0)


def _no_time(network: Recommender) -> None:
    def zero_rotation(self: Recommender, days: Tensor) -> Rotation:
        return rotation(torch.zeros_like(days)[..., None] * self.time_frequencies)

    network.time_rotation = types.MethodType(zero_rotation, network)  # type: ignore[method-assign]


def _no_positions(network: Recommender) -> None:
    network.position_frequencies.zero_()


def _no_neighbors(network: Recommender) -> None:
    network.items.neighbors.zero_()


def _no_cosine(network: Recommender) -> None:
    def unnormalized_sum(self: ItemTable, embedding: Tensor, *content: Tensor) -> Tensor:
        # Scaled to the norm of the item's own embedding, so that the norm is learned again.
        return ItemTable._normalized_sum(self, embedding, *content) * embedding.norm(dim=-1, keepdim=True)

    def direction(self: Recommender, state: Tensor) -> Tensor:
        return state

    network.items._normalized_sum = types.MethodType(unnormalized_sum, network.items)  # type: ignore[method-assign]
    network.direction = types.MethodType(direction, network)  # type: ignore[method-assign]


def _keep_network(network: Recommender) -> None:
    return


# Trainings without a part


def _no_decay(data: TrainingData, schedule: TrainingConfig) -> tuple[TrainingData, TrainingConfig]:
    return data, replace(schedule, decay_fraction=0.01)


def _no_recency_weights(data: TrainingData, schedule: TrainingConfig) -> tuple[TrainingData, TrainingConfig]:
    return data._replace(recency_weights=None), schedule


def _few_negatives(data: TrainingData, schedule: TrainingConfig) -> tuple[TrainingData, TrainingConfig]:
    return data, replace(schedule, num_negatives=256)


def _keep_schedule(data: TrainingData, schedule: TrainingConfig) -> tuple[TrainingData, TrainingConfig]:
    return data, schedule


def _applies(task: SequenceDataset) -> bool:
    return True


PARTS: dict[str, tuple[Network, Schedule, Callable[[SequenceDataset], bool]]] = {
    "copying": (_no_copying, _keep_schedule, lambda task: task.has_history or recipe.sessions_repeat(task.data)),
    "time in attention": (_no_time, _keep_schedule, lambda task: task.has_history),
    "places in attention": (_no_positions, _keep_schedule, _applies),
    "neighbor component": (_no_neighbor_component, _keep_schedule, _applies),
    "neighbours": (_no_neighbors, _keep_schedule, lambda task: not task.has_history),
    "cosine": (_no_cosine, _keep_schedule, _applies),
    "the decay": (_keep_network, _no_decay, _applies),
    "freshness in the decay": (_keep_network, _no_recency_weights, lambda task: task.data.recency_weights is not None),
    "2,048 negatives (256)": (_keep_network, _few_negatives, lambda task: len(task.encoded.vocabulary) > 10_000),
}


if __name__ == "__main__":
    main()
