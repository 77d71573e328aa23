"""Purchase intent: calibrated logistic regression on the decoder's direction and features of the session so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recsys_tasks.features.session_summary import ITEM_FEATURES, SUMMARY_FEATURES, ItemStatistics

FEATURES = (*SUMMARY_FEATURES, *ITEM_FEATURES)


def _no_values() -> np.ndarray:
    return np.zeros(0)


@dataclass(frozen=True, eq=False)
class PurchaseIntent:
    """Probability that a session has a purchase from here on; part of the exported model.

    The logit is bias + direction · direction_weights + features · feature_weights. The probability is the sigmoid of
    slope * logit + intercept (Platt 1999).

    Attributes:
        direction_weights: of the decoder's `direction` [D].
        feature_weights: of the `FEATURES` [F].
        bias: of the logit.
        items: statistics of the items that the features read.
        slope, intercept: of the calibration; the slope is positive.
        reason: why there is no prediction; empty where there is one.
    """

    direction_weights: np.ndarray = field(default_factory=_no_values)
    feature_weights: np.ndarray = field(default_factory=_no_values)
    bias: float = 0.0
    items: ItemStatistics = field(default_factory=lambda: ItemStatistics(np.zeros(2), np.zeros(2)))
    slope: float = 1.0
    intercept: float = 0.0
    reason: str = ""

    @property
    def is_available(self) -> bool:
        """Whether there is a prediction."""
        return not self.reason

    def logits(self, direction: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Uncalibrated logits [B] of directions [B, D] and features [B, F]."""
        logits: np.ndarray = direction @ self.direction_weights + features @ self.feature_weights + self.bias
        return logits

    def calibrate(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities [B] of uncalibrated logits [B]; non-decreasing, in [0, 1]."""
        return sigmoid(self.slope * logits + self.intercept)

    def predict(self, direction: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Calibrated probabilities [B] of directions [B, D] and features [B, F]."""
        return self.calibrate(self.logits(direction, features))

    def save(self, path: Path) -> None:
        """Writes the coefficients as a NumPy archive, with the names of the features that they belong to."""
        np.savez(
            path,
            names=np.asarray(FEATURES),
            direction_weights=self.direction_weights,
            feature_weights=self.feature_weights,
            log_rate=self.items.log_rate,
            log_sessions=self.items.log_sessions,
            scalars=np.asarray([self.bias, self.slope, self.intercept]),
            reason=np.asarray(self.reason),
        )

    @classmethod
    def load(cls, path: Path) -> PurchaseIntent:
        """Reads what `save` wrote.

        Raises:
            OSError: the file cannot be read.
            KeyError: an array is missing.
            ValueError: the weights are of other features than this version of the package computes.
        """
        with np.load(path, allow_pickle=False) as stored:
            bias, slope, intercept = stored["scalars"].tolist()
            items = ItemStatistics(stored["log_rate"], stored["log_sessions"])
            weights = stored["direction_weights"], stored["feature_weights"]
            loaded = cls(*weights, bias, items, slope, intercept, str(stored["reason"]))
            if loaded.is_available and stored["names"].tolist() != list(FEATURES):
                raise ValueError(
                    f"{path.name} has weights of other features than this version of the package computes; "
                    "train the model again"
                )
        return loaded


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logistic function of logits, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * logits))
