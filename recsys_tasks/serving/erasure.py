"""Users who asked to be forgotten: that they did, and what the journal still has of them.

First it is written down that a user is forgotten and where the journal ended then; only after that lines go. Whoever
is killed in between finds at the next start what is left to do. What a user does later stands behind that place and
counts like anybody's.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from recsys_tasks.errors import UnavailableError
from recsys_tasks.serving.event_log import Journal, Line, Segment, sync_folder

log = logging.getLogger(__name__)


class Forgetting(msgspec.Struct, frozen=True):
    """That a user, known by a digest only, was forgotten: when, and where the journal ended then."""

    user: str
    time: datetime
    segment: str
    bytes: int

    @property
    def end(self) -> Segment:
        """The journal's last file and its bytes at that time."""
        return Segment(self.segment, self.bytes)


class Forgotten:
    """The users that were forgotten, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._latest = {entry.user: entry for entry in _read(path)}

    def add(self, user_id: str, end: Segment) -> Forgetting:
        """Remembers durably that a user is forgotten from now on, when the journal ends there.

        Raises:
            UnavailableError: the disk refuses; nothing was promised.
        """
        entry = Forgetting(_digest(user_id), datetime.now(UTC), end.name, end.bytes)
        try:
            with self._path.open("ab") as file:
                # A line begins with its newline: one that was torn before it spoils nothing.
                file.write(b"\n" + msgspec.json.encode(entry))
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self._path.parent)
        except OSError as error:
            raise UnavailableError(f"{self._path.name} cannot be written: {error.strerror}") from error
        self._latest[entry.user] = entry
        return entry

    def entries(self) -> Collection[Forgetting]:
        """The latest forgetting of each user."""
        return self._latest.values()

    def hides(self, user_id: str, cutoff: datetime) -> bool:
        """Whether what was known of a user up to a cut-off may not be used."""
        entry = self._latest.get(_digest(user_id)) if self._latest else None
        return entry is not None and cutoff <= entry.time


class Said(msgspec.Struct):
    """Of whom a line of the journal tells."""

    event_id: str | None = None
    user_id: str | None = None
    session_id: str | None = None


Trace = tuple[Line, Said]


@dataclass(frozen=True)
class Traces:
    """What a journal has of forgotten users: lines of their own, and lines without a user of their sessions."""

    own: list[Trace]
    anonymous: list[Trace]

    @property
    def session_ids(self) -> set[str]:
        """The sessions that lose events."""
        return {said.session_id for _, said in self.own if said.session_id}

    @property
    def event_ids(self) -> set[str]:
        """The events that go."""
        return {said.event_id for _, said in (*self.own, *self.anonymous) if said.event_id}

    def __len__(self) -> int:
        return len(self.own) + len(self.anonymous)


def find_traces(journal: Journal, forgettings: Collection[Forgetting]) -> Traces:
    """The lines that have to go, each of them older than the forgetting it goes for."""
    ends = {entry.user: entry.end for entry in forgettings}
    if not ends:
        return Traces([], [])
    own: list[Trace] = []
    sessions: dict[str, Segment] = {}
    for line, said in _told(journal):
        end = ends.get(_digest(said.user_id)) if said.user_id else None
        if end and line.before(end):
            own.append((line, said))
            if said.session_id:
                sessions[said.session_id] = max(end, sessions.get(said.session_id, end))
    if not sessions:
        return Traces(own, [])
    nobodys = ((line, said) for line, said in _told(journal) if said.user_id is None and said.session_id in sessions)
    return Traces(own, [(line, said) for line, said in nobodys if line.before(sessions[str(said.session_id)])])


def erase(journal: Journal, traces: Traces) -> None:
    """Blanks the lines: first those without a user, which are found by the others.

    Raises:
        UnavailableError: the disk refuses; what is left can be found again.
    """
    for part in (traces.anonymous, traces.own):
        journal.blank(line for line, _ in part)


def _told(journal: Journal) -> Iterator[Trace]:
    """The lines of which something can be told; nothing else in the journal is anybody's."""
    decode = msgspec.json.Decoder(Said).decode
    for line in journal.placed_lines():
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            yield line, decode(line.text)


def _read(path: Path) -> Iterator[Forgetting]:
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), start=1):
        try:
            if line:
                yield msgspec.json.decode(line, type=Forgetting)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            log.error("%s, line %d cannot be read; nobody was told that it was written", path, number)


def _digest(user_id: str) -> str:
    return hashlib.sha256(user_id.encode()).hexdigest()
