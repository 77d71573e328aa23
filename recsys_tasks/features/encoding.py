"""A snapshot's columns as arrays: its vocabulary, and its timeline in the numbers of a vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_tasks.features.sequences import Timeline, build_timeline
from recsys_tasks.features.snapshot import Snapshot
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM


@dataclass(frozen=True)
class EncodedSnapshot:
    """A snapshot in the numbers of one vocabulary.

    Attributes:
        timeline: all its events.
        user_ids: id of each of the timeline's users [U]; None for anonymous sessions.
        split: part of each session [S]: 0 training, 1 validation, 2 test, by the time it began.
    """

    timeline: Timeline
    vocabulary: Vocabulary
    user_ids: list[str | None]
    split: np.ndarray


def snapshot_vocabulary(snapshot: Snapshot) -> Vocabulary:
    """The vocabulary of a snapshot: items often enough acted on before its validation part."""
    table = snapshot.item_table()
    text = {
        name: tuple(value or "" for value in table[name].to_pylist()) for name in ("title", "category_path", "brand")
    }
    return Vocabulary(
        item_ids=tuple(table["item_id"].to_pylist()),
        titles=text["title"],
        category_paths=text["category_path"],
        brands=text["brand"],
        counts=tuple(table["training_events"].to_pylist()),
    )


def encode_snapshot(snapshot: Snapshot, vocabulary: Vocabulary) -> EncodedSnapshot:
    """The snapshot's events in the numbers of `vocabulary`, which may be an older model's."""
    table = snapshot.timeline().combine_chunks()
    seconds = _seconds(table["event_time"])
    session_seconds = _seconds(table["session_start"])
    user = _codes(table["user_key"])
    items = table["item_id"].combine_chunks().dictionary_encode()
    item = vocabulary.numbers(items.dictionary.to_pylist())[items.indices.to_numpy(zero_copy_only=False)]
    kinds = table["event_type"].combine_chunks().dictionary_encode()
    codes = np.asarray([EVENT_TYPE_CODES[name] for name in kinds.dictionary.to_pylist()], np.int64)
    kind = codes[kinds.indices.to_numpy(zero_copy_only=False)]
    opens = table["position_in_session"].to_numpy() == 1
    timeline = build_timeline(user, np.cumsum(opens) - 1, item, kind, seconds, session_seconds)
    starts = timeline.session_first_seconds
    split = (starts >= snapshot.validation_start.timestamp()).astype(np.int8) + (
        starts >= snapshot.test_start.timestamp()
    )
    user_ids = table["user_id"].take(pa.array(timeline.user_start[:-1])).to_pylist()
    return EncodedSnapshot(timeline, vocabulary, user_ids, split)


def sessions_repeat(encoded: EncodedSnapshot) -> bool:
    """Whether the training sessions act on an item twice more often than once in a hundred events."""
    timeline = encoded.timeline
    training = (encoded.split[timeline.session] == 0) & (timeline.item >= FIRST_ITEM)
    pairs = timeline.session[training] * len(encoded.vocabulary) + timeline.item[training]
    return len(np.unique(pairs)) < 0.99 * len(pairs)


def _seconds(column: pa.ChunkedArray) -> np.ndarray:
    micros = pc.cast(column, pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    return micros / 1e6


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Runs of equal values as 0, 1, 2, …"""
    codes = column.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return np.cumsum(np.concatenate([[0], codes[1:] != codes[:-1]])) if len(codes) else codes
