"""What the endpoint reads of a snapshot beside its model: item metadata and users' histories."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_tasks.engine.catalog import CatalogColumns
from recsys_tasks.engine.category_meaning import NO_NAMES, CategoryNames
from recsys_tasks.engine.session_decoder import MAX_STORED_EVENTS
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.features.sequences import SECONDS_PER_DAY, Arrays, Timeline
from recsys_tasks.features.text_encoder import TextEncoder
from recsys_tasks.features.text_vectors import encode_cached, lower_capitals
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import CATEGORY_SEPARATOR, FIRST_ITEM
from recsys_tasks.storage.folder import Folder

_POPULAR_DAYS = 28


def catalog_columns(items: pa.Table, vocabulary: Vocabulary) -> CatalogColumns:
    """Returns the catalog columns of a snapshot, in the order of a vocabulary."""
    rows = items.take(pc.index_in(pa.array(vocabulary.item_ids), items["item_id"].combine_chunks()))
    moments = {
        name: [None if moment is None else moment.timestamp() for moment in rows[name].to_pylist()]
        for name in ("available_from", "available_until")
    }
    return CatalogColumns(
        price=rows["price"].to_pylist(),
        properties=[json.loads(text or "{}") for text in rows["properties"].to_pylist()],
        **moments,
    )


def category_names(vocabulary: Vocabulary, encoder: TextEncoder | None, cache: Folder) -> CategoryNames:
    """Returns the names of a catalog's category levels with their vectors; none without an encoder."""
    if encoder is None:
        return NO_NAMES
    paths = {path for path in vocabulary.category_paths if path}
    names = sorted({level for path in paths for level in path.split(CATEGORY_SEPARATOR) if level})
    vectors = encode_cached([lower_capitals(name) for name in names], encoder, cache, "query")
    return CategoryNames(encoder.name, tuple(names), vectors)


def history_columns(timeline: Timeline, begin: np.ndarray, stop: np.ndarray) -> Arrays:
    """Returns the last events of the ranges [begin, stop) [U] of a timeline as columns of a bundle's histories.

    They are in the order of time, also where sessions overlap.
    """
    begin = np.maximum(begin, stop - MAX_STORED_EVENTS)
    length = stop - begin
    start = np.concatenate([[0], np.cumsum(length)])
    index = np.repeat(begin - start[:-1], length) + np.arange(start[-1])
    index = index[np.lexsort((timeline.seconds[index], np.repeat(np.arange(len(length)), length)))]
    return {
        "start": start,
        "item": timeline.item[index].astype(np.int32),
        "kind": timeline.kind[index].astype(np.int8),
        "seconds": timeline.seconds[index],
        "words": timeline.queries[timeline.text[index]].astype(np.int32),
    }


def user_histories(encoded: EncodedSnapshot, cutoff: float) -> Arrays:
    """Returns the columns of all users with an id, their ids, and the items' popularity in the last weeks [V]."""
    timeline = encoded.timeline
    is_original = timeline.user_start[:-1] < (encoded.num_events or len(timeline))  # not a causal copy
    known = np.asarray(
        [row for row, user in enumerate(encoded.user_ids) if user is not None and is_original[row]], np.int64
    )
    return {
        "users": np.asarray([encoded.user_ids[row] for row in known]),
        **history_columns(timeline, timeline.user_start[:-1][known], timeline.user_start[1:][known]),
        "popularity": recent_popularity(encoded, cutoff),
    }


def recent_popularity(encoded: EncodedSnapshot, cutoff: float) -> np.ndarray:
    """Returns the summed event weights of each item in the four weeks before a time [V]; without event weights, the
    number of actions. Above 0 for every item.

    Items without any are ordered by their training events.
    """
    timeline, counts = encoded.timeline, encoded.vocabulary.training_counts()
    is_recent = timeline.seconds >= cutoff - _POPULAR_DAYS * SECONDS_PER_DAY
    is_recent[encoded.num_events :] = False
    recent = np.flatnonzero(is_recent & (timeline.seconds < cutoff))
    weight = None if encoded.event_weight is None else encoded.event_weight[recent]
    popularity = np.bincount(timeline.item[recent], weight, len(counts)) + (counts + 1) / (counts + 1).sum()
    popularity[:FIRST_ITEM] = 0
    return popularity
