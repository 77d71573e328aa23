import asyncio
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tasks.serving.erasure import ErasedUsers, ErasureRecord, erase_lines, find_user_lines
from recsys_tasks.serving.event_log import EventLog, LogLine, LogRetention, Segment
from recsys_tasks.serving.follower import EventLogFollower


def _write(folder: Path, *lines: bytes) -> None:
    async def write() -> None:
        event_log = EventLog(folder)
        await asyncio.gather(*(event_log.append(line) for line in lines))
        event_log.close()

    asyncio.run(write())


def test_appended_lines_are_read_after_a_restart_once_and_in_order(tmp_path: Path) -> None:
    _write(tmp_path, b"1\n", b"2\n")
    _write(tmp_path, b"3\n")
    assert list(EventLog(tmp_path).read_lines()) == [b"1\n", b"2\n", b"3\n"]


def test_a_torn_last_line_is_never_read_and_does_not_affect_later_lines(tmp_path: Path) -> None:
    _write(tmp_path, b"1\n")
    torn = next(tmp_path.glob("*.jsonl"))
    torn.write_bytes(torn.read_bytes() + b'{"event_id": "ha')
    _write(tmp_path, b"2\n")
    event_log = EventLog(tmp_path)
    assert list(event_log.read_lines()) == [b"1\n", b"2\n"]
    assert event_log.read(torn.stem, 0, 1_000) == b"1\n"
    assert event_log.read(torn.stem, 2, 1_000) == b""


def test_the_instance_id_survives_a_restart(tmp_path: Path) -> None:
    assert EventLog(tmp_path).instance == EventLog(tmp_path).instance


# Deletion of collected segments


def _log_of_segments(folder: Path, retention: LogRetention, num_lines: int) -> EventLog:
    """A log with a segment for each line."""

    async def write() -> EventLog:
        event_log = EventLog(folder, retention)
        for number in range(num_lines):
            await event_log.append(b"%d\n" % number)
        return event_log

    return asyncio.run(write())


def test_segments_are_deleted_once_every_consumer_has_collected_them(tmp_path: Path) -> None:
    event_log = _log_of_segments(tmp_path, LogRetention(hours=0, segment_bytes=2), 5)
    third = event_log.segments()[2]
    event_log.confirm_collected("fast", third)
    assert len(event_log.segments()) == 2
    event_log = EventLog(tmp_path, LogRetention(hours=0, segment_bytes=2))  # what was collected survives a restart
    event_log.confirm_collected("fast", third)
    assert event_log.uncollected_bytes() == 4


def test_a_slow_consumer_keeps_segments(tmp_path: Path) -> None:
    event_log = _log_of_segments(tmp_path, LogRetention(hours=0, segment_bytes=2), 5)
    first, second, *_, last = event_log.segments()
    event_log.confirm_collected("slow", first)
    event_log.confirm_collected("fast", last)
    assert event_log.segments()[0] == second
    assert list(event_log.read_lines()) == [b"1\n", b"2\n", b"3\n", b"4\n"]


def test_collected_segments_stay_for_their_time_within_the_size(tmp_path: Path) -> None:
    retention = LogRetention(hours=1, max_bytes=6, segment_bytes=2)
    event_log = _log_of_segments(tmp_path, retention, 5)
    event_log.confirm_collected("one", event_log.segments()[-1])
    assert list(event_log.read_lines()) == [b"2\n", b"3\n", b"4\n"]


def test_nothing_is_deleted_without_a_consumer(tmp_path: Path) -> None:
    event_log = _log_of_segments(tmp_path, LogRetention(hours=0, max_bytes=1, segment_bytes=2), 5)
    assert len(event_log.segments()) == 5


def test_segments_that_a_start_replays_are_not_deleted_by_age(tmp_path: Path) -> None:
    async def write() -> EventLog:
        retention = LogRetention(hours=0, segment_bytes=2)
        event_log = EventLog(tmp_path, retention, lambda: datetime.now(UTC) - timedelta(days=1))
        for _ in range(3):
            await event_log.append(b"1\n")
        return event_log

    event_log = asyncio.run(write())
    event_log.confirm_collected("one", event_log.segments()[-1])
    assert len(event_log.segments()) == 3


def test_nothing_is_kept_for_a_consumer_that_was_removed(tmp_path: Path) -> None:
    event_log = _log_of_segments(tmp_path, LogRetention(hours=0, segment_bytes=2), 5)
    event_log.confirm_collected("gone", Segment("", 0))
    event_log.confirm_collected("one", event_log.segments()[-1])
    assert len(event_log.segments()) == 5
    event_log.remove_consumer("gone")
    event_log.confirm_collected("one", event_log.segments()[-1])
    assert len(event_log.segments()) == 1


def test_a_follower_reads_a_whole_segment_after_the_one_it_was_in_was_deleted(tmp_path: Path) -> None:
    async def run() -> list[bytes]:
        event_log = EventLog(tmp_path, LogRetention(hours=0, segment_bytes=4))
        follower = EventLogFollower([tmp_path])
        await event_log.append(b"long\n")
        assert list(follower.read_lines()) == [b"long\n"]
        await event_log.append(b"a\n")
        await event_log.append(b"b\n")
        event_log.confirm_collected("one", event_log.segments()[0])
        return list(follower.read_lines())

    assert asyncio.run(run()) == [b"a\n", b"b\n"]


def test_a_follower_reads_on_where_a_segment_was_deleted(tmp_path: Path) -> None:
    event_log = _log_of_segments(tmp_path, LogRetention(hours=0, segment_bytes=2), 3)
    follower = EventLogFollower([tmp_path])
    lines = follower.read_lines()
    assert next(lines) == b"0\n"
    event_log.confirm_collected("one", event_log.segments()[1])
    assert [*lines, *follower.read_lines()][-1] == b"2\n"


# Erasure of users

EventFields = dict[str, str]

events = st.fixed_dictionaries(
    {"event_id": st.uuids().map(str)},
    optional={
        "user_id": st.sampled_from(["forgotten-ü/1", "other", "forgotten-ü/10"]),
        "session_id": st.sampled_from(["s1", "s2", "s3"]),
        "query": st.sampled_from(["", "forgotten-ü/1", '"user_id": "forgotten-ü/1"']),
    },
)
event_logs = st.lists(st.lists(events, max_size=8), min_size=1, max_size=3)


def _bytes(segments: Sequence[Sequence[EventFields]]) -> list[bytes]:
    return [b"".join(json.dumps(event).encode() + b"\n" for event in segment) for segment in segments]


def _expected_files(segments: Sequence[Sequence[EventFields]], user: str) -> list[bytes]:
    """Expected files after an erasure: lines of the user, and anonymous ones of the user's sessions, are spaces."""
    all_events = [event for segment in segments for event in segment]
    sessions = {event.get("session_id") for event in all_events if event.get("user_id") == user} - {None}

    def line(event: EventFields) -> bytes:
        text = json.dumps(event).encode()
        is_erased = event.get("user_id", user if event.get("session_id") in sessions else None) == user
        return (b" " * len(text) if is_erased else text) + b"\n"

    return [b"".join(map(line, segment)) for segment in segments]


def _files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.jsonl"))]


def _create_event_log(folder: Path, segments: Sequence[Sequence[EventFields]]) -> EventLog:
    for number, content in enumerate(_bytes(segments), start=1):
        (folder / f"{number:08d}.jsonl").write_bytes(content)
    return EventLog(folder)


@settings(deadline=None)  # disk latency varies
@given(event_logs)
def test_an_erasure_blanks_all_lines_of_the_user_and_moves_no_other_line(segments: list[list[EventFields]]) -> None:
    with TemporaryDirectory() as home:
        event_log = _create_event_log(Path(home), segments)
        record = ErasedUsers(Path(home) / "forgotten").add("forgotten-ü/1", event_log.segments()[-1])
        num_lines = sum(1 for _ in event_log.read_lines())
        user_lines = find_user_lines(event_log, [record])
        erase_lines(event_log, user_lines)
        assert _files(event_log.folder)[:-1] == _expected_files(segments, "forgotten-ü/1")
        assert sum(1 for _ in event_log.read_lines()) == num_lines - len(user_lines)
        assert len(find_user_lines(event_log, [record])) == 0
        event_log.close()


class _Crash(Exception):
    pass


class _CrashingEventLog(EventLog):
    """An event log that crashes after some lines are blanked."""

    remaining_lines = 0

    def blank(self, lines: Iterable[LogLine]) -> None:
        for line in lines:
            if self.remaining_lines == 0:
                raise _Crash
            self.remaining_lines -= 1
            super().blank([line])


@settings(deadline=None)  # disk latency varies
@given(event_logs, st.integers(0, 24))
def test_after_a_crash_at_any_line_the_next_start_completes_the_erasure(
    segments: list[list[EventFields]], num_lines: int
) -> None:
    with TemporaryDirectory() as home:
        folder = Path(home)
        _create_event_log(folder, segments).close()
        crashing = _CrashingEventLog(folder)
        crashing.remaining_lines = num_lines
        record = ErasedUsers(folder / "forgotten").add("forgotten-ü/1", crashing.segments()[-1])
        with suppress(_Crash):
            erase_lines(crashing, find_user_lines(crashing, [record]))
        crashing.close()
        restarted = EventLog(folder)
        erase_lines(restarted, find_user_lines(restarted, ErasedUsers(folder / "forgotten").records()))
        restarted.close()
        assert _files(folder)[: len(segments)] == _expected_files(segments, "forgotten-ü/1")


def test_an_erasure_keeps_events_after_it(tmp_path: Path) -> None:
    user_event = {"user_id": "u", "session_id": "s"}
    event_log = _create_event_log(
        tmp_path, [[user_event], [user_event, {"session_id": "s"}, user_event, {"session_id": "s"}]]
    )
    lengths = [len(line) for line in _bytes([[event] for event in (user_event, {"session_id": "s"})])]
    record = ErasedUsers(tmp_path / "forgotten").add("u", Segment("00000002", sum(lengths)))
    erase_lines(event_log, find_user_lines(event_log, [record]))
    assert [json.loads(line) for line in event_log.read_lines()] == [user_event, {"session_id": "s"}]


def test_lines_are_erased_while_others_are_appended(tmp_path: Path) -> None:
    def line(number: int) -> bytes:
        return json.dumps({"user_id": "u" if number % 2 else "v", "event_id": str(number)}).encode() + b"\n"

    async def run() -> None:
        event_log = EventLog(tmp_path)
        await asyncio.gather(*(event_log.append(line(number)) for number in range(200)))
        record = ErasedUsers(tmp_path / "forgotten").add("u", event_log.segments()[-1])
        user_lines = find_user_lines(event_log, [record])
        await asyncio.gather(
            asyncio.to_thread(erase_lines, event_log, user_lines),
            *(event_log.append(line(number)) for number in range(200, 400)),
        )
        event_log.close()

    asyncio.run(run())
    event_ids = [int(json.loads(text)["event_id"]) for text in EventLog(tmp_path).read_lines()]
    assert event_ids == [*range(0, 200, 2), *range(200, 400)]


def test_while_appends_are_paused_every_written_line_is_confirmed_and_none_is_written(tmp_path: Path) -> None:
    async def run() -> None:
        event_log, confirmed = EventLog(tmp_path), []

        async def append(number: int) -> None:
            for _ in range(number):
                await asyncio.to_thread(int)  # spreads the appends over time
            await event_log.append(b"1\n")
            confirmed.append(number)

        appending = [asyncio.create_task(append(number)) for number in range(100)]
        while not all(task.done() for task in appending):
            async with event_log.pause_appends() as end:
                assert end.size_bytes == 2 * len(confirmed)
            await asyncio.sleep(0)
        assert event_log.segments() == [Segment("00000001", 200)]
        event_log.close()

    asyncio.run(run())


def test_erased_users_are_stored_by_digest_and_a_torn_record_affects_no_other(tmp_path: Path) -> None:
    path = tmp_path / "forgotten.jsonl"
    first = ErasedUsers(path).add("first-user", Segment("00000001", 5))
    path.write_bytes(path.read_bytes() + b'\n{"user": "ha')
    second = ErasedUsers(path).add("second-user", Segment("00000001", 7))
    assert b"first-user" not in path.read_bytes()
    assert [*ErasedUsers(path).records()] == [first, second]


def test_a_history_is_erased_up_to_the_time_of_the_erasure_and_not_after_it(tmp_path: Path) -> None:
    erased_users = ErasedUsers(tmp_path / "forgotten.jsonl")
    record: ErasureRecord = erased_users.add("u", Segment("00000001", 0))
    assert datetime.now(UTC) - record.time < timedelta(minutes=1)
    for users in (erased_users, ErasedUsers(tmp_path / "forgotten.jsonl")):
        assert users.is_erased("u", record.time)
        assert not users.is_erased("u", record.time + timedelta(seconds=1))
        assert not users.is_erased("v", record.time)
