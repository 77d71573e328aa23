import asyncio
from pathlib import Path

from recsys_tasks.serving.journal import Journal


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
