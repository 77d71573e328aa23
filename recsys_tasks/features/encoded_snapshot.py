"""Encodes a snapshot as arrays: its vocabulary, and its timeline in a vocabulary's item numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_tasks.errors import NotEnoughData
from recsys_tasks.features.event_weights import event_weights, intent_weights
from recsys_tasks.features.overlapping_sessions import OrderedEvents, replace_overlapping_sessions
from recsys_tasks.features.position_bias import click_weights
from recsys_tasks.features.sequences import Timeline, build_timeline, novel_intents, stable_argsort
from recsys_tasks.features.snapshot import Snapshot
from recsys_tasks.features.tokenization import tokenize
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import EVENT_TYPE_CODES

_MIN_PEOPLE_PER_WORD = 3  # who searched for a word that has an embedding though no item has it
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
_DWELL = "dwell_seconds"


@dataclass(frozen=True)
class EncodedSnapshot:
    """A snapshot encoded with one vocabulary.

    Attributes:
        timeline: all events, then causal copies of overlapping held-out sessions; see `replace_overlapping_sessions`.
        num_events: number of events without the copies.
        event_weight: weight of each event without the copies, by its type and dwell time; None for 1.
        user_ids: id of each user of the timeline [U]; None for anonymous sessions.
        split: split of each session by its start time [S]: 0 training, 1 validation, 2 test.
    """

    timeline: Timeline
    vocabulary: Vocabulary
    user_ids: list[str | None]
    split: np.ndarray
    num_events: int | None = None
    event_weight: np.ndarray | None = None


def build_vocabulary(snapshot: Snapshot) -> Vocabulary:
    """Returns the vocabulary of a snapshot: its whole catalog, most frequent item first.

    Items with at least `min_item_events` events before the validation split are trained, the others are placed by their
    content.

    Raises:
        NotEnoughData: the catalog is empty.
    """
    events = snapshot.events_table(["item_id", "event_time"])
    training = events.filter(pc.less(events["event_time"], pa.scalar(snapshot.validation_start)))
    item_counts = pa.table(
        dict(zip(("values", "counts"), training["item_id"].value_counts().flatten(), strict=True))
    ).rename_columns(["item_id", "training_events"])
    item_counts = item_counts.set_column(0, "item_id", item_counts["item_id"].cast(pa.string()))
    columns = ["item_id", "title", "category_path", "brand"]
    joined = snapshot.item_table().select(columns).join(item_counts, "item_id", join_type="left outer")
    counts = pc.fill_null(joined["training_events"], 0)
    table = joined.set_column(joined.column_names.index("training_events"), "training_events", counts).sort_by(
        [("training_events", "descending"), ("item_id", "ascending")]
    )
    if table.num_rows == 0:
        raise NotEnoughData("The catalog of the snapshot is empty; ingest items first")
    num_trained = pc.sum(pc.greater_equal(table["training_events"], snapshot.min_item_events)).as_py()
    text = {
        name: tuple(value or "" for value in table[name].to_pylist()) for name in ("title", "category_path", "brand")
    }
    return Vocabulary(
        item_ids=tuple(table["item_id"].to_pylist()),
        titles=text["title"],
        category_paths=text["category_path"],
        brands=text["brand"],
        counts=tuple(table["training_events"].to_pylist()),
        num_untrained=table.num_rows - num_trained,
        query_words=_query_words(snapshot),
    )


def _query_words(snapshot: Snapshot) -> tuple[str, ...]:
    """Words of the searches before the validation split that enough people used."""
    searches = snapshot.events_table(["user_key", "event_time", "query"])
    is_search = pc.and_(
        pc.less(searches["event_time"], pa.scalar(snapshot.validation_start)),
        pc.not_equal(searches["query"].cast(pa.string()), ""),
    )
    asked = searches.filter(is_search).group_by(["query", "user_key"]).aggregate([])
    people_of = defaultdict[str, set[str]](set)
    for query, user in zip(asked["query"].to_pylist(), asked["user_key"].to_pylist(), strict=True):
        for word in tokenize(query):
            people_of[word].add(user)
    return tuple(sorted(word for word, people in people_of.items() if len(people) >= _MIN_PEOPLE_PER_WORD))


def load_events(
    snapshot: Snapshot, vocabulary: Vocabulary
) -> tuple[OrderedEvents, list[str | None], np.ndarray | None]:
    """Returns a snapshot's events, with items encoded by `vocabulary`, the user id of each user index, and the weight
    of each event if the snapshot has event weights."""
    table = snapshot.events_table([*_COLUMNS, _DWELL] if snapshot.event_weights else _COLUMNS)
    user_keys, user = _dictionary_encode(table["user_key"])
    item_ids, item = _dictionary_encode(table["item_id"])
    event_types, kind = _dictionary_encode(table["event_type"])
    query_texts, query = _dictionary_encode(table["query"])
    queries, row_of = vocabulary.encode_queries(query_texts)
    position = table["position_in_session"].to_numpy()
    session_start = to_seconds(table["session_start"])
    order = timeline_order(user, session_start, position, lambda rows: _session_codes(snapshot, rows))
    codes = np.asarray([EVENT_TYPE_CODES[name] for name in event_types], np.int64)
    session = np.cumsum(position[order] == 1) - 1
    item_numbers = vocabulary.numbers(item_ids)[item[order]]
    kind_codes = codes[kind[order]]
    shown_at = table["shown_at"].to_numpy()[order] if "shown_at" in table.column_names else np.zeros(len(order), int)
    weight = click_weights(shown_at, np.asarray(snapshot.examination_propensities))
    event_weight = None
    if snapshot.event_weights:
        dwell = table[_DWELL].to_numpy()[order] if _DWELL in table.column_names else np.full(len(order), np.nan)
        event_weight = event_weights(snapshot.event_weights, kind_codes, dwell)
        weight = weight * intent_weights(event_weight, session, item[order])
    events = OrderedEvents(
        user=user[order],
        session=session,
        item=item_numbers,
        kind=kind_codes,
        seconds=to_seconds(table["event_time"])[order],
        session_seconds=session_start[order],
        text=row_of[query[order]],
        queries=queries,
        weight=weight * novel_intents(session, item[order], kind_codes),  # by id: unknown items stay distinct
    )
    return events, [key.removeprefix("u:") if key.startswith("u:") else None for key in user_keys], event_weight


def encode_snapshot(snapshot: Snapshot, vocabulary: Vocabulary) -> EncodedSnapshot:
    """Encodes a snapshot with `vocabulary`, which may be that of an earlier model."""
    events, id_of_user, weight = load_events(snapshot, vocabulary)
    num_events = len(events.item)
    events, copied_users = replace_overlapping_sessions(events, len(id_of_user), snapshot.test_start.timestamp())
    id_of_user += [id_of_user[user] for user in copied_users]
    timeline = build_timeline(*events)
    starts = timeline.session_first_seconds
    split = (starts >= snapshot.validation_start.timestamp()).astype(np.int8) + (
        starts >= snapshot.test_start.timestamp()
    )
    user_ids = [id_of_user[user] for user in events.user[timeline.user_start[:-1]].tolist()]
    split[timeline.session_start[:-1] >= num_events] = 2  # the copies, with their histories
    return EncodedSnapshot(timeline, vocabulary, user_ids, split, num_events, weight)


def _session_codes(snapshot: Snapshot, rows: np.ndarray) -> np.ndarray:
    return _dictionary_encode(snapshot.events_table(["session_id"])["session_id"].take(pa.array(rows)))[1]


def timeline_order(
    user: np.ndarray,
    session_start: np.ndarray,
    position: np.ndarray,
    load_sessions: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Returns the order [N] of concatenated daily partitions by user, session start, session and position.

    Each partition is already in that order, so a stable sort by user is nearly enough. Only users whose sessions
    overlap across midnight need a full sort, and only their session ids are loaded.

    Args:
        user, session_start, position: user index, start of the session and position in it, of each event [N].
        load_sessions: returns the session codes of given rows.
    """
    order = stable_argsort(user)
    users, starts, positions = user[order], session_start[order], position[order]
    same_user = users[1:] == users[:-1]
    same_start = starts[1:] == starts[:-1]
    continues_session = same_start & (positions[1:] == positions[:-1] + 1)
    opens_session = (positions[1:] == 1) & ~same_start
    overlapping_users = np.unique(users[1:][same_user & ~continues_session & ~opens_session])
    if len(overlapping_users):
        at = np.flatnonzero(np.isin(users, overlapping_users))
        rows = order[at]
        order[at] = rows[np.lexsort((position[rows], load_sessions(rows), session_start[rows], user[rows]))]
    return order


def to_seconds(column: pa.ChunkedArray) -> np.ndarray:
    """Returns times in seconds since 1970 [N]; NaN for null."""
    return column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy() / 1e6


def _dictionary_encode(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """Returns a column's distinct values and each row's index into them."""
    whole = column.combine_chunks()
    encoded = whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)
