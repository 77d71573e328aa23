from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys_tasks.evaluation.sequence_files import SequenceTask, as_one_session, read_task

START = pd.Timestamp("2024-01-01", tz="UTC")


def _log(sequences: int, sessions: int = 1, first: int = 0, timed: bool = False) -> pd.DataFrame:
    """Sequences of sessions of three events; each sequence begins a day later than the one before."""
    random = np.random.default_rng(first)
    rows = []
    for sequence in range(first, first + sequences):
        for position in range(3 * sessions):
            at = START + pd.Timedelta(days=sequence + 10 * (position // 3), minutes=position)
            rows.append((sequence, position, int(random.integers(20)), f"{sequence}-{position // 3}", at))
    table = pd.DataFrame(rows, columns=["sequence_id", "position", "item_id", "session_id", "event_time"])
    unwanted = ([] if timed else ["event_time"]) + ([] if sessions > 1 else ["session_id"])
    return table.drop(columns=unwanted)


def _task(folder: Path, train: pd.DataFrame, test: pd.DataFrame) -> SequenceTask:
    train.to_parquet(folder / "train.parquet")
    test.to_parquet(folder / "test.parquet")
    return read_task(folder / "train.parquet", folder / "test.parquet", None, seed=0)


def test_new_sequences_are_validated_on_the_last_ones_and_the_freshest_count_most(tmp_path: Path) -> None:
    task = _task(tmp_path, _log(200), _log(30, first=500))
    held = np.flatnonzero(task.data.stops < task.data.final_stops)
    assert held.tolist() == [194, 195, 196, 197, 198, 199]
    assert set(task.data.timeline.user[task.validation.target]) == set(held)
    assert task.data.freshness is not None
    trained = task.data.freshness[: 200 * 3]
    assert (np.diff(trained) > 0).all()
    assert trained[-1] == 1
    assert len(task.test) == 30


def test_sequences_that_go_on_are_validated_on_the_last_event_of_some(tmp_path: Path) -> None:
    test = _log(100)
    task = _task(tmp_path, test.groupby("sequence_id").head(2).reset_index(drop=True), test)
    assert (task.data.stops == task.data.final_stops)[:100].all()  # none is long enough to give one up
    longer = _log(100, sessions=2).drop(columns="session_id")
    task = _task(tmp_path, longer.groupby("sequence_id").head(5).reset_index(drop=True), longer)
    held = np.flatnonzero(task.data.stops < task.data.final_stops)
    assert len(held) == 25
    assert (task.data.final_stops - task.data.stops)[held].tolist() == [1] * 25
    assert sorted(task.validation.target) == task.data.stops[held].tolist()
    assert task.data.freshness is None


def test_sessions_with_times_are_validated_on_the_latest(tmp_path: Path) -> None:
    task = _task(tmp_path, _log(50, sessions=4, timed=True), _log(10, sessions=3, first=300, timed=True))
    timeline = task.data.timeline
    assert task.has_history
    began = timeline.session_seconds[task.validation.target]
    spans = zip(timeline.user_start[:-1], task.data.stops, strict=True)
    assert began.min() > max(timeline.session_seconds[a:b].max(initial=0) for a, b in spans)
    for target in task.validation.target:
        assert task.data.stops[timeline.user[target]] <= timeline.session_start[timeline.session[target]]


def test_no_test_sequence_is_trained_on(tmp_path: Path) -> None:
    for train, test in ((_log(200), _log(30, first=500)), (_log(50, 4, timed=True), _log(9, 3, 300, timed=True))):
        task = _task(tmp_path, train, test)
        begins = task.data.timeline.user_start[:-1]
        tests = np.unique(task.data.timeline.user[task.test.target])
        assert (task.data.stops[tests] == begins[tests]).all()
        assert (task.data.final_stops[tests] == begins[tests]).all()


def test_sessions_as_one_ask_for_the_same_items(tmp_path: Path) -> None:
    task = _task(tmp_path, _log(50, sessions=4, timed=True), _log(10, sessions=3, first=300, timed=True))
    flat = as_one_session(task)
    assert not flat.has_history
    assert flat.test.target.tolist() == task.test.target.tolist()
    assert (flat.test.target - flat.test.first == 8).all()
    assert (task.test.target - task.test.first == 2).all()


def test_items_are_found_by_their_attributes(tmp_path: Path) -> None:
    items = pd.DataFrame({"item_id": [0, 0, 1, 2], "attribute_id": [7, 8, 7, 8]})
    items.to_parquet(tmp_path / "items.parquet")
    _log(50).to_parquet(tmp_path / "train.parquet")
    _log(10, first=90).to_parquet(tmp_path / "test.parquet")
    words = read_task(tmp_path / "train.parquet", tmp_path / "test.parquet", tmp_path / "items.parquet", 0)
    vocabulary = words.encoded.vocabulary
    assert vocabulary.content_names == ("", "attribute=7", "attribute=8")
    assert sorted(vocabulary.content()[vocabulary.number_of["0"]]) == [1, 2]
    assert sum(vocabulary.content()[vocabulary.number_of["5"]]) == 0


@pytest.mark.parametrize("sessions", [1, 3])
def test_the_same_files_are_read_the_same_way_again(tmp_path: Path, sessions: int) -> None:
    first, second = (_task(tmp_path, _log(100, sessions), _log(10, sessions, first=300)) for _ in range(2))
    assert first.validation.target.tolist() == second.validation.target.tolist()
    assert first.data.stops.tolist() == second.data.stops.tolist()
