"""Training recipe for all data sets: network sizes and schedule, derived from the data and the time budget."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from recsys_tasks.features.sequences import MAX_TOKENS
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.neighbors import count_item_neighbors, nearest_items
from recsys_tasks.model.tensors import NetworkConfig
from recsys_tasks.model.training_loop import TrainingConfig, TrainingData
from recsys_tasks.model.windows import events_until
from recsys_tasks.names import FIRST_ITEM

_BATCHES_PER_EPOCH, _MIN_BATCH_TOKENS = 200, 128
_MAX_BATCH_TOKENS, _MAX_BATCH_TOKENS_WITH_HISTORY = 4096, 1024  # more steps did better than larger batches
_WINDOW_SIZE_WITH_HISTORY = 400  # in shorter windows, items that were taken earlier look new
_NUM_NEGATIVES, _NUM_NEGATIVES_WITH_HISTORY = 2048, 1024
_LEARNING_RATE, _LEARNING_RATE_WITH_HISTORY = 2e-3, 2.5e-3
# Approximate throughput of the large network on two cores, and the passes over the data that justify its size.
_EVENTS_PER_SECOND, _EVENTS_PER_SECOND_WITH_HISTORY = 20_000, 8_000
_MIN_PASSES = 10
_MAX_FULL_SOFTMAX_ITEMS = 10_000
_NUM_NEIGHBORS = 6  # in an item's vector
_NEIGHBOR_TOKENS, _MAX_ITEM_NEIGHBORS = 20, 50  # of the neighbor component
_SIZES = (
    "history",
    "embedding_dim",
    "num_heads",
    "num_encoder_layers",
    "num_decoder_layers",
    "neighbor_tokens",
    "ffn_multiplier",
    "max_positions",
    "age_rank",
)


def network_config(
    data: TrainingData, vocabulary: Vocabulary, history: bool, seconds: float, text_dim: int = 0
) -> NetworkConfig:
    """Network for events, a vocabulary and a time budget; smaller where the budget allows few passes."""
    passes = _expected_passes(data, history, seconds)
    is_large, repeat = passes >= _MIN_PASSES, sessions_repeat(data)
    return NetworkConfig(
        num_items=len(vocabulary),
        num_trained_items=vocabulary.num_trained,
        num_content_tokens=len(vocabulary.token_names) if len(vocabulary.token_names) > 1 else 0,
        text_dim=text_dim,
        history=history,
        sessions_repeat=repeat,
        query_words=data.timeline.queries.shape[1],
        embedding_dim=128 if is_large else 64,
        num_heads=4 if is_large else 2,
        num_decoder_layers=2 if is_large else 1,
        dropout=dropout_rate(len(training_events(data))) * min(1.0, passes / _MIN_PASSES),
        max_positions=MAX_TOKENS,
        num_neighbors=0 if history else _NUM_NEIGHBORS,
        # Without a history, session neighbors do as well as item neighbors, which take time to train.
        neighbor_tokens=_NEIGHBOR_TOKENS if history else 0,
    )


def training_config(
    data: TrainingData, vocabulary: Vocabulary, history: bool, seconds: float, seed: int
) -> TrainingConfig:
    """Hyperparameters for events, a vocabulary and a time budget; a shorter decay where it allows few passes."""
    events = len(training_events(data))
    is_sampled = len(vocabulary) > _MAX_FULL_SOFTMAX_ITEMS
    max_batch_tokens = _MAX_BATCH_TOKENS_WITH_HISTORY if history else _MAX_BATCH_TOKENS // (1 if is_sampled else 2)
    return TrainingConfig(
        epochs=1_000,
        seconds=seconds,
        patience=4,
        validation_interval_events=500_000,
        decay_fraction=0.35 if _expected_passes(data, history, seconds) >= _MIN_PASSES else 0.2,
        window_size=_WINDOW_SIZE_WITH_HISTORY if history else MAX_TOKENS,
        batch_tokens=int(np.clip(events // _BATCHES_PER_EPOCH, _MIN_BATCH_TOKENS, max_batch_tokens)),
        num_negatives=(_NUM_NEGATIVES_WITH_HISTORY if history else _NUM_NEGATIVES) if is_sampled else 0,
        learning_rate=_LEARNING_RATE_WITH_HISTORY if history else _LEARNING_RATE,
        seed=seed,
    )


def _expected_passes(data: TrainingData, history: bool, seconds: float) -> float:
    """Approximate number of passes over the training events that fit the time budget."""
    events_per_second = _EVENTS_PER_SECOND_WITH_HISTORY if history else _EVENTS_PER_SECOND
    return seconds * events_per_second / max(len(training_events(data)), 1)


def neighbors(data: TrainingData, config: NetworkConfig) -> np.ndarray:
    """Neighbors of each item [V, config.num_neighbors], by co-occurrence in the training sessions before the decay."""
    return nearest_items(*session_events(data), len(data.counts), config.num_neighbors)


def with_item_neighbors(data: TrainingData) -> TrainingData:
    """Returns the data with the item neighbors of its training events, before the decay and in it."""
    neighbors, final_neighbors = (
        count_item_neighbors(*session_events(data._replace(stops=stops)), len(data.counts), _MAX_ITEM_NEIGHBORS)
        for stops in (data.stops, data.final_stops)
    )
    return data._replace(neighbors=neighbors, final_neighbors=final_neighbors)


def with_trained_sizes(trained: NetworkConfig, config: NetworkConfig) -> NetworkConfig:
    """`config` with the sizes of a trained network, so that its weights can be copied."""
    sizes = {name: getattr(trained, name) for name in _SIZES}
    return replace(config, **sizes)


def sessions_repeat(data: TrainingData) -> bool:
    """Whether more than 1% of the training targets repeat an item of their session."""
    index = training_events(data)
    index = index[(data.timeline.item[index] >= FIRST_ITEM) & (data.timeline.weight[index] > 0)]
    pairs = data.timeline.session[index] * len(data.counts) + data.timeline.item[index]
    return len(np.unique(pairs)) < 0.99 * len(pairs)


def dropout_rate(events: int) -> float:
    """Dropout for a number of training events: fewer events need more regularization."""
    return float(np.clip(0.5 - 0.12 * math.log(max(events, 1) / 170_000), 0.05, 0.5))


def training_events(data: TrainingData) -> np.ndarray:
    """Indices of the training events before the decay."""
    return events_until(data.timeline.user_start[:-1], data.stops, len(data.timeline))


def session_events(data: TrainingData) -> tuple[np.ndarray, np.ndarray]:
    """Session number, in order of time, and item of each training event [N], repetitions included."""
    timeline, events = data.timeline, training_events(data)
    order = np.argsort(timeline.session_first_seconds, kind="stable")
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    known = events[timeline.item[events] >= FIRST_ITEM]
    return number[timeline.session[known]], timeline.item[known]
