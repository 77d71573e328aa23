"""Fits purchase intent to a trained network: a logistic regression on its states, calibrated on the validation part.

Few sessions have a purchase. A head that is trained with the network by gradient steps overfits them; a penalized
logistic regression on the states of the trained network does not, and has one optimum. Its penalty of the network's
states relative to that of the session summary is chosen by cross-validation, which may exclude the states: then the
model is the logistic regression of the summary alone.

Letters in shapes: B session prefixes, D embedding dimension, F features of the summary.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold

from recsys_tasks.engine.purchase_intent import PurchaseIntent, sigmoid
from recsys_tasks.evaluation.calibration import purchase_intent_inputs
from recsys_tasks.evaluation.protocol import MAX_HISTORY_EVENTS, TRAINING, VALIDATION, sample_session_prefixes
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.features.sequences import MAX_TOKENS, Timeline
from recsys_tasks.features.session_summary import SUMMARY_FEATURES, summarize_prefixes
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.training_loop import TrainingData, to_device
from recsys_tasks.model.windows import epoch_windows, events_until, window_batch

log = logging.getLogger(__name__)

_MAX_PREFIXES, _MAX_CROSS_VALIDATION_PREFIXES = 200_000, 40_000
_BATCH_TOKENS = 4_096
_NUM_FOLDS = 3
_PENALTY = 1.0  # variance of the prior of a summary weight, of standardized features
_DIRECTION_SCALES = (0.0, 0.03, 0.1, 0.3)  # standard deviation of the prior of a direction weight
_MAX_ITERATIONS = 300
_SLOPE_DEVIATION, _INTERCEPT_DEVIATION = 0.5, 1.0  # of the prior of the calibration, around the identity


class Prefixes(NamedTuple):
    """Session prefixes: decoder directions [B, D], summaries [B, F], whether a purchase follows [B], user [B]."""

    direction: np.ndarray
    summary: np.ndarray
    buys: np.ndarray
    user: np.ndarray

    def take(self, index: np.ndarray) -> Prefixes:
        """The prefixes at some indices."""
        return Prefixes(*(column[index] for column in self))


def fit_purchase_intent(network: Recommender, data: TrainingData, encoded: EncodedSnapshot) -> PurchaseIntent:
    """Purchase intent of a network; without a prediction where the training sessions all have a purchase, or none has.

    The logistic regression is fitted to prefixes of the training part, and calibrated on the validation part. Call it
    with the final network: as the network is trained without purchases as targets, its last training phase, which
    includes the validation events, does not bring their outcomes into the states.

    Args:
        network: trained.
        data: its training events.
        encoded: the snapshot that they are from.
    """
    reason = missing_outcome(encoded)
    if reason:
        log.info("The model predicts no purchase intent: %s", reason)
        return PurchaseIntent(reason=reason)
    prefixes = training_prefixes(network, data)
    scale = choose_direction_scale(prefixes)
    fitted = fit_regression(prefixes, scale)
    log.info("Purchase intent: fitted to %d session prefixes, prior of the states %g", len(prefixes.buys), scale)
    tasks = sample_session_prefixes(encoded, VALIDATION)
    inputs = purchase_intent_inputs(network, encoded.timeline, tasks)
    return calibrate(fitted, fitted.logits(*inputs), encoded.timeline.leads_to_purchase[tasks.target])


def missing_outcome(encoded: EncodedSnapshot) -> str:
    """Why the training sessions of a snapshot cannot be told apart by a purchase; empty where they can."""
    buys = encoded.timeline.leads_to_purchase[encoded.timeline.session_start[:-1]][encoded.split == TRAINING]
    if buys.all():
        return "every training session has a purchase"
    return "" if buys.any() else "no training session has a purchase"


def fit_baseline(data: TrainingData) -> PurchaseIntent:
    """Logistic regression of the session summary alone, on the same training prefixes as `fit_purchase_intent`'s."""
    timeline = data.timeline
    index = events_until(timeline.user_start[:-1], data.stops, len(timeline))
    if len(index) > _MAX_PREFIXES:
        index = np.sort(np.random.default_rng(0).permutation(index)[:_MAX_PREFIXES])
    return fit_regression(_prefixes(timeline, index, np.zeros((len(index), 0))), 0.0)


@torch.inference_mode()
def training_prefixes(network: Recommender, data: TrainingData) -> Prefixes:
    """Prefixes of the training sessions, the empty one included; of a random part of the windows if there are many."""
    network.eval()
    timeline = data.timeline
    total = int((data.stops - timeline.user_start[:-1]).sum())
    share = None if total <= _MAX_PREFIXES else np.full(len(timeline), _MAX_PREFIXES / total)
    parts = list(_window_directions(network, timeline, data.stops, share))
    index, directions = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return _prefixes(timeline, index, directions)


def _prefixes(timeline: Timeline, index: np.ndarray, direction: np.ndarray) -> Prefixes:
    """The session prefixes before events [B]."""
    first = timeline.session_start[:-1][timeline.session[index]]
    summary = summarize_prefixes(timeline, first, index, MAX_HISTORY_EVENTS)
    return Prefixes(direction, summary, timeline.leads_to_purchase[index], timeline.user[index])


def _window_directions(
    network: Recommender, timeline: Timeline, stops: np.ndarray, share: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices [B] of events, and the directions [B, D] of the sessions before them, by batch of windows."""
    device, random = network.items.bias.device, np.random.default_rng(0)
    for start, stop in epoch_windows(timeline, stops, MAX_TOKENS, _BATCH_TOKENS, random, share):
        batch = to_device(window_batch(timeline, start, stop, network.config.history), device)
        direction = network.window_directions(batch).cpu().numpy()
        column = np.arange(direction.shape[1])
        valid = column < (stop - start)[:, None]
        yield (start[:, None] + column)[valid], direction[valid]


def choose_direction_scale(prefixes: Prefixes) -> float:
    """The scale of the direction's prior with the best log loss in cross-validation over users."""
    if len(prefixes.buys) > _MAX_CROSS_VALIDATION_PREFIXES:
        drawn = np.random.default_rng(0).permutation(len(prefixes.buys))[:_MAX_CROSS_VALIDATION_PREFIXES]
        prefixes = prefixes.take(np.sort(drawn))
    folds = list(GroupKFold(_NUM_FOLDS).split(prefixes.buys, groups=prefixes.user))

    def loss(scale: float) -> float:
        predicted = np.zeros(len(prefixes.buys))
        for fitted_on, held_out in folds:
            part = prefixes.take(held_out)
            predicted[held_out] = fit_regression(prefixes.take(fitted_on), scale).predict(part.direction, part.summary)
        return float(log_loss(prefixes.buys, predicted, labels=[False, True]))

    return min(_DIRECTION_SCALES, key=loss)


def fit_regression(prefixes: Prefixes, direction_scale: float) -> PurchaseIntent:
    """Logistic regression with Gaussian priors of its weights, without calibration.

    Args:
        prefixes: to fit; both outcomes occur.
        direction_scale: standard deviation of the prior of a direction weight, relative to that of a summary weight;
            0 excludes the directions.
    """
    parts = [(prefixes.summary, 1.0)] + ([(prefixes.direction, direction_scale)] if direction_scale else [])
    scales = [np.where(part.std(0) > 0, scale / np.maximum(part.std(0), 1e-9), 0.0) for part, scale in parts]
    means = [part.mean(0, dtype=np.float64) for part, _ in parts]
    columns = [(part - mean) * by for (part, _), mean, by in zip(parts, means, scales, strict=True)]
    regression = LogisticRegression(C=_PENALTY, max_iter=_MAX_ITERATIONS).fit(np.concatenate(columns, 1), prefixes.buys)
    weights = np.split(regression.coef_[0], [len(SUMMARY_FEATURES)])
    unscaled = [weight * by for weight, by in zip(weights, scales, strict=False)]
    bias = float(regression.intercept_[0]) - sum(float(w @ mean) for w, mean in zip(unscaled, means, strict=True))
    direction = unscaled[1] if direction_scale else np.zeros(prefixes.direction.shape[1])
    return PurchaseIntent(tuple(direction.tolist()), tuple(unscaled[0].tolist()), bias)


def calibrate(intent: PurchaseIntent, logits: np.ndarray, buys: np.ndarray) -> PurchaseIntent:
    """Platt's calibration (1999) of uncalibrated logits [B] to outcomes [B], with a prior around the identity.

    With few purchases isotonic regression overfits (Niculescu-Mizil and Caruana 2005), and so may two free parameters;
    the prior keeps them near the identity unless the validation part contradicts it.
    """
    sign = np.where(buys, 1.0, -1.0)

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        log_slope, intercept = parameters
        slope = np.exp(log_slope)
        margin = sign * (slope * logits + intercept)
        gradient = -sign * sigmoid(-margin)
        prior = (log_slope / _SLOPE_DEVIATION) ** 2 / 2 + (intercept / _INTERCEPT_DEVIATION) ** 2 / 2
        return float(np.logaddexp(0.0, -margin).sum() + prior), np.asarray(
            [
                (gradient * logits).sum() * slope + log_slope / _SLOPE_DEVIATION**2,
                gradient.sum() + intercept / _INTERCEPT_DEVIATION**2,
            ]
        )

    log_slope, intercept = minimize(objective, np.zeros(2), jac=True, method="L-BFGS-B").x
    return replace(intent, slope=float(np.exp(log_slope)), intercept=float(intercept))
