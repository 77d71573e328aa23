"""Event log of one endpoint: an append-only log of impressions and user actions, as JSON lines in segment files.

A line is durable once `append` has returned for it. A torn last line was never confirmed; it stays in its file and is
never read, because each start opens a new segment. Erased lines are overwritten with spaces, so byte offsets stay
valid. Segments that every consumer has collected are deleted by age and total size; others never.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path

import msgspec

from recsys_tasks.errors import UnavailableError
from recsys_tasks.serving.durable import replace_file, sync_folder

_COLLECTED = "collected.json"


@dataclass(frozen=True, order=True)
class Segment:
    """Name and size of one file of the event log; also a position in the log, as an offset in that file."""

    name: str
    size_bytes: int


_BEGINNING = Segment("", 0)


@dataclass(frozen=True)
class LogLine:
    """A line of the event log, with its newline, its segment and its byte offset."""

    segment: str
    offset: int
    text: bytes

    def is_before(self, end: Segment) -> bool:
        """Whether the line starts before a position of the log."""
        return Segment(self.segment, self.offset) < end


@dataclass(frozen=True)
class LogRetention:
    """How long collected segments stay.

    Attributes:
        hours: age of a segment's last line at which it is deleted.
        max_bytes: size of all segments above which the oldest are deleted earlier.
        segment_bytes: size at which a new segment begins.
    """

    hours: float = 168.0
    max_bytes: int = 4 << 30
    segment_bytes: int = 64 << 20


class EventLog:
    """The event log of one endpoint, in one folder. `instance` is an id that stays the same if the folder moves.

    Args:
        folder: of the segments.
        retention: of collected segments.
        needed_since: returns the time from which on events are replayed at a start; segments with later ones are not
            deleted by age.
    """

    def __init__(
        self,
        folder: Path,
        retention: LogRetention = LogRetention(),
        needed_since: Callable[[], datetime | None] = lambda: None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._retention, self._needed_since = retention, needed_since
        self._collected = self._load_collected()
        self.instance = self._load_instance()
        self._pending_appends: list[tuple[bytes, asyncio.Future[None]]] = []
        self._flush_task: asyncio.Task[None] | None = None
        self._append_lock = asyncio.Lock()
        self._blank_lock = threading.Lock()  # a reader never sees a partly blanked line
        self._segment_name = f"{max((int(segment.name) for segment in self.segments()), default=0) + 1:08d}"
        self._segment_bytes = 0
        self._file = self._open_segment()

    def segments(self) -> list[Segment]:
        """Returns all segments, oldest first."""
        found = []
        for path in sorted(self.folder.glob("*.jsonl")):
            with suppress(FileNotFoundError):  # deleted meanwhile
                found.append(Segment(path.stem, path.stat().st_size))
        return found

    def uncollected_bytes(self) -> int:
        """Returns the bytes that some consumer has not collected yet; all of them without a consumer."""
        position = self._collected_until()
        return sum(
            segment.size_bytes - (position.size_bytes if segment.name == position.name else 0)
            for segment in self.segments()
            if segment.name >= position.name
        )

    def confirm_collected(self, consumer: str, end: Segment) -> None:
        """Remembers that a consumer holds everything before a position, and deletes segments that are not needed.

        Raises:
            UnavailableError: the position cannot be written; segments are deleted nevertheless, to make room.
        """
        self._collected[consumer] = max(end, self._collected.get(consumer, _BEGINNING))
        self._delete_collected()
        self._save_collected()

    def remove_consumer(self, consumer: str) -> None:
        """Forgets a consumer, so that nothing is kept for it.

        Raises:
            UnavailableError: the change cannot be written.
        """
        self._collected.pop(consumer, None)
        self._save_collected()

    def _save_collected(self) -> None:
        try:
            replace_file(self.folder / _COLLECTED, msgspec.json.encode(self._collected))
        except OSError as error:
            raise _write_error(error) from error

    def _collected_until(self) -> Segment:
        return min(self._collected.values(), default=_BEGINNING)

    def _delete_collected(self) -> None:
        """Deletes collected segments by age and total size, oldest first; never the current one."""
        position, segments = self._collected_until(), self.segments()
        total = sum(segment.size_bytes for segment in segments)
        needed_since = self._needed_since()
        last_needed = math.inf if needed_since is None else needed_since.timestamp()
        for segment in segments:
            if segment.name == self._segment_name or segment > position:
                return
            written_at = self._path(segment.name).stat().st_mtime
            is_old = time.time() - written_at >= 3_600 * self._retention.hours and written_at < last_needed
            if not is_old and total <= self._retention.max_bytes:
                return
            self._path(segment.name).unlink()
            total -= segment.size_bytes

    def read(self, name: str, offset: int, limit: int) -> bytes:
        """Returns the whole lines of a segment from a byte offset, at most `limit` bytes.

        Raises:
            FileNotFoundError: the segment does not exist.
        """
        if not name.isdigit():
            raise FileNotFoundError(name)
        with self._blank_lock, self._path(name).open("rb") as file:
            file.seek(offset)
            chunk = file.read(limit)
        return chunk[: chunk.rfind(b"\n") + 1]

    def read_lines(self) -> Iterator[bytes]:
        """Yields the text of every whole line that is not blank, oldest first."""
        return (line.text for line in self.read_log_lines())

    def read_log_lines(self) -> Iterator[LogLine]:
        """Yields every whole line that is not blank, with its position, oldest first."""
        for segment in self.segments():
            offset = 0
            with suppress(FileNotFoundError), self._path(segment.name).open("rb") as file:  # may be deleted meanwhile
                for text in file:
                    if text.endswith(b"\n") and not text.isspace():
                        yield LogLine(segment.name, offset, text)
                    offset += len(text)

    def blank(self, lines: Iterable[LogLine]) -> None:
        """Overwrites lines with spaces, durably; no other line changes or moves.

        Raises:
            UnavailableError: a write failed; some lines may not be blank yet.
        """
        try:
            for name, segment_lines in groupby(lines, lambda line: line.segment):
                with suppress(FileNotFoundError), self._path(name).open("r+b") as file:  # may be deleted meanwhile
                    for line in segment_lines:
                        with self._blank_lock:
                            file.seek(line.offset)
                            file.write(b"\n".rjust(len(line.text)))
                            file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise _write_error(error) from error

    @asynccontextmanager
    async def pause_appends(self) -> AsyncIterator[Segment]:
        """Holds back appends and yields the end of the log. Every caller of `append` up to there has resumed."""
        async with self._append_lock:
            await asyncio.sleep(0)  # callers whose lines just became durable run first
            yield Segment(self._segment_name, self._segment_bytes)

    async def append(self, lines: bytes) -> None:
        """Appends lines and returns when they are durable. Concurrent calls share one fsync.

        Raises:
            UnavailableError: the write failed; the lines are not confirmed.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending_appends.append((lines, done))
        if self._flush_task is None or self._flush_task.done():
            self._flush_task = asyncio.create_task(self._flush())
        await done

    def append_unsynced(self, lines: bytes) -> None:
        """Appends lines without fsync: they survive a crash of the process, not a power loss."""
        if self._flush_task is None or self._flush_task.done():
            self._begin_segment_if_full()
        self._write(lines)

    def close(self) -> None:
        """Syncs and closes the current segment."""
        os.fsync(self._file)
        os.close(self._file)

    async def _flush(self) -> None:
        while self._pending_appends:
            async with self._append_lock:
                batch, self._pending_appends = self._pending_appends, []
                await self._write_batch(batch)

    async def _write_batch(self, batch: list[tuple[bytes, asyncio.Future[None]]]) -> None:
        failure = None
        try:
            self._begin_segment_if_full()
            self._write(b"".join(lines for lines, _ in batch))
            await asyncio.to_thread(os.fsync, self._file)
        except OSError as error:
            failure = _write_error(error)
        for _, done in batch:
            if done.done():
                continue
            if failure:
                done.set_exception(failure)
            else:
                done.set_result(None)

    def _write(self, lines: bytes) -> None:
        previous_bytes = self._segment_bytes
        try:
            while lines:
                num_written = os.write(self._file, lines)
                lines = lines[num_written:]
                self._segment_bytes += num_written
        except OSError:
            os.ftruncate(self._file, previous_bytes)  # removes a partly written line
            self._segment_bytes = previous_bytes
            raise

    def _begin_segment_if_full(self) -> None:
        """Begins a new segment; only while no fsync of the current one runs: all confirmed lines are durable then."""
        if self._segment_bytes < self._retention.segment_bytes:
            return
        full, name = self._file, self._segment_name
        self._segment_name = f"{int(name) + 1:08d}"
        try:
            self._file = self._open_segment()
        except OSError:
            self._segment_name = name
            raise
        self._segment_bytes = 0
        os.close(full)
        self._delete_collected()

    def _load_collected(self) -> dict[str, Segment]:
        path = self.folder / _COLLECTED
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Segment]) if path.exists() else {}

    def _open_segment(self) -> int:
        path = self._path(self._segment_name)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            sync_folder(self.folder)
        except OSError:
            os.close(file)
            path.unlink()
            raise
        return file

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def _load_instance(self) -> str:
        path = self.folder / "instance"
        if not path.exists():
            path.write_text(uuid.uuid4().hex, encoding="ascii")
        return path.read_text(encoding="ascii").strip()


def _write_error(error: OSError) -> UnavailableError:
    return UnavailableError(f"The event log cannot be written: {error.strerror}. Fix the disk and retry")
