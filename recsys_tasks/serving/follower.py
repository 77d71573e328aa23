"""Event log follower: reads new lines from the event logs of the other workers on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path


class EventLogFollower:
    """Follows the event logs in some folders and returns each line once.

    A worker confirms an event only after its event log has it. A worker that reads the other logs before each answer
    therefore knows every confirmed event. A read costs two system calls per log without new lines.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._followers = [_FolderFollower(folder) for folder in folders]

    def read_lines(self) -> Iterator[bytes]:
        """Yields the whole lines that were not read before."""
        for follower in self._followers:
            yield from follower.read_lines()


class _FolderFollower:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listed_mtime_ns = 0
        self._segments: list[Path] = []  # the current segment and the later ones
        self._offset = 0

    def read_lines(self) -> Iterator[bytes]:
        self._update_segments()
        while self._segments:
            chunk = _read_from(self._segments[0], self._offset)
            if chunk:
                whole_lines = chunk[: chunk.rfind(b"\n") + 1]
                self._offset += len(whole_lines)
                yield from (line for line in whole_lines.splitlines(keepends=True) if not line.isspace())
            if len(self._segments) == 1:
                return
            del self._segments[0]  # its worker has opened a newer segment and writes no more to this one
            self._offset = 0

    def _update_segments(self) -> None:
        try:
            mtime_ns = self._folder.stat().st_mtime_ns
        except FileNotFoundError:  # that worker has never run
            return
        if mtime_ns == self._listed_mtime_ns:
            return
        self._listed_mtime_ns = mtime_ns
        current = self._segments[0].name if self._segments else ""
        self._segments = sorted(path for path in self._folder.glob("*.jsonl") if path.name >= current)
        if self._segments and self._segments[0].name != current:  # that one was deleted
            self._offset = 0


def _read_from(path: Path, offset: int) -> bytes:
    """Returns the bytes of a file from an offset; none if the file was deleted."""
    try:
        if path.stat().st_size <= offset:
            return b""
        with path.open("rb") as file:
            file.seek(offset)
            return file.read()
    except FileNotFoundError:
        return b""
