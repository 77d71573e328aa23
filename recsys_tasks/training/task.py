"""A snapshot prepared for training and evaluation: encoded events, vocabulary and training data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys_tasks.evaluation.protocol import TRAINING, VALIDATION
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot, build_vocabulary, encode_snapshot, to_seconds
from recsys_tasks.features.popularity_prior import expected_counts
from recsys_tasks.features.snapshot import Snapshot
from recsys_tasks.features.text_encoder import TextEncoder
from recsys_tasks.features.text_vectors import compose_item_text, encode_cached
from recsys_tasks.features.vector_spaces import VectorSpaces, prepare_vectors, read_vector_spaces
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.training_loop import TrainingData
from recsys_tasks.model.windows import recency_weights, training_stops
from recsys_tasks.names import FIRST_ITEM
from recsys_tasks.storage.folder import Folder


class TrainingTask(NamedTuple):
    """A snapshot, its events encoded with its own vocabulary, and their training part.

    Attributes:
        text: text vectors of the items [V, T]; None without a text encoder.
        spaces: vectors of the shop's own encoders; None without any.
        expected_counts: of untrained items that became available during the training period [V], NaN for other items;
            None if there are none.
    """

    snapshot: Snapshot
    encoded: EncodedSnapshot
    vocabulary: Vocabulary
    data: TrainingData
    text: np.ndarray | None = None
    spaces: VectorSpaces | None = None
    expected_counts: np.ndarray | None = None


def read_task(snapshot: Snapshot, encoder: TextEncoder | None = None, cache: Folder | None = None) -> TrainingTask:
    """Reads a snapshot and encodes it with its own vocabulary.

    Args:
        snapshot: the snapshot.
        encoder: of the items' texts; None for no text vectors.
        cache: folder of text vectors; required with an encoder.
    """
    vocabulary = build_vocabulary(snapshot)
    encoded = encode_snapshot(snapshot, vocabulary)
    text = None if encoder is None or cache is None else item_text_vectors(vocabulary, encoder, cache)
    spaces = read_vector_spaces(snapshot.vector_table(), vocabulary)
    expected = _expected_counts(snapshot, encoded)
    return TrainingTask(snapshot, encoded, vocabulary, training_data(encoded), text, spaces, expected)


def item_text_vectors(vocabulary: Vocabulary, encoder: TextEncoder, cache: Folder) -> np.ndarray:
    """Text vectors [V, T] of a vocabulary's items; zero for items without text."""
    columns = zip(vocabulary.titles, vocabulary.category_paths, vocabulary.brands, strict=True)
    texts = [compose_item_text(*column) for column in columns]
    vectors = np.zeros((len(vocabulary), encoder.dimension), np.float32)
    vectors[FIRST_ITEM:] = encode_cached(texts, encoder, cache)
    return prepare_vectors(vectors)


def _expected_counts(snapshot: Snapshot, encoded: EncodedSnapshot) -> np.ndarray | None:
    items, vocabulary = snapshot.item_table(), encoded.vocabulary
    if not len(encoded.timeline) or items["available_from"].null_count == len(items):
        return None
    row = vocabulary.numbers(items["item_id"].to_pylist())
    available_from, available_until = np.full((2, len(vocabulary)), np.nan)
    available_from[row], available_until[row] = (
        to_seconds(items[name]) for name in ("available_from", "available_until")
    )
    timeline = encoded.timeline
    first = np.full(len(vocabulary), np.nan)
    np.fmin.at(first, timeline.item, timeline.seconds)
    period = timeline.seconds.min(), snapshot.validation_start.timestamp()
    expected = expected_counts(vocabulary.training_counts(), first, available_from, available_until, *period)
    if expected is not None:
        expected[: vocabulary.num_trained] = np.nan
    return expected


def training_data(encoded: EncodedSnapshot) -> TrainingData:
    """Training events: those before the validation part, and in the decay phase those before the test part."""
    timeline = encoded.timeline
    stops, final_stops = (training_stops(timeline, encoded.split, last) for last in (TRAINING, VALIDATION))
    recency = recency_weights(timeline.seconds, final_stops, timeline.user_start[:-1])
    return TrainingData(timeline, encoded.vocabulary.training_counts(), stops, final_stops, recency)
