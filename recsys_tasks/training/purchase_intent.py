"""Fits purchase intent to a trained network: a logistic regression on its states, calibrated on the validation part.

Few sessions have a purchase. A head that is trained with the network by gradient steps overfits them; a penalized
logistic regression after the training does not, and has one optimum. It reads features of the session so far, among
them how often sessions with its items have a purchase, and the network's directions where these help on the validation
part. Cross-validation within the training part could not tell: the network was trained on the next items of these
sessions, which go together with the outcomes.

Letters in shapes: N events, B session prefixes, D embedding dimension, F features, V items in the vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold

from recsys_tasks.engine.purchase_intent import FEATURES, PurchaseIntent, sigmoid
from recsys_tasks.evaluation.calibration import purchase_intent_inputs
from recsys_tasks.evaluation.protocol import MAX_HISTORY_EVENTS, TRAINING, VALIDATION, sample_session_prefixes
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.features.sequences import MAX_TOKENS, Timeline
from recsys_tasks.features.session_summary import (
    BASELINE_FEATURES,
    ItemStatistics,
    first_token,
    item_features,
    summarize_prefixes,
)
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.training_loop import TrainingData, to_device
from recsys_tasks.model.windows import epoch_windows, events_until, window_batch
from recsys_tasks.names import UNKNOWN_ITEM

log = logging.getLogger(__name__)

_MAX_PREFIXES, _MAX_CROSS_VALIDATION_PREFIXES = 200_000, 30_000
_BATCH_TOKENS = 4_096
_NUM_STATISTICS_FOLDS, _NUM_FOLDS = 5, 3
_FEATURE_VARIANCES = (0.003, 0.03, 0.3)  # of the prior of a feature's weight; features are standardized
_DIRECTION_SCALES = (0.0, 0.1, 0.3, 1.0)  # standard deviation of a direction weight, relative to a feature weight
_MIN_STANDARD_ERRORS = 2.0
_MAX_ITERATIONS = 300
_SLOPE_DEVIATION, _INTERCEPT_DEVIATION = 0.25, 1.0  # of the prior of the calibration, around the identity
_BASELINE_COLUMNS = np.asarray([name in BASELINE_FEATURES for name in FEATURES])


class Prefixes(NamedTuple):
    """Session prefixes: decoder directions [B, D], features [B, F], whether a purchase follows [B], user [B]."""

    direction: np.ndarray
    features: np.ndarray
    buys: np.ndarray
    user: np.ndarray

    def take(self, index: np.ndarray) -> Prefixes:
        """The prefixes at some indices."""
        return Prefixes(*(column[index] for column in self))


class Prior(NamedTuple):
    """Gaussian prior of the weights of standardized inputs.

    Attributes:
        variance: of a feature's weight.
        direction_scale: standard deviation of a direction weight, relative to a feature's; 0 excludes the directions.
    """

    variance: float
    direction_scale: float = 0.0


def fit_purchase_intent(network: Recommender, data: TrainingData, encoded: EncodedSnapshot) -> PurchaseIntent:
    """Purchase intent of a network; without a prediction where the training sessions all have a purchase, or none has.

    The logistic regression is fitted to prefixes of the training part. The validation part decides whether it reads
    the network's directions, and calibrates it.

    Args:
        network: as it was before the decay phase, which trains on the validation events.
        data: its training events.
        encoded: the snapshot that they are from.
    """
    reason = missing_outcome(encoded)
    if reason:
        log.info("The model predicts no purchase intent: %s", reason)
        return PurchaseIntent(reason=reason)
    index, directions = training_directions(network, data)
    prefixes = training_prefixes(data, index, directions)
    items = item_statistics(data, np.ones(len(data.timeline.user_start) - 1, bool))
    tasks = sample_session_prefixes(encoded, VALIDATION)
    inputs = purchase_intent_inputs(network, items, encoded.timeline, tasks)
    buys = encoded.timeline.leads_to_purchase[tasks.target]
    variance = choose_variance(prefixes)
    fitted = [fit_regression(prefixes, Prior(variance, scale)) for scale in _DIRECTION_SCALES]
    chosen = choose_predictor([candidate.logits(*inputs) for candidate in fitted], buys)
    log.info(
        "Purchase intent: fitted to %d session prefixes, %s; calibrated on %d",
        len(index),
        Prior(variance, _DIRECTION_SCALES[chosen]),
        len(buys),
    )
    return calibrate(replace(fitted[chosen], items=items), fitted[chosen].logits(*inputs), buys)


def fit_baseline(data: TrainingData) -> PurchaseIntent:
    """Logistic regression of the `BASELINE_FEATURES` alone, on the training prefixes."""
    timeline = data.timeline
    index = events_until(timeline.user_start[:-1], data.stops, len(timeline))
    if len(index) > _MAX_PREFIXES:
        index = np.sort(np.random.default_rng(0).permutation(index)[:_MAX_PREFIXES])
    prefixes = training_prefixes(data, index, np.zeros((len(index), 0)))
    return fit_regression(prefixes._replace(features=prefixes.features * _BASELINE_COLUMNS), Prior(1.0))


def missing_outcome(encoded: EncodedSnapshot) -> str:
    """Why the training sessions of a snapshot cannot be told apart by a purchase; empty where they can."""
    buys = encoded.timeline.leads_to_purchase[encoded.timeline.session_start[:-1]][encoded.split == TRAINING]
    if buys.all():
        return "every training session has a purchase"
    return "" if buys.any() else "no training session has a purchase"


@torch.inference_mode()
def training_directions(network: Recommender, data: TrainingData) -> tuple[np.ndarray, np.ndarray]:
    """Indices [B] of training events, and the directions [B, D] of the sessions before them.

    If there are many events, of a random part of the windows.
    """
    network.eval()
    total = int((data.stops - data.timeline.user_start[:-1]).sum())
    share = None if total <= _MAX_PREFIXES else np.full(len(data.timeline), _MAX_PREFIXES / total)
    parts = list(_window_directions(network, data.timeline, data.stops, share))
    index, directions = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return index, directions


def _window_directions(
    network: Recommender, timeline: Timeline, stops: np.ndarray, share: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    device, random = network.items.bias.device, np.random.default_rng(0)
    for start, stop in epoch_windows(timeline, stops, MAX_TOKENS, _BATCH_TOKENS, random, share):
        batch = to_device(window_batch(timeline, start, stop, network.config.history), device)
        direction = network.window_directions(batch).cpu().numpy()
        column = np.arange(direction.shape[1])
        valid = column < (stop - start)[:, None]
        yield (start[:, None] + column)[valid], direction[valid]


def training_prefixes(data: TrainingData, index: np.ndarray, direction: np.ndarray) -> Prefixes:
    """The session prefixes before training events [B].

    The item statistics of a user are those of other users (out-of-fold target encoding): with their own sessions
    included, they would contain the outcome.
    """
    timeline = data.timeline
    first = timeline.session_start[:-1][timeline.session[index]]
    summary = summarize_prefixes(timeline, first, index, MAX_HISTORY_EVENTS)
    fold = np.random.default_rng(0).integers(_NUM_STATISTICS_FOLDS, size=len(timeline.user_start) - 1)
    items = np.zeros((len(index), len(FEATURES) - summary.shape[1]))
    for number in range(_NUM_STATISTICS_FOLDS):
        rows = np.flatnonzero(fold[timeline.user[index]] == number)
        others = item_statistics(data, fold != number)
        begin, end = first_token(first[rows], index[rows]), index[rows]
        log_share = float(others.log_rate[UNKNOWN_ITEM])
        items[rows] = item_features(others.of_items(timeline.item), log_share, begin, end)
    features = np.concatenate([summary, items], 1)
    return Prefixes(direction, features, timeline.leads_to_purchase[index], timeline.user[index])


def item_statistics(data: TrainingData, is_included: np.ndarray) -> ItemStatistics:
    """Statistics of the items [V] in the training sessions of included users."""
    timeline = data.timeline
    events = events_until(timeline.user_start[:-1], data.stops, len(timeline))
    events = events[is_included[timeline.user[events]]]
    session = timeline.session[events]
    buys = timeline.leads_to_purchase[timeline.session_start[:-1]][session]
    return ItemStatistics.of_sessions(session, timeline.item[events], buys, len(data.counts))


def choose_variance(prefixes: Prefixes) -> float:
    """The variance of the features' prior with the best log loss in cross-validation over users."""
    if len(prefixes.buys) > _MAX_CROSS_VALIDATION_PREFIXES:
        drawn = np.random.default_rng(0).permutation(len(prefixes.buys))[:_MAX_CROSS_VALIDATION_PREFIXES]
        prefixes = prefixes.take(np.sort(drawn))
    folds = list(GroupKFold(_NUM_FOLDS).split(prefixes.buys, groups=prefixes.user))

    def loss(variance: float) -> float:
        predicted = np.zeros(len(prefixes.buys))
        for fitted_on, held_out in folds:
            part = prefixes.take(held_out)
            fitted = fit_regression(prefixes.take(fitted_on), Prior(variance))
            predicted[held_out] = fitted.predict(part.direction, part.features)
        return float(log_loss(prefixes.buys, predicted, labels=[False, True]))

    return min(_FEATURE_VARIANCES, key=loss)


def choose_predictor(logits: Sequence[np.ndarray], buys: np.ndarray) -> int:
    """Index of the predictor with the lowest log loss on validation outcomes [B].

    It is the first one unless another is better by two standard errors of the paired difference: the first does not
    read the network, whose states fit the training sessions better than new ones.

    Args:
        logits: of each predictor [B].
        buys: the outcomes [B].
    """
    losses = [np.logaddexp(0.0, np.where(buys, -values, values)) for values in logits]
    best = int(np.argmin([loss.mean() for loss in losses]))
    difference = losses[0] - losses[best]
    error = difference.std() / np.sqrt(max(len(difference), 1))
    return best if difference.mean() > _MIN_STANDARD_ERRORS * error else 0


def fit_regression(prefixes: Prefixes, prior: Prior) -> PurchaseIntent:
    """Logistic regression with a prior, without calibration.

    Where the prefixes have one outcome only, as a part of a few may, the weights are zero and the bias is the share.
    """
    num_positive, count = int(prefixes.buys.sum()), len(prefixes.buys)
    parts = [(prefixes.features, 1.0)] + (
        [(prefixes.direction, prior.direction_scale)] if prior.direction_scale else []
    )
    if not 0 < num_positive < count:
        share = (num_positive + 1) / (count + 2)
        zeros = np.zeros(prefixes.direction.shape[1]), np.zeros(prefixes.features.shape[1])
        return PurchaseIntent(*zeros, float(np.log(share / (1 - share))))
    scales = [np.where(part.std(0) > 0, scale / np.maximum(part.std(0), 1e-9), 0.0) for part, scale in parts]
    means = [part.mean(0, dtype=np.float64) for part, _ in parts]
    columns = [(part - mean) * by for (part, _), mean, by in zip(parts, means, scales, strict=True)]
    regression = LogisticRegression(C=prior.variance, max_iter=_MAX_ITERATIONS)
    regression.fit(np.concatenate(columns, 1), prefixes.buys)
    weights = np.split(regression.coef_[0], np.cumsum([len(mean) for mean in means])[:-1])
    weights = [weight * by for weight, by in zip(weights, scales, strict=True)]
    bias = float(regression.intercept_[0]) - sum(float(w @ mean) for w, mean in zip(weights, means, strict=True))
    direction = weights[1] if prior.direction_scale else np.zeros(prefixes.direction.shape[1])
    return PurchaseIntent(direction, weights[0], bias)


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
