"""Sequence files: event logs that others cut into training and test, as the timeline that every model here reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys_tasks.errors import InputError
from recsys_tasks.evaluation.protocol import Questions
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.features.sequences import Timeline, build_timeline
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.training_loop import TrainingData
from recsys_tasks.model.windows import freshness
from recsys_tasks.names import EVENT_TYPE_CODES, VIEW

_REQUIRED = ("sequence_id", "position", "item_id")
_SECONDS_APART = 3600.0  # between events without a time: their order is all that is known
_HELD_OUT = 0.03
_MOST_HELD_OUT, _MOST_QUESTIONS = 6_000, 4_000


@dataclass(frozen=True)
class SequenceTask:
    """What a model may learn from, and what it is asked.

    Attributes:
        encoded: training sequences, then test sequences, each as a user of its own.
        data: the training sequences, without what validation asks for.
        validation, test: the questions.
        has_history: whether sequences have sessions before the current one.
    """

    encoded: EncodedSnapshot
    data: TrainingData
    validation: Questions
    test: Questions
    has_history: bool


def read_task(train: Path, test: Path, items: Path | None, seed: int) -> SequenceTask:
    """Reads a training file and a test file, whose sequences' last rows are the targets.

    Validation is cut from the training file in the way the test was: where test sequences go on with training
    sequences, the last event of some sequences; where they are new ones, the last sequences, or the last sessions where
    there are times and sequences of several sessions.

    Raises:
        InputError: a file is not a sequence file; says which, and why.
    """
    given, asked = _read(train), _read(test)
    vocabulary = _vocabulary(given, items)
    timeline = _timeline([given, asked], vocabulary)
    start, count = timeline.user_start, len(np.unique(given["sequence_id"].to_numpy()))
    final_stops = start[:-1].copy()
    final_stops[:count] = start[1 : count + 1]
    # Without times, sequences that the test comes after are taken to be in their order.
    timed = all("event_time" in table.column_names for table in (given, asked))
    goes_on = _goes_on(timeline, given, asked, count)
    time = timeline.seconds if timed else np.arange(len(timeline)).astype(np.float64)
    fresh = freshness(time, final_stops, start[:-1]) if timed or not goes_on else None
    has_history = len(timeline.session_start) - 1 > 1.05 * (len(start) - 1)
    random = np.random.default_rng(seed)
    if goes_on:
        stops, targets = _hold_out_last_events(timeline, final_stops, count, random)
    elif timed and has_history:
        stops, targets = _hold_out_last_sessions(timeline, final_stops, count)
    else:
        stops, targets = _hold_out_last_sequences(timeline, final_stops, count)
    targets = np.sort(random.permutation(targets)[:_MOST_QUESTIONS])
    counts = np.bincount(timeline.item[: start[count]], minlength=len(vocabulary))
    parts = np.zeros(len(timeline.session_start) - 1, np.int8)
    return SequenceTask(
        EncodedSnapshot(timeline, vocabulary, [None] * (len(start) - 1), parts),
        TrainingData(timeline, counts, stops, final_stops, fresh),
        _questions(timeline, targets),
        _questions(timeline, start[count + 1 :] - 1),
        has_history,
    )


def as_one_session(task: SequenceTask) -> SequenceTask:
    """The same task for models that know no history: a user's sessions are one."""
    old = task.data.timeline
    first = old.user_start[:-1][old.user]
    timeline = build_timeline(
        old.user, old.user, old.item, old.kind, old.seconds, old.seconds[first], old.text, old.queries
    )
    return SequenceTask(
        replace(task.encoded, timeline=timeline, split=np.zeros(len(old.user_start) - 1, np.int8)),
        task.data._replace(timeline=timeline),
        _questions(timeline, task.validation.target),
        _questions(timeline, task.test.target),
        has_history=False,
    )


def _hold_out_last_events(
    timeline: Timeline, stops: np.ndarray, count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Stops [U] without the last events of some training sequences, and those events."""
    held = np.flatnonzero(np.diff(timeline.user_start[: count + 1]) >= 3)
    held = random.permutation(held)[: min(_MOST_HELD_OUT, max(1, len(held) // 4))]
    stops = stops.copy()
    stops[held] -= 1
    return stops, stops[held]


def _hold_out_last_sequences(timeline: Timeline, stops: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Stops [U] without the last training sequences, and what follows something in those."""
    first = count - max(1, min(_MOST_HELD_OUT, int(_HELD_OUT * count)))
    start, stops = timeline.user_start, stops.copy()
    stops[first:count] = start[first:count]
    targets = np.arange(max(start[first], 1), start[count])
    return stops, targets[timeline.session[targets] == timeline.session[targets - 1]]


def _hold_out_last_sessions(timeline: Timeline, stops: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Stops [U] before the latest training sessions by time, and the last events of those."""
    sessions = int(timeline.session[timeline.user_start[count] - 1]) + 1
    began = timeline.session_first_seconds[:sessions]
    late = np.flatnonzero(began > np.quantile(began, 1 - _HELD_OUT))
    begin, end = timeline.session_start[late], timeline.session_start[late + 1]
    stops = stops.copy()
    np.minimum.at(stops, timeline.user[begin], begin)
    return stops, end[end - begin > 1] - 1


def _read(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from error
    missing = [name for name in _REQUIRED if name not in table.column_names]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}; a sequence file needs {', '.join(_REQUIRED)}")
    if table.num_rows == 0:
        raise InputError(f"{path} is empty")
    for name in _REQUIRED:
        if table[name].null_count:
            raise InputError(f"{path}: {name} is missing in {table[name].null_count} rows")
    sequence, position = table["sequence_id"].combine_chunks(), table["position"].to_numpy()
    codes = pc.dictionary_encode(sequence).indices.to_numpy()
    opens = np.concatenate([[True], codes[1:] != codes[:-1]])
    wrong = np.flatnonzero(~opens[1:] & (position[1:] <= position[:-1]))
    if len(wrong) or int(opens.sum()) != int(codes.max()) + 1:
        row = int(wrong[0]) + 1 if len(wrong) else int(np.flatnonzero(opens)[-1])
        raise InputError(f"{path}, row {row}: rows are not in the order of sequence, then position")
    return table.set_column(table.column_names.index("item_id"), "item_id", table["item_id"].cast(pa.string()))


def _vocabulary(train: pa.Table, items: Path | None) -> Vocabulary:
    counted = train["item_id"].value_counts()
    order = sorted(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))
    order.sort(key=lambda pair: -pair[1])
    ids = tuple(item for item, _ in order)
    nothing = ("",) * len(ids)
    text = {"title": nothing, "category_path": nothing, "brand": nothing}
    attributes: tuple[tuple[str, ...], ...] = ()
    if items is not None:
        try:
            table = pq.read_table(items)
            named = table["item_id"].cast(pa.string()).to_pylist()
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise InputError(f"{items} cannot be read as items: {error}") from error
        for name in text:
            if name in table.column_names:
                of_item = dict(zip(named, table[name].cast(pa.string()).to_pylist(), strict=True))
                text[name] = tuple(of_item.get(item) or "" for item in ids)
        if "attribute_id" in table.column_names:
            found: dict[str, list[str]] = {}
            for item, attribute in zip(named, table["attribute_id"].cast(pa.string()).to_pylist(), strict=True):
                found.setdefault(item, []).append(attribute)
            attributes = tuple(tuple(found.get(item, ())) for item in ids)
    counts = tuple(count for _, count in order)
    return Vocabulary(ids, text["title"], text["category_path"], text["brand"], counts, attributes)


def _timeline(tables: Sequence[pa.Table], vocabulary: Vocabulary) -> Timeline:
    parts, users, sessions = [], 0, 0
    for table in tables:
        user, session, *others = _columns(table, vocabulary)
        parts.append([user + users, session + sessions, *others])
        users, sessions = users + int(user[-1]) + 1, sessions + int(session[-1]) + 1
    user, session, item, kind, seconds = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    first = np.concatenate([[0], np.flatnonzero(session[1:] != session[:-1]) + 1])
    began = np.repeat(seconds[first], np.diff(np.concatenate([first, [len(session)]])))
    return build_timeline(user, session, item, kind, seconds, began)


def _columns(table: pa.Table, vocabulary: Vocabulary) -> list[np.ndarray]:
    """User, session, item, kind and seconds of each row, users and sessions counted from 0."""
    user = _runs(_codes(table, "sequence_id"))
    session = user
    if "session_id" in table.column_names:
        session = _runs(_codes(table, "session_id"), user)
    items = table["item_id"].combine_chunks().dictionary_encode()
    item = vocabulary.numbers(items.dictionary.to_pylist())[items.indices.to_numpy()]
    kind = np.full(len(user), EVENT_TYPE_CODES[VIEW])
    if "event_type" in table.column_names:
        kinds = table["event_type"].combine_chunks().dictionary_encode()
        names = kinds.dictionary.to_pylist()
        unknown = sorted(set(map(str, names)) - set(EVENT_TYPE_CODES))
        if unknown or kinds.null_count:
            raise InputError(f"event_type {', '.join(unknown) or 'null'} is not one of {', '.join(EVENT_TYPE_CODES)}")
        kind = np.asarray([EVENT_TYPE_CODES[name] for name in names])[kinds.indices.to_numpy()]
    if "event_time" in table.column_names:
        seconds = table["event_time"].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy() / 1e6
    else:
        seconds = table["position"].to_numpy() * _SECONDS_APART
    return [user, session, item, kind, seconds]


def _codes(table: pa.Table, name: str) -> np.ndarray:
    codes: np.ndarray = table[name].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return codes


def _runs(codes: np.ndarray, within: np.ndarray | None = None) -> np.ndarray:
    changes = codes[1:] != codes[:-1]
    if within is not None:
        changes |= within[1:] != within[:-1]
    return np.concatenate([[0], np.cumsum(changes)])


def _goes_on(timeline: Timeline, train: pa.Table, test: pa.Table, count: int) -> bool:
    """Whether most test sequences are a training sequence of the same id and a target."""
    ids = [list(dict.fromkeys(table["sequence_id"].to_pylist())) for table in (train, test)]
    row_of = {name: row for row, name in enumerate(ids[0])}
    start, same = timeline.user_start, 0
    for row, name in enumerate(ids[1], start=count):
        trained = row_of.get(name)
        if trained is not None:
            known = timeline.item[start[trained] : start[trained + 1]]
            same += np.array_equal(known, timeline.item[start[row] : start[row + 1] - 1])
    return same > len(ids[1]) / 2


def _questions(timeline: Timeline, target: np.ndarray) -> Questions:
    return Questions(timeline.session_start[timeline.session[target]], target)
