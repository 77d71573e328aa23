"""What other workers of this machine wrote to their journals, read as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path


class Tail:
    """Follows journals in some folders, each line once.

    A worker answers for an event once it stands in its journal, so whoever looks there before each answer knows all
    that was answered for. Looking costs two calls of the system a journal where nothing is new.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._journals = [_Followed(folder) for folder in folders]

    def lines(self) -> Iterator[bytes]:
        """Whole lines that were not read before."""
        for journal in self._journals:
            yield from journal.lines()


class _Followed:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listed = 0
        self._segments: list[Path] = []  # the one that is being read, and those after it
        self._offset = 0

    def lines(self) -> Iterator[bytes]:
        self._look_for_segments()
        while self._segments:
            if self._segments[0].stat().st_size > self._offset:
                with self._segments[0].open("rb") as file:
                    file.seek(self._offset)
                    found = file.read()
                whole = found[: found.rfind(b"\n") + 1]
                self._offset += len(whole)
                yield from (line for line in whole.splitlines(keepends=True) if not line.isspace())
            if len(self._segments) == 1:
                return
            del self._segments[0]  # a worker that opened another one writes here no more
            self._offset = 0

    def _look_for_segments(self) -> None:
        try:
            changed = self._folder.stat().st_mtime_ns
        except FileNotFoundError:  # that worker never ran
            return
        if changed == self._listed:
            return
        self._listed = changed
        reading = self._segments[0].name if self._segments else ""
        self._segments = sorted(path for path in self._folder.glob("*.jsonl") if path.name >= reading)
