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

from benchmarks.report import machine, show, write
from recsys_tasks.evaluation.metrics import ranking_metrics
from recsys_tasks.evaluation.protocol import PredictionTasks, model_ranks
from recsys_tasks.features.position_bias import click_weights, estimate_position_bias
from recsys_tasks.features.sequences import Timeline, build_timeline
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.tensors import NetworkConfig
from recsys_tasks.model.training_loop import TrainingConfig, TrainingData, build_network, train
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, VIEW

_ITEMS, _PLACES, _GROUPS = 60, 40, 10
_DAY = 86_400.0


class Log(NamedTuple):
    """What was shown [N, P] and what of it clicked, and the group of people that each list was shown to [N]."""

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
    given = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(given.seeds):
        for name, metrics in _compare(seed, given.lists, given.epochs).items():
            found.setdefault(name, []).append(metrics)
    rows: list[dict[str, object]] = [
        {"clicks count": name, **{metric: _spread([one[metric] for one in runs]) for metric in runs[0]}}
        for name, runs in found.items()
    ]
    about = machine("torch") | {"threads": str(torch.get_num_threads()), "seeds": str(given.seeds)}
    show("Clicks by the places they were made at", rows, about)
    write(given.json, {"rows": rows, "machine": about})


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.4f}"


def _compare(seed: int, lists: int, epochs: int) -> dict[str, dict[str, float]]:
    random = np.random.default_rng(seed)
    # Each group of people wants some things much more than others; what was popular long ago has nothing to do with it.
    wants = random.dirichlet(np.full(_ITEMS, 0.2), _GROUPS)
    old = random.permutation(_ITEMS)
    truth = 1 / np.arange(1, _PLACES + 1)
    log = _shop(wants, old, truth, lists, random)
    place = np.tile(np.arange(_PLACES), (lists, 1))
    pairs, number = np.unique(np.stack([log.shown.ravel(), place.ravel()]), axis=1, return_inverse=True)
    shown = np.bincount(number)
    estimated = estimate_position_bias(
        pairs[0], pairs[1], shown, np.bincount(number, log.clicked.ravel().astype(float))
    )
    print(f"seed {seed}: chances {np.round(estimated[[0, 1, 4, 9, 19]], 3)}, true {truth[[0, 1, 4, 9, 19]].round(3)}")
    chances = {"the same": np.zeros(0), "by estimated chances": estimated, "by true chances": truth}
    return {name: _train(log, wants, weights, seed, epochs) for name, weights in chances.items()}


def _shop(wants: np.ndarray, old: np.ndarray, looked: np.ndarray, lists: int, random: np.random.Generator) -> Log:
    """Lists in the old order, a little shuffled, and what people click."""
    group = random.integers(_GROUPS, size=lists)
    order = np.argsort(old + random.normal(0, _ITEMS / 6, (lists, _ITEMS)))[:, :_PLACES]
    likely = np.minimum(wants[group[:, None], order] * 8, 1.0)
    return Log(order, (random.random(order.shape) < looked) & (random.random(order.shape) < likely), group)


def _train(log: Log, wants: np.ndarray, chances: np.ndarray, seed: int, epochs: int) -> dict[str, float]:
    timeline = _timeline(log, chances)
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
    wished = _wishes(wants, np.random.default_rng(seed + 1))
    asked = PredictionTasks(wished.session_start[:-1], wished.session_start[1:] - 1)
    metrics = ranking_metrics(model_ranks(network, wished, asked))
    return {name: metrics[name] for name in ("recall_5", "recall_20", "mrr_20")}


def _timeline(log: Log, chances: np.ndarray) -> Timeline:
    """Sessions of the clicks that people of one group made, four lists each."""
    order = np.argsort(log.group, kind="stable")
    rows, places = np.nonzero(log.clicked[order])
    session = rows // 4
    item = log.shown[order][rows, places] + FIRST_ITEM
    _, number = np.unique(session, return_inverse=True)
    seconds = number * _DAY + np.arange(len(number))
    began = seconds[np.searchsorted(number, number)]
    weight = click_weights(places + 1, chances)
    kind = np.full(len(item), EVENT_TYPE_CODES[VIEW])
    return build_timeline(number, number, item, kind, seconds, began, weight=weight)


def _wishes(wants: np.ndarray, random: np.random.Generator, count: int = 4_000) -> Timeline:
    """What people really want: sessions of three different things of a group, wherever they are shown."""
    group = random.integers(_GROUPS, size=count)
    items = np.stack([random.choice(_ITEMS, 3, replace=False, p=_all_possible(wants[who])) for who in group])
    session = np.repeat(np.arange(count), 3)
    seconds = session * _DAY + np.tile(np.arange(3), count)
    kind = np.full(3 * count, EVENT_TYPE_CODES[VIEW])
    return build_timeline(session, session, items.ravel() + FIRST_ITEM, kind, seconds, seconds[session * 3])


def _all_possible(shares: np.ndarray) -> np.ndarray:
    shares = shares + 1e-9
    possible: np.ndarray = shares / shares.sum()
    return possible


if __name__ == "__main__":
    main()
