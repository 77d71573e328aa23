"""The journal: what was shown and what users did, as JSON lines in files that only grow.

A line that `append` has returned for survives the machine losing power. A torn last line, which nobody was told
of, is left where it is and never read: each start opens a new file. What has to go is blanked where it stands, so
that a number of bytes read so far stays true.
"""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from recsys_tasks.errors import UnavailableError


@dataclass(frozen=True, order=True)
class Segment:
    """One file of the journal and how many bytes it has."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Line:
    """A line of the journal, with its newline, and where it stands."""

    segment: str
    offset: int
    text: bytes

    def before(self, end: Segment) -> bool:
        """Whether it was there when the journal ended with so many bytes of that file."""
        return Segment(self.segment, self.offset) < end


class Journal:
    """The journal of one endpoint, in one folder; `instance` names it wherever the folder moves."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.instance = self._instance()
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._appending = asyncio.Lock()
        self._blanking = threading.Lock()  # nobody reads half a line
        self._asked_from = Segment("", 0)
        self._name = f"{max((int(segment.name) for segment in self.segments()), default=0) + 1:08d}"
        self._size = 0
        self._file = self._open_segment()

    def segments(self) -> list[Segment]:
        """All files, oldest first."""
        return [Segment(path.stem, path.stat().st_size) for path in sorted(self.folder.glob("*.jsonl"))]

    def uncollected(self) -> int:
        """Bytes behind the furthest place that was read from since the start: who reads on has what came before."""
        reached = self._asked_from
        return sum(
            segment.bytes - (reached.bytes if segment.name == reached.name else 0)
            for segment in self.segments()
            if segment.name >= reached.name
        )

    def read(self, name: str, offset: int, limit: int) -> bytes:
        """Whole lines of a file from an offset, about `limit` bytes of them.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if not name.isdigit():
            raise FileNotFoundError(name)
        with self._blanking, self._path(name).open("rb") as file:
            file.seek(offset)
            chunk = file.read(limit)
        self._asked_from = max(self._asked_from, Segment(name, offset))
        return chunk[: chunk.rfind(b"\n") + 1]

    def lines(self) -> Iterator[bytes]:
        """The text of every whole line that is not blank, oldest first."""
        return (line.text for line in self.placed_lines())

    def placed_lines(self) -> Iterator[Line]:
        """Every whole line that is not blank, oldest first."""
        for segment in self.segments():
            offset = 0
            with self._path(segment.name).open("rb") as file:
                for text in file:
                    if text.endswith(b"\n") and not text.isspace():
                        yield Line(segment.name, offset, text)
                    offset += len(text)

    def blank(self, lines: Iterable[Line]) -> None:
        """Overwrites lines with spaces, durably; every other line stays as and where it is.

        Raises:
            UnavailableError: the disk refuses; some lines may still be there.
        """
        try:
            for name, of_segment in groupby(lines, lambda line: line.segment):
                with self._path(name).open("r+b") as file:
                    for line in of_segment:
                        with self._blanking:
                            file.seek(line.offset)
                            file.write(b"\n".rjust(len(line.text)))
                            file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise _refused(error) from error

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[Segment]:
        """Lets appends wait; gives where the journal ends. Whoever appended before that has heard of it."""
        async with self._appending:
            await asyncio.sleep(0)  # those whose lines have just become durable go first
            yield Segment(self._name, self._size)

    async def append(self, lines: bytes) -> None:
        """Returns when the lines are durable. Calls that wait at the same time share one sync.

        Raises:
            UnavailableError: the disk refuses; nothing was promised.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((lines, done))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())
        await done

    def note(self, lines: bytes) -> None:
        """Writes lines without waiting for the disk: they survive the process, not a loss of power."""
        self._write(lines)

    def close(self) -> None:
        """Syncs and closes the file."""
        os.fsync(self._file)
        os.close(self._file)

    async def _flush(self) -> None:
        while self._waiting:
            async with self._appending:
                batch, self._waiting = self._waiting, []
                await self._make_durable(batch)

    async def _make_durable(self, batch: list[tuple[bytes, asyncio.Future[None]]]) -> None:
        failure = None
        try:
            self._write(b"".join(lines for lines, _ in batch))
            await asyncio.to_thread(os.fsync, self._file)
        except OSError as error:
            failure = _refused(error)
        for _, done in batch:
            if done.done():
                continue
            if failure:
                done.set_exception(failure)
            else:
                done.set_result(None)

    def _write(self, lines: bytes) -> None:
        before = self._size
        try:
            while lines:
                written = os.write(self._file, lines)
                lines = lines[written:]
                self._size += written
        except OSError:
            os.ftruncate(self._file, before)  # half a write is no line
            self._size = before
            raise

    def _open_segment(self) -> int:
        file = os.open(self._path(self._name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        sync_folder(self.folder)
        return file

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def _instance(self) -> str:
        path = self.folder / "instance"
        if not path.exists():
            path.write_text(uuid.uuid4().hex, encoding="ascii")
        return path.read_text(encoding="ascii").strip()


def sync_folder(folder: Path) -> None:
    """Makes the names of new files durable."""
    directory = os.open(folder, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def _refused(error: OSError) -> UnavailableError:
    return UnavailableError(f"The journal cannot be written: {error.strerror}")
