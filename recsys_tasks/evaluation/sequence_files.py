"""Sequence files: event logs with a given train/test split, as a timeline and prediction tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys_tasks.errors import InputError
from recsys_tasks.evaluation.protocol import PredictionTasks
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.features.sequences import Timeline, build_timeline
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.training_loop import TrainingData
from recsys_tasks.model.windows import events_until, recency_weights
from recsys_tasks.names import EVENT_TYPE_CODES, VIEW

_REQUIRED = ("sequence_id", "position", "item_id")
_DEFAULT_INTERVAL_SECONDS = 3600.0  # between events without a time; only their order is known
_HELD_OUT_FRACTION = 0.03
_MAX_HELD_OUT_SEQUENCES, _MAX_VALIDATION_TASKS = 6_000, 4_000


@dataclass(frozen=True)
class SequenceDataset:
    """Training data and prediction tasks of a pair of sequence files.

    Attributes:
        encoded: training sequences, then test sequences, each as a separate user.
        data: training sequences without the validation events.
        validation, test: prediction tasks.
        has_history: whether sequences have sessions before the current one.
    """

    encoded: EncodedSnapshot
    data: TrainingData
    validation: PredictionTasks
    test: PredictionTasks
    has_history: bool


def load_sequence_dataset(
    train: Path, test: Path, items: Path | None, seed: int, strict: bool = False
) -> SequenceDataset:
    """Reads a training file and a test file; the last row of each test sequence is its target.

    Validation is split from the training file as the test is: if test sequences continue training sequences, the last
    event of some sequences; else the last sequences, or the last sessions if there are times and several sessions a
    sequence.

    Args:
        train, test: sequence files.
        items: item attributes.
        seed: of the choice of validation tasks.
        strict: as SASRec and its successors are evaluated: the last event of each training sequence that test sequences
            continue is for validation only.

    Raises:
        InputError: a file is not a sequence file; names it and the reason.
    """
    train_table, test_table = _read_sequence_file(train), _read_sequence_file(test)
    vocabulary = _build_vocabulary(train_table, items)
    timeline = _build_timeline([train_table, test_table], vocabulary)
    start, num_train = timeline.user_start, len(np.unique(train_table["sequence_id"].to_numpy()))
    final_stops = start[:-1].copy()
    final_stops[:num_train] = start[1 : num_train + 1]
    # Without times, new test sequences are assumed to follow the training sequences in file order.
    timed = all("event_time" in table.column_names for table in (train_table, test_table))
    continues_training = _continues_training(timeline, train_table, test_table, num_train)
    time = timeline.seconds if timed else np.arange(len(timeline)).astype(np.float64)
    fresh = recency_weights(time, final_stops, start[:-1]) if timed or not continues_training else None
    has_history = len(timeline.session_start) - 1 > 1.05 * (len(start) - 1)
    random = np.random.default_rng(seed)
    if continues_training:
        stops, targets = _hold_out_last_events(timeline, final_stops, num_train, None if strict else random)
        final_stops = stops if strict else final_stops
    elif timed and has_history:
        stops, targets = _hold_out_last_sessions(timeline, final_stops, num_train)
    else:
        stops, targets = _hold_out_last_sequences(timeline, final_stops, num_train)
    targets = np.sort(random.permutation(targets)[:_MAX_VALIDATION_TASKS])
    trained = events_until(start[:-1], final_stops, len(timeline))
    counts = np.bincount(timeline.item[trained], minlength=len(vocabulary))
    parts = np.zeros(len(timeline.session_start) - 1, np.int8)
    return SequenceDataset(
        EncodedSnapshot(timeline, vocabulary, [None] * (len(start) - 1), parts),
        TrainingData(timeline, counts, stops, final_stops, fresh),
        _prediction_tasks(timeline, targets),
        _prediction_tasks(timeline, start[num_train + 1 :] - 1),
        has_history,
    )


def merge_sessions(dataset: SequenceDataset) -> SequenceDataset:
    """Returns the dataset with each user's sessions merged into one, for models without a history encoder."""
    old = dataset.data.timeline
    first = old.user_start[:-1][old.user]
    timeline = build_timeline(
        old.user, old.user, old.item, old.kind, old.seconds, old.seconds[first], old.text, old.queries
    )
    return SequenceDataset(
        replace(dataset.encoded, timeline=timeline, split=np.zeros(len(old.user_start) - 1, np.int8)),
        dataset.data._replace(timeline=timeline),
        _prediction_tasks(timeline, dataset.validation.target),
        _prediction_tasks(timeline, dataset.test.target),
        has_history=False,
    )


def _hold_out_last_events(
    timeline: Timeline, stops: np.ndarray, num_train: int, random: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns stops [U] without the last events of some training sequences, and the indices of those events.

    `random` chooses the sequences; None chooses all.
    """
    held = np.flatnonzero(np.diff(timeline.user_start[: num_train + 1]) >= 3)
    if random is not None:
        held = random.permutation(held)[: min(_MAX_HELD_OUT_SEQUENCES, max(1, len(held) // 4))]
    stops = stops.copy()
    stops[held] -= 1
    return stops, stops[held]


def _hold_out_last_sequences(timeline: Timeline, stops: np.ndarray, num_train: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns stops [U] without the last training sequences, and the targets within those."""
    first = num_train - max(1, min(_MAX_HELD_OUT_SEQUENCES, int(_HELD_OUT_FRACTION * num_train)))
    start, stops = timeline.user_start, stops.copy()
    stops[first:num_train] = start[first:num_train]
    targets = np.arange(max(start[first], 1), start[num_train])
    return stops, targets[timeline.session[targets] == timeline.session[targets - 1]]


def _hold_out_last_sessions(timeline: Timeline, stops: np.ndarray, num_train: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns stops [U] before the latest training sessions by time, and the last events of those sessions."""
    sessions = int(timeline.session[timeline.user_start[num_train] - 1]) + 1
    began = timeline.session_first_seconds[:sessions]
    late = np.flatnonzero(began > np.quantile(began, 1 - _HELD_OUT_FRACTION))
    begin, end = timeline.session_start[late], timeline.session_start[late + 1]
    stops = stops.copy()
    np.minimum.at(stops, timeline.user[begin], begin)
    return stops, end[end - begin > 1] - 1


def _read_sequence_file(path: Path) -> pa.MetricsTable:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from error
    missing = [name for name in _REQUIRED if name not in table.column_names]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}; a sequence file needs {', '.join(_REQUIRED)}")
    if table.num_rows == 0:
        raise InputError(f"{path} is empty; a sequence file needs at least one row")
    for name in _REQUIRED:
        if table[name].null_count:
            raise InputError(f"{path}: {name} is missing in {table[name].null_count} rows")
    sequence, position = table["sequence_id"].combine_chunks(), table["position"].to_numpy()
    codes = pc.dictionary_encode(sequence).indices.to_numpy()
    opens = np.concatenate([[True], codes[1:] != codes[:-1]])
    wrong = np.flatnonzero(~opens[1:] & (position[1:] <= position[:-1]))
    if len(wrong) or int(opens.sum()) != int(codes.max()) + 1:
        row = int(wrong[0]) + 1 if len(wrong) else int(np.flatnonzero(opens)[-1])
        raise InputError(f"{path}, row {row}: rows are not in the order of sequence, then position. Sort the file")
    return table.set_column(table.column_names.index("item_id"), "item_id", table["item_id"].cast(pa.string()))


def _build_vocabulary(train: pa.MetricsTable, items: Path | None) -> Vocabulary:
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


def _build_timeline(tables: Sequence[pa.MetricsTable], vocabulary: Vocabulary) -> Timeline:
    parts, users, sessions = [], 0, 0
    for table in tables:
        user, session, *others = _encode_columns(table, vocabulary)
        parts.append([user + users, session + sessions, *others])
        users, sessions = users + int(user[-1]) + 1, sessions + int(session[-1]) + 1
    user, session, item, kind, seconds = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    first = np.concatenate([[0], np.flatnonzero(session[1:] != session[:-1]) + 1])
    began = np.repeat(seconds[first], np.diff(np.concatenate([first, [len(session)]])))
    return build_timeline(user, session, item, kind, seconds, began)


def _encode_columns(table: pa.MetricsTable, vocabulary: Vocabulary) -> list[np.ndarray]:
    """Returns user, session, item, kind and seconds of each row; users and sessions are numbered from 0."""
    user = _run_numbers(_dictionary_codes(table, "sequence_id"))
    session = user
    if "session_id" in table.column_names:
        session = _run_numbers(_dictionary_codes(table, "session_id"), user)
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
        seconds = table["position"].to_numpy() * _DEFAULT_INTERVAL_SECONDS
    return [user, session, item, kind, seconds]


def _dictionary_codes(table: pa.MetricsTable, name: str) -> np.ndarray:
    codes: np.ndarray = table[name].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return codes


def _run_numbers(codes: np.ndarray, within: np.ndarray | None = None) -> np.ndarray:
    changes = codes[1:] != codes[:-1]
    if within is not None:
        changes |= within[1:] != within[:-1]
    return np.concatenate([[0], np.cumsum(changes)])


def _continues_training(timeline: Timeline, train: pa.MetricsTable, test: pa.MetricsTable, num_train: int) -> bool:
    """Whether most test sequences equal the training sequence of the same id plus a target."""
    ids = [list(dict.fromkeys(table["sequence_id"].to_pylist())) for table in (train, test)]
    row_of = {name: row for row, name in enumerate(ids[0])}
    start, same = timeline.user_start, 0
    for row, name in enumerate(ids[1], start=num_train):
        trained = row_of.get(name)
        if trained is not None:
            known = timeline.item[start[trained] : start[trained + 1]]
            same += np.array_equal(known, timeline.item[start[row] : start[row + 1] - 1])
    return same > len(ids[1]) / 2


def _prediction_tasks(timeline: Timeline, target: np.ndarray) -> PredictionTasks:
    return PredictionTasks(timeline.session_start[timeline.session[target]], target)
