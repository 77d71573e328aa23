"""Snapshots of a real warehouse: immutable, point-in-time correct and incremental."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from recsys_tasks.errors import InputError, NotEnoughData
from recsys_tasks.features import partitions
from recsys_tasks.features.encoded_snapshot import build_vocabulary, encode_snapshot
from recsys_tasks.features.event_weights import EventWeight, EventWeights
from recsys_tasks.features.redaction import redact_users
from recsys_tasks.features.retention import drop_snapshots
from recsys_tasks.features.serving_data import recent_popularity
from recsys_tasks.features.snapshot import (
    Snapshot,
    SnapshotParameters,
    build_snapshot,
    latest_snapshot_id,
    open_snapshot,
)
from recsys_tasks.names import EVENT_TYPE_CODES, SEARCH, UNKNOWN_ITEM
from recsys_tasks.storage.folder import Folder
from tests.shops import START, add_batch, empty, event, fill

PARAMETERS = SnapshotParameters(validation_share=0.1, test_share=0.1, min_item_events=2)
CUT = START + timedelta(days=7 * 9)
_counter = itertools.count()


def _files(snapshot: Snapshot) -> dict[str, bytes]:
    names = [*snapshot.files, snapshot.item_file, snapshot.user_file]
    return {name: (snapshot.folder / "parts").read(name) for name in names}


def _days_built(monkeypatch: pytest.MonkeyPatch) -> list[date]:
    """Returns a list to which every daily partition built from now on adds its day."""
    days: list[date] = []
    build = partitions._build

    def recording(*given: Any) -> Any:
        days.append(given[2].day)
        return build(*given)

    monkeypatch.setattr(partitions, "_build", recording)
    return days


def test_building_again_finds_the_snapshot_and_registers_it_once(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    first = build_snapshot(warehouse, Folder.of(tmp_path), PARAMETERS)
    assert build_snapshot(warehouse, Folder.of(tmp_path), PARAMETERS) == first
    assert latest_snapshot_id(warehouse) == first.snapshot_id
    assert open_snapshot(Folder.of(tmp_path), first.snapshot_id) == first
    with warehouse.connect() as connection:
        assert connection.scalar(text("select count(*) from snapshots")) == 1


def test_events_count_by_their_type_and_dwell_time_as_targets_and_in_the_popularity(
    warehouse: Engine, tmp_path: Path
) -> None:
    fill(warehouse)
    kinds = [("i1", "view"), ("i2", "view"), ("i3", "view"), ("i3", "purchase")]
    read = [
        event("reader", "visit", item, CUT) | {"event_id": f"{item}-{kind}", "event_type": kind} for item, kind in kinds
    ]
    add_batch(warehouse, read)
    with warehouse.begin() as connection:  # 15 of 30 seconds
        connection.execute(text("update events set properties = '{\"dwell_seconds\": 15}' where event_id = 'i1-view'"))
    weights: EventWeights = {"view": EventWeight(2, full_dwell_seconds=30), "purchase": EventWeight(5)}
    snapshot = build_snapshot(warehouse, Folder.of(tmp_path), replace(PARAMETERS, event_weights=weights))
    assert open_snapshot(Folder.of(tmp_path), snapshot.snapshot_id).event_weights == weights
    assert build_snapshot(warehouse, Folder.of(tmp_path), PARAMETERS).snapshot_id != snapshot.snapshot_id
    vocabulary = build_vocabulary(snapshot)
    encoded = encode_snapshot(snapshot, vocabulary)
    timeline, reader = encoded.timeline, encoded.user_ids.index("reader")
    events = slice(timeline.user_start[reader], timeline.user_start[reader + 1])
    numbers = vocabulary.numbers(["i1", "i2", "i3"])
    targets = {
        int(item): weight for item, weight in zip(timeline.item[events], timeline.weight[events], strict=True) if weight
    }
    assert [targets[number] for number in numbers] == [1, 2, 5]  # i3 counts as much as the purchase that it led to
    assert encoded.event_weight is not None
    assert sorted(encoded.event_weight[events]) == [1, 2, 2, 5]
    plain = replace(encoded, event_weight=None)
    gain = recent_popularity(encoded, CUT.timestamp() + 1) - recent_popularity(plain, CUT.timestamp() + 1)
    bought_before = recent_popularity(plain, CUT.timestamp() + 1)[numbers] - [1, 1, 2]
    assert gain[numbers] == pytest.approx(4 * bought_before.round() + [0, 1, 5])


def test_a_new_day_builds_its_own_partition_and_reuses_the_others(
    warehouse: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(warehouse)
    before = build_snapshot(warehouse, Folder.of(tmp_path), PARAMETERS, CUT)
    built = _days_built(monkeypatch)
    add_batch(warehouse, [event("u1", "later", f"i{n}", CUT + timedelta(hours=1, minutes=n)) for n in range(5)])
    after = build_snapshot(warehouse, Folder.of(tmp_path), PARAMETERS, CUT + timedelta(days=1))
    assert built == [CUT.date()]
    assert set(before.files) < set(after.files)


def test_a_late_event_joins_its_session_and_rebuilds_its_day_alone(
    warehouse: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(warehouse)
    before = build_snapshot(warehouse, Folder.of(tmp_path), PARAMETERS)
    built = _days_built(monkeypatch)
    late = START + timedelta(minutes=3, seconds=30)
    add_batch(warehouse, [event("u3", "s3-0", "i39", late) | {"event_id": "late"}])
    after = build_snapshot(warehouse, Folder.of(tmp_path), PARAMETERS)
    assert built == [START.date()]
    session = [row for row in after.events_table().to_pylist() if row["session_id"] == "s3-0"]
    assert [row["position_in_session"] for row in session] == [1, 2, 3, 4, 5]
    assert session[-1]["event_time"] == late
    assert after.sessions == before.sessions


def test_anonymous_actions_are_those_of_the_first_user_who_acts_in_the_session(
    warehouse: Engine, tmp_path: Path
) -> None:
    fill(warehouse)
    actors = {"before": None, "login": "u1", "between": None, "other user": "u2", "after": None}
    moments = {name: CUT + timedelta(minutes=minute) for minute, name in enumerate(actors)}
    shared = [
        event("", "shared", "i1", moments[name]) | {"event_id": name, "user_id": user} for name, user in actors.items()
    ]
    alone = event("", "alone", "i2", CUT) | {"user_id": None}
    add_batch(warehouse, [*shared, alone])
    snapshot = build_snapshot(warehouse, Folder.of(tmp_path), PARAMETERS, CUT + timedelta(days=1))
    rows = [row for row in snapshot.events_table().to_pylist() if row["session_id"] in ("shared", "alone")]
    assert {(row["user_key"], row["event_time"]) for row in rows if row["session_id"] == "shared"} == {
        ("u:u2" if name == "other user" else "u:u1", at) for name, at in moments.items()
    }
    assert [row["user_key"] for row in rows if row["session_id"] == "alone"] == ["s:alone"]


@dataclass(frozen=True)
class Visit:
    user: int
    session: int | None
    minutes: list[int]


visits = st.lists(
    st.builds(
        Visit,
        user=st.integers(0, 3),
        session=st.one_of(st.none(), st.integers(0, 4)),
        minutes=st.lists(st.integers(0, 5 * 1440), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=12,
)


def _events(found: list[Visit], prefix: str) -> list[dict[str, object]]:
    return [
        event(
            f"v{visit.user}",
            f"{prefix}{number}-{minute}",
            f"i{minute % 40}",
            START + timedelta(minutes=minute),
        )
        | {"session_id": None if visit.session is None else f"x{visit.session}"}
        for number, visit in enumerate(found)
        for minute in visit.minutes
    ]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=visits, then=st.lists(visits, max_size=3), cut=st.integers(1, 5 * 1440))
def test_a_snapshot_is_the_same_bytes_when_the_warehouse_has_grown(
    warehouse: Engine, tmp_path: Path, first: list[Visit], then: list[list[Visit]], cut: int
) -> None:
    """Events loaded later do not change a snapshot as of an earlier change; incremental and full builds are equal."""
    empty(warehouse)
    example = tmp_path / str(next(_counter))
    fill(warehouse)
    add_batch(warehouse, _events(first, "a"))
    cutoff = START + timedelta(days=56, minutes=cut)
    past = build_snapshot(warehouse, Folder.of(example / "then"), PARAMETERS, cutoff)
    for step, more in enumerate(then):
        add_batch(warehouse, _events(more, f"b{step}-"))
        build_snapshot(warehouse, Folder.of(example / "steps"), PARAMETERS, cutoff)
    again = build_snapshot(warehouse, Folder.of(example / "again"), PARAMETERS, cutoff, past.as_of_change)
    assert again.snapshot_id == past.snapshot_id
    assert _files(again) == _files(past)
    stepwise = build_snapshot(warehouse, Folder.of(example / "steps"), PARAMETERS, cutoff)
    at_once = build_snapshot(warehouse, Folder.of(example / "once"), PARAMETERS, cutoff)
    assert _files(at_once) == _files(stepwise)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=visits)
def test_sessions_equal_those_of_a_naive_reference(warehouse: Engine, tmp_path: Path, found: list[Visit]) -> None:
    """Across midnight too: split after a gap of 30 minutes without a session id, of 12 hours with one."""
    empty(warehouse)
    fill(warehouse)
    events = _events(found, "a")
    add_batch(warehouse, events)
    snapshot = build_snapshot(warehouse, Folder.of(tmp_path / str(next(_counter))), PARAMETERS)
    encoded = encode_snapshot(snapshot, build_vocabulary(snapshot))
    got = _sessions_of(encoded.timeline, encoded.user_ids)

    expected: dict[str, list[list[float]]] = defaultdict(list)
    by_session: dict[tuple[str, str], list[datetime]] = defaultdict(list)
    for row in {str(row["event_id"]): row for row in events}.values():
        by_session[str(row["user_id"]), str(row["session_id"] or "")].append(
            datetime.fromisoformat(str(row["event_time"]))
        )
    for (user, session), times in by_session.items():
        limit = timedelta(minutes=30) if session == "" else timedelta(hours=12)
        times.sort()
        visits_of = [[times[0]]]
        for at in times[1:]:
            if at - visits_of[-1][-1] > limit:
                visits_of.append([])
            visits_of[-1].append(at)
        expected[user] += [[at.timestamp() for at in visit] for visit in visits_of]
    for user, sessions in expected.items():
        assert sorted(got[user]) == sorted(sessions)


def _sessions_of(timeline: object, user_ids: list[str | None]) -> dict[str | None, list[list[float]]]:
    sessions: dict[str | None, list[list[float]]] = defaultdict(list)
    starts = timeline.session_start  # type: ignore[attr-defined]
    for begin, end in itertools.pairwise(starts.tolist()):
        seconds = timeline.seconds[begin:end].tolist()  # type: ignore[attr-defined]
        assert seconds == sorted(seconds)
        sessions[user_ids[timeline.user[begin]]].append(seconds)  # type: ignore[attr-defined]
    return sessions


def test_timelines_are_ordered_and_sessions_whole(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    snapshot = build_snapshot(warehouse, Folder.of(tmp_path), PARAMETERS)
    encoded = encode_snapshot(snapshot, build_vocabulary(snapshot))
    timeline = encoded.timeline
    assert (snapshot.sessions, snapshot.events) == (300, 1_200)
    assert len(timeline.user_start) == 31
    assert len(timeline.session_start) == 301
    for begin, end in itertools.pairwise(timeline.user_start):
        assert (timeline.seconds[begin:end][1:] >= timeline.seconds[begin:end][:-1]).all()
    assert set(encoded.split.tolist()) == {0, 1, 2}


def test_overlapping_sessions_of_a_user_stay_whole_across_midnight(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    midnight = datetime(2024, 2, 1, tzinfo=UTC)
    rows = [
        event("both", session, f"i{minutes % 40}", midnight + timedelta(minutes=minutes))
        | {"event_id": f"{session}{minutes}"}
        for session, times in (("phone", (-10, -5, 5, 9)), ("laptop", (-8, 3, 20)), ("desk", (-10, 4)))
        for minutes in times
    ]
    add_batch(warehouse, rows)
    snapshot = build_snapshot(warehouse, Folder.of(tmp_path), PARAMETERS)
    encoded = encode_snapshot(snapshot, build_vocabulary(snapshot))
    lengths = sorted(len(session) for session in _sessions_of(encoded.timeline, encoded.user_ids)["both"])
    assert lengths == [2, 3, 4]


def test_searches_belong_to_sessions_and_share_the_vocabulary_of_titles(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    at = START + timedelta(days=7 * 9, hours=1)
    add_batch(warehouse, [event("u1", "s1-9", "i5", at)])
    with warehouse.begin() as connection:
        connection.execute(
            text(
                "update events set event_type = 'search', item_id = null, query = 'Red item!'"
                " where session_id = 's1-9' and event_time = :at"
            ),
            {"at": at},
        )
        connection.execute(text("update item_versions set title = title || ' red' where item_id in ('i1', 'i2')"))
    built = build_snapshot(warehouse, Folder.of(tmp_path), PARAMETERS)
    words = build_vocabulary(built)
    timeline = encode_snapshot(built, words).timeline
    (search,) = np.flatnonzero(timeline.text > 0)
    found = [words.token_names[number] for number in timeline.queries[timeline.text[search]] if number]
    assert found == ["red", "item"]
    assert timeline.item[search] == UNKNOWN_ITEM
    assert timeline.kind[search] == EVENT_TYPE_CODES[SEARCH]
    assert timeline.session[search] == timeline.session[search - 1]


def test_impressions_are_not_user_actions(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    before = build_snapshot(warehouse, Folder.of(tmp_path), PARAMETERS)
    add_batch(warehouse, [event("u1", "shown", "i1", START) | {"event_type": "impression"}])
    assert build_snapshot(warehouse, Folder.of(tmp_path), PARAMETERS).snapshot_id == before.snapshot_id


def test_items_and_users_are_as_of_the_cutoff(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    batch = add_batch(warehouse, [])
    with warehouse.begin() as connection:
        connection.execute(
            text(
                "insert into item_versions (item_id, valid_from, batch, title, source)"
                " values ('i1', :day, :batch, 'Renamed', 't')"
            ),
            {"day": CUT - timedelta(days=1), "batch": batch},
        )
    for cutoff, title in ((CUT - timedelta(days=2), "Item 1"), (CUT, "Renamed")):
        items = build_snapshot(warehouse, Folder.of(tmp_path), PARAMETERS, cutoff).item_table().to_pylist()
        assert next(item["title"] for item in items if item["item_id"] == "i1") == title


def test_a_forgotten_user_is_in_no_file_of_any_snapshot(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    before = build_snapshot(warehouse, Folder.of(tmp_path), PARAMETERS, CUT)
    assert redact_users(warehouse, Folder.of(tmp_path), ["u3"]) > 0
    assert redact_users(warehouse, Folder.of(tmp_path), ["u3"]) == 0
    after = open_snapshot(Folder.of(tmp_path), before.snapshot_id)
    keys = after.events_table(["user_key"])["user_key"].to_pylist()
    assert "u:u3" not in keys
    assert len(set(keys)) == 29
    assert not any(b"u:u3" in path.read_bytes() for path in (tmp_path / "parts").glob("*.parquet"))


@pytest.mark.parametrize(
    "remove",
    [
        lambda engine, folder: drop_snapshots(engine, folder, timedelta(0)),
        lambda engine, folder: redact_users(engine, folder, ["u3"]),
    ],
    ids=["retention", "redaction"],
)
def test_a_removal_of_files_waits_for_a_running_build(
    warehouse: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remove: Callable[[Engine, Folder], int]
) -> None:
    fill(warehouse)
    register = partitions._register
    removals: list[Future[int]] = []

    def register_with_unreferenced_file(engine: Engine, partition: partitions.DailyPartition) -> None:
        if not removals:
            removals.append(threads.submit(remove, warehouse, Folder.of(tmp_path)))
            while not removals[0].done() and not _is_lock_awaited(warehouse):
                pass
        register(engine, partition)

    monkeypatch.setattr(partitions, "_register", register_with_unreferenced_file)
    with ThreadPoolExecutor(1) as threads:
        build_snapshot(warehouse, Folder.of(tmp_path), PARAMETERS)
        removals[0].result()
    snapshot = open_snapshot(Folder.of(tmp_path), latest_snapshot_id(warehouse))
    assert _files(snapshot)
    assert snapshot.events_table().num_rows > 1_000


def _is_lock_awaited(warehouse: Engine) -> bool:
    """Whether a session waits for an advisory lock of this warehouse."""
    with warehouse.connect() as connection:
        query = (
            "select exists (select from pg_locks inner join pg_database on pg_locks.database = pg_database.oid"
            " where locktype = 'advisory' and not granted and datname = current_database())"
        )
        return bool(connection.scalar(text(query)))


def test_too_little_data_is_an_error(warehouse: Engine, tmp_path: Path) -> None:
    with pytest.raises(NotEnoughData, match="no events"):
        build_snapshot(warehouse, Folder.of(tmp_path), PARAMETERS)
    with pytest.raises(InputError, match="No snapshot 'x'"):
        open_snapshot(Folder.of(tmp_path), "x")


def test_the_vocabulary_is_the_whole_catalog_with_rare_items_last(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    with warehouse.begin() as connection:
        connection.execute(
            text(
                "insert into item_versions (item_id, valid_from, batch, title, source)"
                " values ('new', '-infinity', 0, 'New item', 't')"
            )
        )
    vocabulary = build_vocabulary(build_snapshot(warehouse, Folder.of(tmp_path), PARAMETERS))
    counts = np.asarray(vocabulary.counts)
    assert sorted(vocabulary.item_ids) == sorted(["new", *(f"i{number}" for number in range(40))])
    assert vocabulary.item_ids[-1] == "new"
    assert vocabulary.num_untrained == (counts < PARAMETERS.min_item_events).sum() >= 1
    assert (counts[-vocabulary.num_untrained :] < PARAMETERS.min_item_events).all()


def test_a_catalog_without_events_makes_a_snapshot_without_held_out_sessions(warehouse: Engine, tmp_path: Path) -> None:
    add_batch(warehouse, [])
    with warehouse.begin() as connection:
        connection.execute(
            text(
                "insert into item_versions (item_id, valid_from, batch, title, source)"
                " values ('a', '-infinity', 0, 'Red mug', 't'), ('b', '-infinity', 0, 'Blue mug', 't')"
            )
        )
    snapshot = build_snapshot(warehouse, Folder.of(tmp_path), PARAMETERS)
    assert not snapshot.has_held_out_sessions
    assert snapshot.events == 0
    encoded = encode_snapshot(snapshot, build_vocabulary(snapshot))
    assert encoded.vocabulary.item_ids == ("a", "b")
    assert len(encoded.timeline) == 0


def test_the_vocabulary_counts_only_training_events(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    snapshot = build_snapshot(warehouse, Folder.of(tmp_path), PARAMETERS)
    vocabulary = build_vocabulary(snapshot)
    events = snapshot.events_table(["item_id", "event_time"]).to_pylist()
    before = [row["item_id"] for row in events if row["event_time"] < snapshot.validation_start]
    assert sum(vocabulary.counts) == len(before)
    assert (np.diff(vocabulary.counts) <= 0).all()
