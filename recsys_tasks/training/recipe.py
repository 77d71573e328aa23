"""One recipe for all data: sizes and schedule that follow from what the data is like, never from its name."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from recsys_tasks.features.sequences import MAX_TOKENS
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.neighbors import nearest_items
from recsys_tasks.model.tensors import NetworkConfig
from recsys_tasks.model.training_loop import TrainingConfig, TrainingData
from recsys_tasks.model.windows import events_until
from recsys_tasks.names import FIRST_ITEM

_BATCHES_AN_EPOCH = 200
# What two cores manage with the large network, roughly, and how many passes make it worth its while.
_EVENTS_A_SECOND, _EVENTS_A_SECOND_WITH_HISTORY = 20_000, 8_000
_ENOUGH_PASSES = 10
_FULL_SOFTMAX_ITEMS = 10_000
_NEIGHBOURS = 6
_SIZES = ("history", "width", "heads", "encoder_layers", "decoder_layers", "expansion", "places", "age_rank")


def network_config(data: TrainingData, vocabulary: Vocabulary, history: bool, seconds: float) -> NetworkConfig:
    """Sizes for events, a vocabulary and a time: a smaller network where the time allows few passes."""
    passes = _passes(data, history, seconds)
    large = passes >= _ENOUGH_PASSES
    return NetworkConfig(
        items=len(vocabulary),
        content_tokens=len(vocabulary.content_names) if len(vocabulary.content_names) > 1 else 0,
        history=history,
        sessions_repeat=sessions_repeat(data),
        query_words=data.timeline.queries.shape[1],
        width=128 if large else 64,
        heads=4 if large else 2,
        decoder_layers=2 if large else 1,
        dropout=dropout(len(training_events(data))) * min(1.0, passes / _ENOUGH_PASSES),
        places=MAX_TOKENS,
        neighbours=0 if history else _NEIGHBOURS,
    )


def training_config(
    data: TrainingData, vocabulary: Vocabulary, history: bool, seconds: float, seed: int
) -> TrainingConfig:
    """A schedule for events, a vocabulary and a time: a shorter decay where the time allows few passes."""
    events = len(training_events(data))
    sampled = len(vocabulary) > _FULL_SOFTMAX_ITEMS
    return TrainingConfig(
        epochs=1_000,
        seconds=seconds,
        patience=4,
        judge_after=500_000,
        decay=0.35 if _passes(data, history, seconds) >= _ENOUGH_PASSES else 0.2,
        window=MAX_TOKENS,
        batch_tokens=int(np.clip(events // _BATCHES_AN_EPOCH, 128, 4096 if sampled else 2048)),
        negatives=2048 if sampled else 0,
        rate=2e-3,
        seed=seed,
    )


def _passes(data: TrainingData, history: bool, seconds: float) -> float:
    """How often a time is enough to go through the training events, roughly."""
    a_second = _EVENTS_A_SECOND_WITH_HISTORY if history else _EVENTS_A_SECOND
    return seconds * a_second / max(len(training_events(data)), 1)


def neighbours(data: TrainingData, config: NetworkConfig) -> np.ndarray:
    """Neighbours of each item [V, config.neighbours], by the sessions that are trained on until the decay."""
    return nearest_items(*session_events(data), len(data.counts), config.neighbours)


def in_the_sizes_of(trained: NetworkConfig, config: NetworkConfig) -> NetworkConfig:
    """A configuration for new data in the sizes of a trained network, whose weights it is to take over."""
    kept = {name: getattr(trained, name) for name in _SIZES}
    return replace(config, **kept)


def sessions_repeat(data: TrainingData) -> bool:
    """Whether the training sessions want an item twice more often than once in a hundred events."""
    index = training_events(data)
    index = index[(data.timeline.item[index] >= FIRST_ITEM) & (data.timeline.weight[index] > 0)]
    pairs = data.timeline.session[index] * len(data.counts) + data.timeline.item[index]
    return len(np.unique(pairs)) < 0.99 * len(pairs)


def dropout(events: int) -> float:
    """The fewer events, the more passes over them, and the more a network would learn by heart."""
    return float(np.clip(0.5 - 0.12 * math.log(max(events, 1) / 170_000), 0.05, 0.5))


def training_events(data: TrainingData) -> np.ndarray:
    """Indices of the events that are trained on until the decay."""
    return events_until(data.timeline.user_start[:-1], data.stops, len(data.timeline))


def session_events(data: TrainingData) -> tuple[np.ndarray, np.ndarray]:
    """Sessions, numbered in the order of time, and items of the training events [N], repetitions included."""
    timeline, events = data.timeline, training_events(data)
    order = np.argsort(timeline.session_first_seconds, kind="stable")
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    known = events[timeline.item[events] >= FIRST_ITEM]
    return number[timeline.session[known]], timeline.item[known]
