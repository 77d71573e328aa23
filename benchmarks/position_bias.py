"""Effect of inverse propensity weighting of clicks: `python benchmarks/position_bias.py --seeds 3`.

A synthetic shop with known intents shows lists in the order of outdated popularity. Users examine position p with
probability 1 / p and click the items they want. A network learns from the clicks in three ways: unweighted, weighted by
the inverse of estimated examination propensities, and by the inverse of the true ones. It is evaluated on the true next
intents of other users.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.report import host_info, print_table, write_json
from recsys_tasks.evaluation.metrics import ranking_metrics
from recsys_tasks.evaluation.protocol import PredictionTasks, model_ranks
from recsys_tasks.features.position_bias import click_weights, estimate_position_bias
from recsys_tasks.features.sequences import Timeline, build_timeline
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.tensors import NetworkConfig
from recsys_tasks.model.training_loop import TrainingConfig, TrainingData, build_network, train
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, VIEW

_ITEMS, _POSITIONS, _GROUPS = 60, 40, 10
_DAY = 86_400.0


class Log(NamedTuple):
    """Shown items [N, P], clicks on them [N, P], and the group of users that saw each list [N]."""

    shown: np.ndarray
    clicked: np.ndarray
    group: np.ndarray


def main() -> None:
    """Runs the ablation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lists", type=int, default=30_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--json")
    args = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(args.seeds):
        for name, metrics in _compare(seed, args.lists, args.epochs).items():
            found.setdefault(name, []).append(metrics)
    rows: list[dict[str, object]] = [
        {"clicks count": name, **{metric: _mean_and_deviation([one[metric] for one in runs]) for metric in runs[0]}}
        for name, runs in found.items()
    ]
    host = host_info("torch") | {"threads": str(torch.get_num_threads()), "seeds": str(args.seeds)}
    print_table("Position bias: weights of clicks", rows, host)
    write_json(args.json, {"rows": rows, "machine": host})


def _mean_and_deviation(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.4f}"


def _compare(seed: int, lists: int, epochs: int) -> dict[str, dict[str, float]]:
    random = np.random.default_rng(seed)
    # Each group has strong preferences, independent of the outdated popularity.
    preferences = random.dirichlet(np.full(_ITEMS, 0.2), _GROUPS)
    outdated_ranks = random.permutation(_ITEMS)
    truth = 1 / np.arange(1, _POSITIONS + 1)
    log = _shop(preferences, outdated_ranks, truth, lists, random)
    position = np.tile(np.arange(_POSITIONS), (lists, 1))
    pairs, number = np.unique(np.stack([log.shown.ravel(), position.ravel()]), axis=1, return_inverse=True)
    shown = np.bincount(number)
    estimated = estimate_position_bias(
        pairs[0], pairs[1], shown, np.bincount(number, log.clicked.ravel().astype(float))
    )
    print(
        f"seed {seed}: propensities {np.round(estimated[[0, 1, 4, 9, 19]], 3)}, true {truth[[0, 1, 4, 9, 19]].round(3)}"
    )
    propensities = {"the same": np.zeros(0), "by estimated chances": estimated, "by true chances": truth}
    return {name: _train(log, preferences, weights, seed, epochs) for name, weights in propensities.items()}


def _shop(
    preferences: np.ndarray,
    outdated_ranks: np.ndarray,
    examination: np.ndarray,
    lists: int,
    random: np.random.Generator,
) -> Log:
    """Returns lists in the outdated order with some noise, and the clicks on them."""
    group = random.integers(_GROUPS, size=lists)
    order = np.argsort(outdated_ranks + random.normal(0, _ITEMS / 6, (lists, _ITEMS)))[:, :_POSITIONS]
    click_probability = np.minimum(preferences[group[:, None], order] * 8, 1.0)
    return Log(
        order, (random.random(order.shape) < examination) & (random.random(order.shape) < click_probability), group
    )


def _train(log: Log, preferences: np.ndarray, propensities: np.ndarray, seed: int, epochs: int) -> dict[str, float]:
    timeline = _timeline(log, propensities)
    vocabulary = Vocabulary(
        item_ids=tuple(f"i{number}" for number in range(_ITEMS)),
        titles=("",) * _ITEMS,
        category_paths=("",) * _ITEMS,
        brands=("",) * _ITEMS,
        counts=tuple((np.bincount(timeline.item - FIRST_ITEM, minlength=_ITEMS) + 1).tolist()),
    )
    config = NetworkConfig(num_items=len(vocabulary), history=False, embedding_dim=32, num_heads=2, dropout=0.2)
    torch.manual_seed(seed)
    network = build_network(config, vocabulary)
    stops = timeline.user_start[1:]
    schedule = TrainingConfig(
        epochs=epochs, seconds=600, num_negatives=0, batch_tokens=1_024, patience=epochs, seed=seed
    )
    counts = np.bincount(timeline.item, minlength=len(vocabulary))
    train(network, TrainingData(timeline, counts, stops, stops), schedule, lambda _: 0.0)
    intents = _true_intents(preferences, np.random.default_rng(seed + 1))
    tasks = PredictionTasks(intents.session_start[:-1], intents.session_start[1:] - 1)
    metrics = ranking_metrics(model_ranks(network, intents, tasks))
    return {name: metrics[name] for name in ("recall_5", "recall_20", "mrr_20")}


def _timeline(log: Log, propensities: np.ndarray) -> Timeline:
    """Returns sessions of clicks: four lists of one group each."""
    order = np.argsort(log.group, kind="stable")
    rows, positions = np.nonzero(log.clicked[order])
    session = rows // 4
    item = log.shown[order][rows, positions] + FIRST_ITEM
    _, number = np.unique(session, return_inverse=True)
    seconds = number * _DAY + np.arange(len(number))
    began = seconds[np.searchsorted(number, number)]
    weight = click_weights(positions + 1, propensities)
    kind = np.full(len(item), EVENT_TYPE_CODES[VIEW])
    return build_timeline(number, number, item, kind, seconds, began, weight=weight)


def _true_intents(preferences: np.ndarray, random: np.random.Generator, count: int = 4_000) -> Timeline:
    """Returns sessions of three different items by the preferences of a group, independent of positions."""
    group = random.integers(_GROUPS, size=count)
    items = np.stack([random.choice(_ITEMS, 3, replace=False, p=_smooth(preferences[who])) for who in group])
    session = np.repeat(np.arange(count), 3)
    seconds = session * _DAY + np.tile(np.arange(3), count)
    kind = np.full(3 * count, EVENT_TYPE_CODES[VIEW])
    return build_timeline(session, session, items.ravel() + FIRST_ITEM, kind, seconds, seconds[session * 3])


def _smooth(shares: np.ndarray) -> np.ndarray:
    shares = shares + 1e-9
    smoothed: np.ndarray = shares / shares.sum()
    return smoothed


if __name__ == "__main__":
    main()
