"""A snapshot prepared for training and evaluation: encoded events, vocabulary and training data."""

from __future__ import annotations

from typing import NamedTuple

from recsys_tasks.evaluation.protocol import TRAINING, VALIDATION
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot, build_vocabulary, encode_snapshot
from recsys_tasks.features.snapshot import Snapshot
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.training_loop import TrainingData
from recsys_tasks.model.windows import recency_weights, training_stops


class TrainingTask(NamedTuple):
    """A snapshot, its events encoded with its own vocabulary, and their training part."""

    snapshot: Snapshot
    encoded: EncodedSnapshot
    vocabulary: Vocabulary
    data: TrainingData


def read_task(snapshot: Snapshot) -> TrainingTask:
    """Reads a snapshot and encodes it with its own vocabulary."""
    vocabulary = build_vocabulary(snapshot)
    encoded = encode_snapshot(snapshot, vocabulary)
    return TrainingTask(snapshot, encoded, vocabulary, training_data(encoded))


def training_data(encoded: EncodedSnapshot) -> TrainingData:
    """Training events: those before the validation part, and in the decay phase those before the test part."""
    timeline = encoded.timeline
    stops, final_stops = (training_stops(timeline, encoded.split, last) for last in (TRAINING, VALIDATION))
    recency = recency_weights(timeline.seconds, final_stops, timeline.user_start[:-1])
    return TrainingData(timeline, encoded.vocabulary.training_counts(), stops, final_stops, recency)
