"""Whether a probability means what it says: of sessions given 30 %, three in ten buy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from recsys_tasks.evaluation.protocol import Questions, batches, model_inputs
from recsys_tasks.features.sequences import Timeline
from recsys_tasks.model.incremental import purchase_intent
from recsys_tasks.model.network import Recommender

_BINS = 10


@dataclass(frozen=True)
class Reliability:
    """What was predicted and what came, in bins of equally many predictions, and overall.

    Attributes:
        predicted, observed: mean probability and share of sessions that bought, by bin; count: of predictions, by bin.
        base_rate: share that bought overall.
        error: expected calibration error, the mean of |predicted - observed| (Naeini et al. 2015).
        brier: mean squared error of the probabilities (Brier 1950); always saying the base rate has base_rate *
            (1 - base_rate).
    """

    predicted: list[float]
    observed: list[float]
    count: list[int]
    base_rate: float
    error: float
    brier: float

    def as_dict(self) -> dict[str, object]:
        """All of it, for JSON."""
        return asdict(self)

    def draw(self, path: Path) -> None:
        """The reliability plot."""
        figure = Figure(figsize=(5, 5), layout="constrained")
        axes = figure.add_subplot(xlabel="predicted probability of a purchase", ylabel="share of sessions that bought")
        axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", label="perfect")
        axes.plot(self.predicted, self.observed, marker="o", label=f"model (error {self.error:.3f})")
        axes.legend()
        figure.savefig(path, dpi=120)


def reliability(predicted: np.ndarray, came: np.ndarray) -> Reliability:
    """Compares probabilities [B] with what came [B]."""
    order = np.argsort(predicted, kind="stable")
    bins = [part for part in np.array_split(order, _BINS) if len(part)]
    means = [(float(predicted[part].mean()), float(came[part].mean()), len(part)) for part in bins]
    return Reliability(
        predicted=[mean for mean, _, _ in means],
        observed=[share for _, share, _ in means],
        count=[count for _, _, count in means],
        base_rate=float(came.mean()),
        error=sum(abs(mean - share) * count for mean, share, count in means) / max(len(predicted), 1),
        brier=float(((predicted - came) ** 2).mean()),
    )


@torch.inference_mode()
def purchase_intents(network: Recommender, timeline: Timeline, asked: Questions) -> np.ndarray:
    """The network's probability [B] that a session buys something from its target on, given what came before."""
    network.eval()
    found = np.zeros(len(asked))
    for part in batches(timeline, asked):
        found[part] = purchase_intent(network, *model_inputs(network, timeline, asked[part])).cpu().numpy()
    return found
