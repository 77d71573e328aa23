"""Calibration of predicted purchase probabilities: of sessions given 30 %, three in ten should buy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from recsys_tasks.evaluation.protocol import PredictionTasks, iterate_batches, model_inputs
from recsys_tasks.features.sequences import Timeline
from recsys_tasks.model.incremental import purchase_intent
from recsys_tasks.model.network import Recommender

_NUM_BINS = 10


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

    def as_dict(self) -> dict[str, object]:
        """Returns all fields for JSON."""
        return asdict(self)

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


@torch.inference_mode()
def predict_purchase_intent(network: Recommender, timeline: Timeline, tasks: PredictionTasks) -> np.ndarray:
    """Returns the probability [B] that a session buys at or after its target, given the events before it."""
    network.eval()
    found = np.zeros(len(tasks))
    for part in iterate_batches(timeline, tasks):
        found[part] = purchase_intent(network, *model_inputs(network, timeline, tasks[part])).cpu().numpy()
    return found
