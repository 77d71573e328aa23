"""A snapshot prepared for training and evaluation: encoded events, vocabulary and training data."""

from __future__ import annotations

from typing import NamedTuple

from recsys_tasks.evaluation.protocol import TRAINING, VALIDATION
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot, encode_snapshot, snapshot_vocabulary
from recsys_tasks.features.snapshot import Snapshot
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.training_loop import TrainingData
from recsys_tasks.model.windows import freshness, training_stops


class TrainingTask(NamedTuple):
    """A snapshot, its events in the numbers of its own vocabulary, and the part of them that is trained on."""

    snapshot: Snapshot
    encoded: EncodedSnapshot
    vocabulary: Vocabulary
    data: TrainingData


def read_task(snapshot: Snapshot) -> TrainingTask:
    """Reads a snapshot and encodes it with a vocabulary of its own."""
    vocabulary = snapshot_vocabulary(snapshot)
    encoded = encode_snapshot(snapshot, vocabulary)
    return TrainingTask(snapshot, encoded, vocabulary, training_data(encoded))


def training_data(encoded: EncodedSnapshot) -> TrainingData:
    """The events before the validation part, and for the decay phase those before the test part."""
    timeline = encoded.timeline
    stops, final_stops = (training_stops(timeline, encoded.split, last) for last in (TRAINING, VALIDATION))
    fresh = freshness(timeline.seconds, final_stops, timeline.user_start[:-1])
    return TrainingData(timeline, encoded.vocabulary.all_counts(), stops, final_stops, fresh)
