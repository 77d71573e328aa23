"""A snapshot's columns as arrays: its vocabulary, and its timeline in the numbers of a vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_tasks.errors import NotEnoughData
from recsys_tasks.features.position_bias import click_weights
from recsys_tasks.features.sequences import Timeline, build_timeline, new_wishes, stable_order
from recsys_tasks.features.snapshot import Snapshot
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import EVENT_TYPE_CODES

_COLUMNS = [
    "user_key",
    "item_id",
    "event_type",
    "event_time",
    "query",
    "session_start",
    "position_in_session",
    "shown_at",
]


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
    """The vocabulary of a snapshot: items often enough acted on before its validation part, most frequent first.

    Raises:
        NotEnoughData: no item is.
    """
    events = snapshot.events_table(["item_id", "event_time"])
    training = events.filter(pc.less(events["event_time"], pa.scalar(snapshot.validation_start)))
    counted = pa.table(
        dict(zip(("values", "counts"), training["item_id"].value_counts().flatten(), strict=True))
    ).rename_columns(["item_id", "training_events"])
    often = counted.filter(pc.greater_equal(counted["training_events"], snapshot.min_item_events))
    often = often.set_column(0, "item_id", often["item_id"].cast(pa.string()))
    table = often.join(snapshot.item_table(), "item_id", join_type="inner").sort_by(
        [("training_events", "descending"), ("item_id", "ascending")]
    )
    if table.num_rows == 0:
        raise NotEnoughData(
            f"No item has {snapshot.min_item_events} events before {snapshot.validation_start:%Y-%m-%d}; "
            "lower RECSYS_MIN_ITEM_EVENTS or ingest more"
        )
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


class OrderedEvents(NamedTuple):
    """A snapshot's events [N] in the order of user, session and place in it: what `build_timeline` takes."""

    user: np.ndarray
    session: np.ndarray
    item: np.ndarray
    kind: np.ndarray
    seconds: np.ndarray
    session_seconds: np.ndarray
    text: np.ndarray
    queries: np.ndarray
    weight: np.ndarray


def load_events(snapshot: Snapshot, vocabulary: Vocabulary) -> tuple[OrderedEvents, list[str | None]]:
    """Reads a snapshot's events into arrays, items in the numbers of `vocabulary`; and the id of each user's number."""
    table = snapshot.events_table(_COLUMNS)
    user_keys, user = _dictionary(table["user_key"])
    items, item = _dictionary(table["item_id"])
    kinds, kind = _dictionary(table["event_type"])
    asked, query = _dictionary(table["query"])
    queries, row_of = vocabulary.query_words(asked)
    place = table["position_in_session"].to_numpy()
    began = _seconds(table["session_start"])
    order = timeline_order(user, began, place, lambda rows: _session_codes(snapshot, rows))
    codes = np.asarray([EVENT_TYPE_CODES[name] for name in kinds], np.int64)
    session, numbers, coded = (
        np.cumsum(place[order] == 1) - 1,
        vocabulary.numbers(items)[item[order]],
        codes[kind[order]],
    )
    shown_at = table["shown_at"].to_numpy()[order] if "shown_at" in table.column_names else np.zeros(len(order), int)
    weight = click_weights(shown_at, np.asarray(snapshot.examination))
    events = OrderedEvents(
        user=user[order],
        session=session,
        item=numbers,
        kind=coded,
        seconds=_seconds(table["event_time"])[order],
        session_seconds=began[order],
        text=row_of[query[order]],
        queries=queries,
        weight=weight * new_wishes(session, numbers, coded),
    )
    return events, [key.removeprefix("u:") if key.startswith("u:") else None for key in user_keys]


def encode_snapshot(snapshot: Snapshot, vocabulary: Vocabulary) -> EncodedSnapshot:
    """The snapshot's events in the numbers of `vocabulary`, which may be an older model's."""
    events, ids = load_events(snapshot, vocabulary)
    timeline = build_timeline(*events)
    starts = timeline.session_first_seconds
    split = (starts >= snapshot.validation_start.timestamp()).astype(np.int8) + (
        starts >= snapshot.test_start.timestamp()
    )
    user_ids = [ids[code] for code in events.user[timeline.user_start[:-1]].tolist()]
    return EncodedSnapshot(timeline, vocabulary, user_ids, split)


def _session_codes(snapshot: Snapshot, rows: np.ndarray) -> np.ndarray:
    return _dictionary(snapshot.events_table(["session_id"])["session_id"].take(pa.array(rows)))[1]


def timeline_order(
    user: np.ndarray, began: np.ndarray, place: np.ndarray, session_of: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The order that turns days of events into timelines: by user, session (by its beginning) and place in it.

    Each day is in that order already, so that a stable sort by user nearly does it. What is left are users whose
    sessions overlap across midnight; only of their rows the session ids are looked at, by `session_of`.
    """
    order = stable_order(user)
    users, starts, places = user[order], began[order], place[order]
    same_user = users[1:] == users[:-1]
    same_start = starts[1:] == starts[:-1]
    follows = same_start & (places[1:] == places[:-1] + 1)
    opens_later = (places[1:] == 1) & ~same_start
    tangled = np.unique(users[1:][same_user & ~follows & ~opens_later])
    if len(tangled):
        at = np.flatnonzero(np.isin(users, tangled))
        rows = order[at]
        order[at] = rows[np.lexsort((place[rows], session_of(rows), began[rows], user[rows]))]
    return order


def _seconds(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy() / 1e6


def _dictionary(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """A column's different values, and for each row which of them it has."""
    whole = column.combine_chunks()
    encoded = whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)
