from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys_tasks.evaluation.sequence_files import SequenceDataset, load_sequence_dataset, merge_sessions

START = pd.Timestamp("2024-01-01", tz="UTC")


def _log(sequences: int, sessions: int = 1, first: int = 0, timed: bool = False) -> pd.DataFrame:
    """Sequences of sessions of three events; each sequence starts a day after the previous one."""
    random = np.random.default_rng(first)
    rows = []
    for sequence in range(first, first + sequences):
        for position in range(3 * sessions):
            at = START + pd.Timedelta(days=sequence + 10 * (position // 3), minutes=position)
            rows.append((sequence, position, int(random.integers(20)), f"{sequence}-{position // 3}", at))
    table = pd.DataFrame(rows, columns=["sequence_id", "position", "item_id", "session_id", "event_time"])
    unwanted = ([] if timed else ["event_time"]) + ([] if sessions > 1 else ["session_id"])
    return table.drop(columns=unwanted)


def _load_dataset(folder: Path, train: pd.DataFrame, test: pd.DataFrame) -> SequenceDataset:
    train.to_parquet(folder / "train.parquet")
    test.to_parquet(folder / "test.parquet")
    return load_sequence_dataset(folder / "train.parquet", folder / "test.parquet", None, seed=0)


def test_new_sequences_are_validated_on_the_last_ones_with_recency_weighting(tmp_path: Path) -> None:
    dataset = _load_dataset(tmp_path, _log(200), _log(30, first=500))
    held = np.flatnonzero(dataset.data.stops < dataset.data.final_stops)
    assert held.tolist() == [194, 195, 196, 197, 198, 199]
    assert set(dataset.data.timeline.user[dataset.validation.target]) == set(held)
    assert dataset.data.recency_weights is not None
    trained = dataset.data.recency_weights[: 200 * 3]
    assert (np.diff(trained) > 0).all()
    assert trained[-1] == 1
    assert len(dataset.test) == 30


def test_continued_sequences_are_validated_on_the_last_event_of_some(tmp_path: Path) -> None:
    test = _log(100)
    dataset = _load_dataset(tmp_path, test.groupby("sequence_id").head(2).reset_index(drop=True), test)
    assert (dataset.data.stops == dataset.data.final_stops)[:100].all()  # none is long enough to hold one out
    longer = _log(100, sessions=2).drop(columns="session_id")
    dataset = _load_dataset(tmp_path, longer.groupby("sequence_id").head(5).reset_index(drop=True), longer)
    held = np.flatnonzero(dataset.data.stops < dataset.data.final_stops)
    assert len(held) == 25
    assert (dataset.data.final_stops - dataset.data.stops)[held].tolist() == [1] * 25
    assert sorted(dataset.validation.target) == dataset.data.stops[held].tolist()
    assert dataset.data.recency_weights is None


def test_sessions_with_times_are_validated_on_the_latest(tmp_path: Path) -> None:
    dataset = _load_dataset(tmp_path, _log(50, sessions=4, timed=True), _log(10, sessions=3, first=300, timed=True))
    timeline = dataset.data.timeline
    assert dataset.has_history
    began = timeline.session_seconds[dataset.validation.target]
    spans = zip(timeline.user_start[:-1], dataset.data.stops, strict=True)
    assert began.min() > max(timeline.session_seconds[a:b].max(initial=0) for a, b in spans)
    for target in dataset.validation.target:
        assert dataset.data.stops[timeline.user[target]] <= timeline.session_start[timeline.session[target]]


def test_no_test_sequence_is_trained_on(tmp_path: Path) -> None:
    for train, test in ((_log(200), _log(30, first=500)), (_log(50, 4, timed=True), _log(9, 3, 300, timed=True))):
        dataset = _load_dataset(tmp_path, train, test)
        begins = dataset.data.timeline.user_start[:-1]
        tests = np.unique(dataset.data.timeline.user[dataset.test.target])
        assert (dataset.data.stops[tests] == begins[tests]).all()
        assert (dataset.data.final_stops[tests] == begins[tests]).all()


def test_merged_sessions_keep_the_targets(tmp_path: Path) -> None:
    dataset = _load_dataset(tmp_path, _log(50, sessions=4, timed=True), _log(10, sessions=3, first=300, timed=True))
    flat = merge_sessions(dataset)
    assert not flat.has_history
    assert flat.test.target.tolist() == dataset.test.target.tolist()
    assert (flat.test.target - flat.test.first == 8).all()
    assert (dataset.test.target - dataset.test.first == 2).all()


def test_items_share_content_tokens_by_attribute(tmp_path: Path) -> None:
    items = pd.DataFrame({"item_id": [0, 0, 1, 2], "attribute_id": [7, 8, 7, 8]})
    items.to_parquet(tmp_path / "items.parquet")
    _log(50).to_parquet(tmp_path / "train.parquet")
    _log(10, first=90).to_parquet(tmp_path / "test.parquet")
    dataset = load_sequence_dataset(
        tmp_path / "train.parquet", tmp_path / "test.parquet", tmp_path / "items.parquet", 0
    )
    vocabulary = dataset.encoded.vocabulary
    assert vocabulary.token_names == ("", "attribute=7", "attribute=8")
    assert sorted(vocabulary.content_matrix()[vocabulary.number_of["0"]]) == [1, 2]
    assert sum(vocabulary.content_matrix()[vocabulary.number_of["5"]]) == 0


@pytest.mark.parametrize("sessions", [1, 3])
def test_reading_the_same_files_is_deterministic(tmp_path: Path, sessions: int) -> None:
    first, second = (_load_dataset(tmp_path, _log(100, sessions), _log(10, sessions, first=300)) for _ in range(2))
    assert first.validation.target.tolist() == second.validation.target.tolist()
    assert first.data.stops.tolist() == second.data.stops.tolist()
