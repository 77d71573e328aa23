"""Purchase intent: calibrated logistic regression on the decoder's direction and the summary of the session so far."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys_tasks.features.session_summary import SUMMARY_FEATURES


@dataclass(frozen=True)
class PurchaseIntent:
    """Probability that a session has a purchase from here on; part of the exported model.

    The logit is bias + direction · direction_weights + summary · summary_weights. The probability is the sigmoid of
    slope * logit + intercept (Platt 1999).

    Attributes:
        direction_weights: of the decoder's `direction` [D].
        summary_weights: of the `SUMMARY_FEATURES` [F].
        bias: of the logit.
        slope, intercept: of the calibration.
        reason: why there is no prediction; empty where there is one.
    """

    direction_weights: tuple[float, ...] = ()
    summary_weights: tuple[float, ...] = ()
    bias: float = 0.0
    slope: float = 1.0
    intercept: float = 0.0
    reason: str = ""

    @property
    def is_available(self) -> bool:
        """Whether there is a prediction."""
        return not self.reason

    def logits(self, direction: np.ndarray, summary: np.ndarray) -> np.ndarray:
        """Uncalibrated logits [B] of directions [B, D] and summaries [B, F]."""
        logits: np.ndarray = (
            direction @ np.asarray(self.direction_weights) + summary @ np.asarray(self.summary_weights) + self.bias
        )
        return logits

    def calibrate(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities [B] of uncalibrated logits [B]; non-decreasing, in [0, 1]."""
        return sigmoid(self.slope * logits + self.intercept)

    def predict(self, direction: np.ndarray, summary: np.ndarray) -> np.ndarray:
        """Calibrated probabilities [B] of directions [B, D] and summaries [B, F]."""
        return self.calibrate(self.logits(direction, summary))

    def save(self, path: Path) -> None:
        """Writes the coefficients as JSON, with the names of the features that they belong to."""
        fields = {"features": SUMMARY_FEATURES if self.is_available else (), **asdict(self)}
        path.write_text(json.dumps(fields, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> PurchaseIntent:
        """Reads what `save` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file has other features than this version of the package computes.
        """
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        features = fields.pop("features")
        values: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in fields.items()}
        loaded = cls(**values)
        if loaded.is_available and features != list(SUMMARY_FEATURES):
            raise ValueError(
                f"{path.name} has weights of other features than this version of the package computes; "
                "train the model again"
            )
        return loaded


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logistic function of logits, without overflow."""
    probabilities: np.ndarray = 0.5 * (1.0 + np.tanh(0.5 * logits))
    return probabilities
