"""The journal: what was shown and what users did, as JSON lines in files that only grow.

A line that `append` has returned for survives the machine losing power. A torn last line, which nobody was told
of, is left where it is and never read: each start opens a new file.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recsys_tasks.errors import UnavailableError


@dataclass(frozen=True)
class Segment:
    """One file of the journal and how many bytes it has."""

    name: str
    bytes: int


class Journal:
    """The journal of one endpoint, in one folder; `instance` names it wherever the folder moves."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.instance = self._instance()
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._size = 0
        self._file = self._open_segment()

    def segments(self) -> list[Segment]:
        """All files, oldest first."""
        return [Segment(path.stem, path.stat().st_size) for path in sorted(self.folder.glob("*.jsonl"))]

    def read(self, name: str, offset: int, limit: int) -> bytes:
        """Whole lines of a file from an offset, about `limit` bytes of them.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if not name.isdigit():
            raise FileNotFoundError(name)
        with (self.folder / f"{name}.jsonl").open("rb") as file:
            file.seek(offset)
            chunk = file.read(limit)
        return chunk[: chunk.rfind(b"\n") + 1]

    def lines(self) -> Iterator[bytes]:
        """Every whole line, oldest first."""
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                yield from (line for line in file if line.endswith(b"\n"))

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
            batch, self._waiting = self._waiting, []
            try:
                self._write(b"".join(lines for lines, _ in batch))
                await asyncio.to_thread(os.fsync, self._file)
            except OSError as error:
                failure = UnavailableError(f"The journal cannot be written: {error.strerror}")
                for _, done in batch:
                    if not done.done():
                        done.set_exception(failure)
                continue
            for _, done in batch:
                if not done.done():
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
        latest = max((int(segment.name) for segment in self.segments()), default=0)
        path = self.folder / f"{latest + 1:08d}.jsonl"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        directory = os.open(self.folder, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        return file

    def _instance(self) -> str:
        path = self.folder / "instance"
        if not path.exists():
            path.write_text(uuid.uuid4().hex, encoding="ascii")
        return path.read_text(encoding="ascii").strip()
