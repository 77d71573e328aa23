"""Evaluation of purchase intent: discrimination and calibration of predicted probabilities, with intervals.

Of sessions given 30 %, three in ten should buy. Letters in shapes: B predictions, D embedding dimension, F features of
the session summary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.metrics import log_loss, roc_auc_score

from recsys_tasks.evaluation.markdown import markdown_table
from recsys_tasks.evaluation.protocol import MAX_HISTORY_EVENTS, PredictionTasks, iterate_batches, model_inputs
from recsys_tasks.features.sequences import Timeline
from recsys_tasks.features.session_summary import ItemStatistics, first_token, summarize_prefixes
from recsys_tasks.model.incremental import session_direction
from recsys_tasks.model.network import Recommender

_NUM_BINS = 10
_NUM_RESAMPLES = 300
INTENT_METRICS = ("auc", "log_loss", "ece", "brier")
MODEL = "model"


@dataclass(frozen=True)
class CalibrationCurve:
    """Predicted and observed purchase rates, in bins with equal numbers of predictions and overall.

    Attributes:
        predicted, observed: mean probability and share of sessions that bought, by bin; count: predictions by bin.
        base_rate: share of all sessions that bought.
        error: expected calibration error, the mean of |predicted - observed| (Naeini et al. 2015).
        brier: mean squared error of the probabilities (Brier 1950); the constant base rate scores base_rate *
            (1 - base_rate).
    """

    predicted: list[float]
    observed: list[float]
    count: list[int]
    base_rate: float
    error: float
    brier: float

    def save_plot(self, path: Path) -> None:
        """Saves the reliability diagram as an image."""
        figure = Figure(figsize=(5, 5), layout="constrained")
        axes = figure.add_subplot(xlabel="predicted probability of a purchase", ylabel="share of sessions that bought")
        axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", label="perfect")
        axes.plot(self.predicted, self.observed, marker="o", label=f"model (error {self.error:.3f})")
        axes.legend()
        figure.savefig(path, dpi=120)


def calibration_curve(predicted: np.ndarray, purchased: np.ndarray) -> CalibrationCurve:
    """Compares predicted probabilities [B] with purchases [B]."""
    order = np.argsort(predicted, kind="stable")
    bins = [part for part in np.array_split(order, _NUM_BINS) if len(part)]
    means = [(float(predicted[part].mean()), float(purchased[part].mean()), len(part)) for part in bins]
    return CalibrationCurve(
        predicted=[mean for mean, _, _ in means],
        observed=[share for _, share, _ in means],
        count=[count for _, _, count in means],
        base_rate=float(purchased.mean()),
        error=sum(abs(mean - share) * count for mean, share, count in means) / max(len(predicted), 1),
        brier=float(((predicted - purchased) ** 2).mean()),
    )


def intent_metrics(predicted: np.ndarray, purchased: np.ndarray) -> dict[str, float]:
    """Returns the `INTENT_METRICS` of probabilities [B] of purchases [B], both outcomes of which occur.

    auc: area under the ROC curve, the probability that a session that bought has a higher prediction than one that did
    not; log_loss: mean cross entropy in nats; ece: expected calibration error in ten bins of equal size.
    """
    curve = calibration_curve(predicted, purchased)
    return {
        "auc": float(roc_auc_score(purchased, predicted)),
        "log_loss": float(log_loss(purchased, predicted, labels=[False, True])),
        "ece": curve.error,
        "brier": curve.brier,
    }


@dataclass(frozen=True)
class IntentReport:
    """Evaluation of purchase intent at one random prefix of each test session.

    Attributes:
        reason: why purchase intent is not predicted or cannot be evaluated; empty where it is.
        sessions, purchases: number of test sessions, and of those with a purchase after the prefix.
        table: `INTENT_METRICS` by predictor: `model`, its variant without calibration, and the baseline.
        intervals: their 95 % intervals, by bootstrap over users.
        gain: difference in auc of the model to each other predictor, with its interval, by paired bootstrap.
        curve: calibration of the model; None where there is a reason.
    """

    reason: str
    sessions: int
    purchases: int
    table: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, tuple[float, float]]]
    gain: dict[str, tuple[float, float, float]]
    curve: CalibrationCurve | None

    def as_dict(self) -> dict[str, object]:
        """Returns all fields for JSON."""
        return asdict(self)

    def as_markdown(self) -> str:
        """Returns a section of `evaluation.md`."""
        lines = ["", "## Purchase intent", "", self.as_sentence()]
        if self.reason:
            return "\n".join(lines) + "\n"
        rows = []
        for name, metrics in self.table.items():
            bounds = self.intervals[name]
            rows.append(
                [name, *(f"{metrics[m]:.4f} ({bounds[m][0]:.4f} to {bounds[m][1]:.4f})" for m in INTENT_METRICS)]
            )
        return "\n".join([*lines, "", *markdown_table(["predictor", *INTENT_METRICS], rows)]) + "\n"

    def as_sentence(self) -> str:
        """Returns the result in a sentence or two."""
        if self.reason:
            return f"Purchase intent is not predicted or not evaluated: {self.reason}."
        own = self.table[MODEL]
        gains = "; ".join(
            f"AUC {gain:+.4f} ({low:+.4f} to {high:+.4f}) to {name}" for name, (gain, low, high) in self.gain.items()
        )
        return (
            f"At a random prefix of {self.sessions:,} test sessions, {self.purchases:,} of which have a purchase later:"
            f" AUC {own['auc']:.4f}, expected calibration error {own['ece']:.4f}; {gains}."
        )


def evaluate_intent(predictions: Mapping[str, np.ndarray], purchased: np.ndarray, users: np.ndarray) -> IntentReport:
    """Evaluates predicted probabilities.

    Args:
        predictions: probabilities [B] by predictor, `model` among them.
        purchased: whether a purchase follows [B].
        users: user of each session [B], the unit of the bootstrap.
    """
    num_purchases = int(purchased.sum())
    if not 0 < num_purchases < len(purchased):
        reason = f"{num_purchases:,} of {len(purchased):,} test sessions have a purchase after their prefix"
        return without_intent(reason, purchased)
    table = {name: intent_metrics(predicted, purchased) for name, predicted in predictions.items()}
    resampled = _bootstrap(predictions, purchased, users)
    gains = {name: [row["auc"] for row in resampled[MODEL]] for name in predictions if name != MODEL}
    for name, values in gains.items():
        gains[name] = [own - row["auc"] for own, row in zip(values, resampled[name], strict=True)]
    return IntentReport(
        "",
        len(purchased),
        num_purchases,
        table,
        {
            name: {metric: _interval([row[metric] for row in rows]) for metric in INTENT_METRICS}
            for name, rows in resampled.items()
        },
        {
            name: (table[MODEL]["auc"] - table[name]["auc"], *_interval(differences))
            for name, differences in gains.items()
        },
        calibration_curve(predictions[MODEL], purchased),
    )


def without_intent(reason: str, purchased: np.ndarray) -> IntentReport:
    """Returns the report where purchase intent is not predicted or cannot be evaluated."""
    return IntentReport(reason, len(purchased), int(purchased.sum()), {}, {}, {}, None)


def _bootstrap(
    predictions: Mapping[str, np.ndarray], purchased: np.ndarray, users: np.ndarray
) -> dict[str, list[dict[str, float]]]:
    """Metrics of each predictor on the same resamples of users (Efron 1979); resamples with one outcome are skipped."""
    order = np.argsort(users, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(users[order])) + 1)
    random = np.random.default_rng(0)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in predictions}
    for _ in range(_NUM_RESAMPLES):
        drawn = np.concatenate([groups[number] for number in random.integers(len(groups), size=len(groups))])
        if purchased[drawn].all() or not purchased[drawn].any():
            continue
        for name, predicted in predictions.items():
            found[name].append(intent_metrics(predicted[drawn], purchased[drawn]))
    return found


def _interval(values: list[float]) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975]) if values else (np.nan, np.nan)
    return float(low), float(high)


@torch.inference_mode()
def purchase_intent_inputs(
    network: Recommender, items: ItemStatistics, timeline: Timeline, tasks: PredictionTasks
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what purchase intent reads before the targets of tasks: directions [B, D] and features [B, F]."""
    network.eval()
    directions = np.zeros((len(tasks), network.config.embedding_dim), np.float32)
    for part in iterate_batches(timeline, tasks):
        directions[part] = session_direction(network, *model_inputs(network, timeline, tasks[part])).cpu().numpy()
    summary = summarize_prefixes(timeline, tasks.first, tasks.target, MAX_HISTORY_EVENTS)
    of_items = items.features(timeline.item, first_token(tasks.first, tasks.target), tasks.target)
    return directions, np.concatenate([summary, of_items], 1)
