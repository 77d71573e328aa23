import asyncio
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tasks.serving.erasure import Forgetting, Forgotten, erase, find_traces
from recsys_tasks.serving.event_log import Journal, Line, Segment


def _write(folder: Path, *lines: bytes) -> None:
    async def write() -> None:
        journal = Journal(folder)
        await asyncio.gather(*(journal.append(line) for line in lines))
        journal.close()

    asyncio.run(write())


def test_what_was_appended_is_there_after_a_restart_once_and_in_order(tmp_path: Path) -> None:
    _write(tmp_path, b"1\n", b"2\n")
    _write(tmp_path, b"3\n")
    assert list(Journal(tmp_path).lines()) == [b"1\n", b"2\n", b"3\n"]


def test_a_torn_last_line_is_never_read_and_harms_nothing_after_it(tmp_path: Path) -> None:
    _write(tmp_path, b"1\n")
    torn = next(tmp_path.glob("*.jsonl"))
    torn.write_bytes(torn.read_bytes() + b'{"event_id": "ha')
    _write(tmp_path, b"2\n")
    journal = Journal(tmp_path)
    assert list(journal.lines()) == [b"1\n", b"2\n"]
    assert journal.read(torn.stem, 0, 1_000) == b"1\n"
    assert journal.read(torn.stem, 2, 1_000) == b""


def test_the_instance_keeps_its_name(tmp_path: Path) -> None:
    assert Journal(tmp_path).instance == Journal(tmp_path).instance


# Forgetting users

Told = dict[str, str]

events = st.fixed_dictionaries(
    {"event_id": st.uuids().map(str)},
    optional={
        "user_id": st.sampled_from(["forgotten-ü/1", "other", "forgotten-ü/10"]),
        "session_id": st.sampled_from(["s1", "s2", "s3"]),
        "query": st.sampled_from(["", "forgotten-ü/1", '"user_id": "forgotten-ü/1"']),
    },
)
journals = st.lists(st.lists(events, max_size=8), min_size=1, max_size=3)


def _bytes(segments: Sequence[Sequence[Told]]) -> list[bytes]:
    return [b"".join(json.dumps(event).encode() + b"\n" for event in segment) for segment in segments]


def _left(segments: Sequence[Sequence[Told]], user: str) -> list[bytes]:
    """What is to be left of a journal: lines of the user, and of nobody in sessions of the user's, are spaces."""
    everything = [event for segment in segments for event in segment]
    sessions = {event.get("session_id") for event in everything if event.get("user_id") == user} - {None}

    def line(event: Told) -> bytes:
        text = json.dumps(event).encode()
        goes = event.get("user_id", user if event.get("session_id") in sessions else None) == user
        return (b" " * len(text) if goes else text) + b"\n"

    return [b"".join(map(line, segment)) for segment in segments]


def _files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.jsonl"))]


def _journal(folder: Path, segments: Sequence[Sequence[Told]]) -> Journal:
    for number, content in enumerate(_bytes(segments), start=1):
        (folder / f"{number:08d}.jsonl").write_bytes(content)
    return Journal(folder)


@settings(deadline=None)  # disks pause
@given(journals)
def test_of_a_forgotten_user_no_byte_is_left_and_every_other_line_stays_where_it_is(segments: list[list[Told]]) -> None:
    with TemporaryDirectory() as home:
        journal = _journal(Path(home), segments)
        forgetting = Forgotten(Path(home) / "forgotten").add("forgotten-ü/1", journal.segments()[-1])
        before = sum(1 for _ in journal.lines())
        traces = find_traces(journal, [forgetting])
        erase(journal, traces)
        assert _files(journal.folder)[:-1] == _left(segments, "forgotten-ü/1")
        assert sum(1 for _ in journal.lines()) == before - len(traces)
        assert len(find_traces(journal, [forgetting])) == 0
        journal.close()


class _Kill(Exception):
    pass


class _Mortal(Journal):
    """A journal that is killed after some lines were blanked."""

    lives = 0

    def blank(self, lines: Iterable[Line]) -> None:
        for line in lines:
            if self.lives == 0:
                raise _Kill
            self.lives -= 1
            super().blank([line])


@settings(deadline=None)  # disks pause
@given(journals, st.integers(0, 24))
def test_killed_after_any_line_the_next_start_finds_the_rest(segments: list[list[Told]], lives: int) -> None:
    with TemporaryDirectory() as home:
        folder = Path(home)
        _journal(folder, segments).close()
        mortal = _Mortal(folder)
        mortal.lives = lives
        forgetting = Forgotten(folder / "forgotten").add("forgotten-ü/1", mortal.segments()[-1])
        with suppress(_Kill):
            erase(mortal, find_traces(mortal, [forgetting]))
        mortal.close()
        again = Journal(folder)
        erase(again, find_traces(again, Forgotten(folder / "forgotten").entries()))
        again.close()
        assert _files(folder)[: len(segments)] == _left(segments, "forgotten-ü/1")


def test_only_what_was_there_when_the_user_was_forgotten_goes(tmp_path: Path) -> None:
    of_user = {"user_id": "u", "session_id": "s"}
    journal = _journal(tmp_path, [[of_user], [of_user, {"session_id": "s"}, of_user, {"session_id": "s"}]])
    lengths = [len(line) for line in _bytes([[event] for event in (of_user, {"session_id": "s"})])]
    forgetting = Forgotten(tmp_path / "forgotten").add("u", Segment("00000002", sum(lengths)))
    erase(journal, find_traces(journal, [forgetting]))
    assert [json.loads(line) for line in journal.lines()] == [of_user, {"session_id": "s"}]


def test_lines_can_go_while_others_are_appended(tmp_path: Path) -> None:
    def line(number: int) -> bytes:
        return json.dumps({"user_id": "u" if number % 2 else "v", "event_id": str(number)}).encode() + b"\n"

    async def run() -> None:
        journal = Journal(tmp_path)
        await asyncio.gather(*(journal.append(line(number)) for number in range(200)))
        forgetting = Forgotten(tmp_path / "forgotten").add("u", journal.segments()[-1])
        traces = find_traces(journal, [forgetting])
        await asyncio.gather(
            asyncio.to_thread(erase, journal, traces), *(journal.append(line(number)) for number in range(200, 400))
        )
        journal.close()

    asyncio.run(run())
    found = [int(json.loads(text)["event_id"]) for text in Journal(tmp_path).lines()]
    assert found == [*range(0, 200, 2), *range(200, 400)]


def test_in_a_quiet_moment_everybody_knows_of_what_was_written_and_nobody_writes(tmp_path: Path) -> None:
    async def run() -> None:
        journal, heard = Journal(tmp_path), []

        async def append(number: int) -> None:
            for _ in range(number):
                await asyncio.to_thread(int)  # so that they come at different times
            await journal.append(b"1\n")
            heard.append(number)

        appending = [asyncio.create_task(append(number)) for number in range(100)]
        while not all(task.done() for task in appending):
            async with journal.quiet() as end:
                assert end.bytes == 2 * len(heard)
            await asyncio.sleep(0)
        assert journal.segments() == [Segment("00000001", 200)]
        journal.close()

    asyncio.run(run())


def test_who_was_forgotten_is_remembered_by_digest_and_a_torn_entry_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "forgotten.jsonl"
    first = Forgotten(path).add("first-user", Segment("00000001", 5))
    path.write_bytes(path.read_bytes() + b'\n{"user": "ha')
    second = Forgotten(path).add("second-user", Segment("00000001", 7))
    assert b"first-user" not in path.read_bytes()
    assert [*Forgotten(path).entries()] == [first, second]


def test_a_bundle_made_before_a_user_was_forgotten_is_hidden_and_one_made_later_is_not(tmp_path: Path) -> None:
    forgotten = Forgotten(tmp_path / "forgotten.jsonl")
    entry: Forgetting = forgotten.add("u", Segment("00000001", 0))
    assert datetime.now(UTC) - entry.time < timedelta(minutes=1)
    for known in (forgotten, Forgotten(tmp_path / "forgotten.jsonl")):
        assert known.hides("u", entry.time)
        assert not known.hides("u", entry.time + timedelta(seconds=1))
        assert not known.hides("v", entry.time)
