"""Purchase intent of the network beside a logistic regression: `python benchmarks/purchase_intent.py LOG.tsv`.

LOG is a log of views, carts and purchases in RetailRocket's format (Time, UserId, Type, ItemId, SessionId, CatId).
Without LOG, a synthetic shop is used: items and users differ in how often they lead to a purchase, and second thoughts
after a cart depend on the order of events. For each split the network is trained with the recipe for `--seconds`, and
both predictors are evaluated at the same random prefixes of the test sessions.

Splits by time hold out the latest sessions, then an earlier part, with everything later left out. Splits by user hold
out all sessions of a fifth of the users.
"""

from __future__ import annotations

import argparse
import copy
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.report import host_info, print_table, write_json
from recsys_tasks.evaluation.calibration import INTENT_METRICS, IntentReport
from recsys_tasks.evaluation.gate import PRIMARY_METRIC
from recsys_tasks.evaluation.metrics import ranking_metrics
from recsys_tasks.evaluation.protocol import VALIDATION, model_ranks, select_prediction_tasks
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.features.sequences import build_timeline, novel_intents
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.files import TrainedModel
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import ComponentWeights
from recsys_tasks.model.training_loop import TrainingData, build_network, train
from recsys_tasks.model.windows import recency_weights
from recsys_tasks.names import ADD_TO_CART, EVENT_TYPE_CODES, PURCHASE, VIEW
from recsys_tasks.training import recipe
from recsys_tasks.training.evaluation import evaluate_purchase_intent
from recsys_tasks.training.purchase_intent import fit_purchase_intent

_KINDS = {"view": VIEW, "addtocart": ADD_TO_CART, "transaction": PURCHASE}
_USER_PARTS, _TEST_SHARE, _VALIDATION_SHARE, _SHIFT = 5, 0.2, 0.12, 0.2
_LEFT_OUT = 3
_COLUMNS = ["Time", "UserId", "Type", "ItemId", "SessionId", "CatId"]


def main() -> None:
    """Runs the splits and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path, nargs="?")
    parser.add_argument("--splits", nargs="+", default=["time-0", "time-1", "user-0", "user-1"])
    parser.add_argument("--seconds", type=float, default=45.0, help="training time of a network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sessions", type=int, default=40_000, help="of the synthetic shop")
    parser.add_argument("--min-item-events", type=int, default=5)
    parser.add_argument("--json")
    args = parser.parse_args()
    log = pd.read_csv(args.log, sep="\t") if args.log else synthetic_log(args.sessions, args.seed)
    reports = {}
    for split in args.splits:
        reports[split] = run_split(encode_log(log, split, args.min_item_events), args.seconds, args.seed)
        print(split, reports[split].as_sentence(), flush=True)
    rows = _rows({split: report for split, report in reports.items() if not report.reason})
    host = host_info("torch", "scikit-learn") | {"threads": str(torch.get_num_threads()), "seconds": str(args.seconds)}
    print_table(f"Purchase intent, {args.log or 'synthetic shop'}", rows, host)
    write_json(args.json, {"rows": rows, "reports": {k: r.as_dict() for k, r in reports.items()}, "machine": host})


def run_split(task: SplitLog, seconds: float, seed: int) -> IntentReport:
    """Trains a network on the training part and evaluates its purchase intent on the test part."""
    encoded, data = task
    config = recipe.network_config(data, encoded.vocabulary, True, seconds)
    schedule = recipe.training_config(data, encoded.vocabulary, True, seconds, seed)
    torch.manual_seed(seed)
    network = build_network(config, encoded.vocabulary)
    asked = select_prediction_tasks(encoded, VALIDATION, 1_500)

    def validate(trained: Recommender) -> float:
        return ranking_metrics(model_ranks(trained, encoded.timeline, asked))[PRIMARY_METRIC]

    stable = copy.deepcopy(network)

    def keep_weights(trained: Recommender) -> ComponentWeights:
        stable.load_state_dict(trained.state_dict())
        return ComponentWeights()

    train(network, data, schedule, validate, choose_weights=keep_weights)
    intent = fit_purchase_intent(stable, data, encoded)
    model = TrainedModel(network, encoded.vocabulary, intent)
    return evaluate_purchase_intent(model, data, encoded, datetime.fromtimestamp(0, UTC))


class SplitLog(NamedTuple):
    """A log with a split, and its training events."""

    encoded: EncodedSnapshot
    data: TrainingData


def encode_log(log: pd.DataFrame, split: str, min_item_events: int) -> SplitLog:
    """Encodes a log with a split: `time-N` or `user-N`, where N counts the test parts from the latest."""
    events = log.assign(start=log.groupby("SessionId")["Time"].transform("min"))
    events = events.sort_values(["UserId", "start", "SessionId", "Time"], kind="stable")
    user, session_key = (events[name].factorize()[0] for name in ("UserId", "SessionId"))
    session = np.cumsum(np.concatenate([[True], session_key[1:] != session_key[:-1]])) - 1
    first = np.unique(session, return_index=True)[1]
    start = events["start"].to_numpy(float)
    mode, number = split.split("-")
    parts = _split_by_time(start[first], int(number)) if mode == "time" else _split_by_user(user[first], int(number))
    vocabulary = _vocabulary(events, parts[session] == 0, min_item_events)
    kind = events["Type"].map({name: EVENT_TYPE_CODES[_KINDS[name]] for name in _KINDS}).to_numpy()
    item = vocabulary.numbers(events["ItemId"].astype(str).tolist())
    times = events["Time"].to_numpy(float)
    weight = novel_intents(session, item, kind)
    timeline = build_timeline(user, session, item, kind, times, start, weight=weight)
    # Users whose first session is later than a part have no events in it.
    counts = [np.bincount(user[parts[session] <= last], minlength=len(timeline.user_start) - 1) for last in (0, 1)]
    stops, final_stops = (timeline.user_start[:-1] + count for count in counts)
    recency = recency_weights(timeline.seconds, final_stops, timeline.user_start[:-1])
    encoded = EncodedSnapshot(timeline, vocabulary, [None] * len(stops), parts.astype(np.int8))
    return SplitLog(encoded, TrainingData(timeline, vocabulary.training_counts(), stops, final_stops, recency))


def _split_by_time(start: np.ndarray, number: int) -> np.ndarray:
    """Part of each session [S]: 0 training, 1 validation, 2 test, 3 left out, because it is later."""
    end = 1.0 - _SHIFT * number
    cuts = np.quantile(start, [end - _TEST_SHARE - _VALIDATION_SHARE, end - _TEST_SHARE, end])
    parts: np.ndarray = np.searchsorted(cuts, start, side="right")
    return np.where((parts == _LEFT_OUT) & (number == 0), 2, parts)


def _split_by_user(user: np.ndarray, number: int) -> np.ndarray:
    fold = (np.random.default_rng(0).permutation(int(user.max()) + 1) + number) % _USER_PARTS
    return np.where(fold == 0, 2, np.where(fold == 1, 1, 0))[user]


def _vocabulary(events: pd.DataFrame, is_training: np.ndarray, min_item_events: int) -> Vocabulary:
    counts = events.loc[is_training, "ItemId"].value_counts()
    counts = counts[counts >= min_item_events]
    category = events.drop_duplicates("ItemId").set_index("ItemId")["CatId"]
    none = ("",) * len(counts)
    ids, categories = (tuple(map(str, values)) for values in (counts.index, category.loc[counts.index]))
    return Vocabulary(ids, none, categories, none, tuple(counts.tolist()))


def synthetic_log(num_sessions: int, seed: int, num_items: int = 2_000) -> pd.DataFrame:
    """A synthetic log.

    A visitor looks at items of one category, more often at popular ones. Carts and purchases depend on the item's
    appeal and the visitor's inclination. Views of other items after a cart are second thoughts, which make a purchase
    less likely; a second view of the item makes it more likely.
    """
    random = np.random.default_rng(seed)
    category = random.integers(0, 40, num_items)
    appeal = random.normal(0, 1, num_items) + random.normal(0, 0.7, 40)[category]
    popularity = 1 / (1 + random.permutation(num_items)) ** 0.8
    of_category = [np.flatnonzero(category == number) for number in range(40)]
    num_users = num_sessions * 2 // 3
    inclination = random.normal(0, 0.8, num_users)
    rows: list[tuple[float, int, str, int, int, int]] = []
    for session in range(num_sessions):
        user, time = int(random.integers(num_users)), 1.6e9 + session * 30.0
        pool = of_category[int(random.integers(40))]
        weights = popularity[pool] / popularity[pool].sum()
        item, desire = int(random.choice(pool, p=weights)), 0.0
        cart: int | None = None
        for _ in range(int(random.geometric(0.25))):
            time += float(random.exponential(60.0))
            rows.append((time, user, "view", item, session, int(category[item])))
            desire += 1.0 if item == cart else -0.8 if cart is not None else 0.0
            wish = appeal[item] + inclination[user]
            if cart is None and random.random() < _sigmoid(wish - 3.5):
                cart, time = item, time + 5.0
                rows.append((time, user, "addtocart", item, session, int(category[item])))
            if cart is not None and random.random() < _sigmoid(appeal[cart] + inclination[user] + desire - 2.0):
                time += 60.0
                rows.append((time, user, "transaction", cart, session, int(category[cart])))
                cart = None
            item = cart if cart is not None and random.random() < 0.3 else int(random.choice(pool, p=weights))
    return pd.DataFrame(rows, columns=_COLUMNS)


def _sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))


def _rows(reports: dict[str, IntentReport]) -> list[dict[str, object]]:
    """A row per split and predictor, and the means over the splits."""
    rows: list[dict[str, object]] = []
    for split, report in reports.items():
        for name, metrics in report.table.items():
            cells = {
                metric: f"{metrics[metric]:.4f} ({low:.4f}-{high:.4f})"
                for metric, (low, high) in report.intervals[name].items()
            }
            rows.append({"split": split, "purchases": report.purchases, "predictor": name, **cells})
    for name in next(iter(reports.values())).table:
        means = {m: np.mean([report.table[name][m] for report in reports.values()]) for m in INTENT_METRICS}
        purchases = sum(report.purchases for report in reports.values())
        cells = {metric: f"{mean:.4f}" for metric, mean in means.items()}
        rows.append({"split": "mean", "purchases": purchases, "predictor": name, **cells})
    return rows


if __name__ == "__main__":
    main()
