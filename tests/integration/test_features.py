"""Snapshots of a real warehouse: immutable, complete, and blind to what comes after their cut."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from sqlalchemy import Engine, text

from recsys_tasks.errors import InputError, NotEnoughData
from recsys_tasks.features.encoding import encode_snapshot, snapshot_vocabulary
from recsys_tasks.features.snapshot import (
    SnapshotParameters,
    build_snapshot,
    latest_snapshot_id,
    open_snapshot,
)
from recsys_tasks.warehouse import copy_in
from tests.shops import START, event, fill

PARAMETERS = SnapshotParameters(validation_share=0.1, test_share=0.1, min_item_events=2)
CUT = START + timedelta(days=7 * 9)


def test_a_snapshot_as_of_a_past_time_is_the_same_when_the_warehouse_has_grown(
    warehouse: Engine, tmp_path: Path
) -> None:
    fill(warehouse)
    then = build_snapshot(warehouse, tmp_path / "then", PARAMETERS, CUT)
    later = [event("u1", "later", f"i{n}", CUT + timedelta(hours=n)) for n in range(5)]
    later += [event("new", "new", "i1", CUT + timedelta(days=1))]
    with warehouse.begin() as connection:
        copy_in(connection, "events", [pa.RecordBatch.from_pylist(later)])
    now = build_snapshot(warehouse, tmp_path / "now", PARAMETERS, CUT)
    assert now.snapshot_id == then.snapshot_id
    for name in ("timeline.parquet", "items.parquet"):
        assert (now.path / name).read_bytes() == (then.path / name).read_bytes()
    everything = build_snapshot(warehouse, tmp_path / "all", PARAMETERS)
    assert everything.events == then.events + 6 + 30 * 4


def test_building_again_finds_the_snapshot_and_registers_it_once(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    first = build_snapshot(warehouse, tmp_path, PARAMETERS)
    assert build_snapshot(warehouse, tmp_path, PARAMETERS) == first
    assert latest_snapshot_id(warehouse) == first.snapshot_id
    assert open_snapshot(tmp_path, first.snapshot_id) == first
    with warehouse.connect() as connection:
        assert connection.scalar(text("select count(*) from snapshots")) == 1


def test_timelines_are_ordered_and_sessions_whole(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    snapshot = build_snapshot(warehouse, tmp_path, PARAMETERS)
    encoded = encode_snapshot(snapshot, snapshot_vocabulary(snapshot))
    timeline = encoded.timeline
    assert (snapshot.users, snapshot.sessions, snapshot.events) == (30, 300, 1_200)
    assert len(timeline.session_start) == 301
    for begin, end in zip(timeline.user_start, timeline.user_start[1:], strict=False):
        assert (timeline.seconds[begin:end][1:] >= timeline.seconds[begin:end][:-1]).all()
    assert set(encoded.split.tolist()) == {0, 1, 2}
    assert snapshot.timeline()["gap_seconds"].to_pylist()[:5] == [0.0, 0.0, 0.0, 0.0, 7 * 86_400.0]


def test_impressions_are_not_what_users_did(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    before = build_snapshot(warehouse, tmp_path, PARAMETERS)
    shown = event("u1", "shown", "i1", START) | {"event_type": "impression"}
    with warehouse.begin() as connection:
        copy_in(connection, "events", [pa.RecordBatch.from_pylist([shown])])
    assert build_snapshot(warehouse, tmp_path, PARAMETERS) == before


def test_events_without_a_session_are_cut_where_half_an_hour_passes(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    moments = [START + timedelta(minutes=m) for m in (0, 10, 29, 70, 80)]
    loose = [event("loose", f"l{n}", "i1", at) | {"session_id": None} for n, at in enumerate(moments)]
    with warehouse.begin() as connection:
        copy_in(connection, "events", [pa.RecordBatch.from_pylist(loose)])
    table = build_snapshot(warehouse, tmp_path, PARAMETERS).timeline().to_pylist()
    assert [row["position_in_session"] for row in table if row["user_key"] == "user loose"] == [1, 2, 3, 1, 2]


def test_too_little_data_says_so(warehouse: Engine, tmp_path: Path) -> None:
    with pytest.raises(NotEnoughData, match="no events"):
        build_snapshot(warehouse, tmp_path, PARAMETERS)
    with pytest.raises(InputError, match="No snapshot 'x'"):
        open_snapshot(tmp_path, "x")
