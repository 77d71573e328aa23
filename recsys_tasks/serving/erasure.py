"""Erasure of users from one endpoint: records of erased users, and removal of their lines from the event log.

The record of an erasure, with the end of the event log at that time, is written first; the lines are blanked after
it. After a crash in between, the next start finds the remaining lines. Events behind the recorded end belong to a new
user and are kept.
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
from recsys_tasks.serving.durable import sync_folder
from recsys_tasks.serving.event_log import EventLog, LogLine, Segment

log = logging.getLogger(__name__)


class ErasureRecord(msgspec.Struct, frozen=True):
    """The erasure of one user: SHA-256 digest of the id, time, and end of the event log at that time."""

    user: str
    time: datetime
    segment: str
    bytes: int

    @property
    def end(self) -> Segment:
        """End of the event log at the time of the erasure."""
        return Segment(self.segment, self.bytes)


class ErasedUsers:
    """The erased users of one endpoint, stored in a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._latest = {record.user: record for record in _read_records(path)}

    def add(self, user_id: str, end: Segment) -> ErasureRecord:
        """Records durably that a user is erased up to an end of the event log.

        Raises:
            UnavailableError: the write failed; the erasure is not confirmed.
        """
        record = ErasureRecord(_digest(user_id), datetime.now(UTC), end.name, end.size_bytes)
        try:
            with self._path.open("ab") as file:
                # A line starts with its newline, so that a torn line before it does not damage it.
                file.write(b"\n" + msgspec.json.encode(record))
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self._path.parent)
        except OSError as error:
            raise UnavailableError(
                f"{self._path.name} cannot be written: {error.strerror}. Fix the disk and retry"
            ) from error
        self._latest[record.user] = record
        return record

    def records(self) -> Collection[ErasureRecord]:
        """Returns the latest record of each user."""
        return self._latest.values()

    def is_erased(self, user_id: str, cutoff: datetime) -> bool:
        """Whether a user's history up to a cutoff must not be used."""
        record = self._latest.get(_digest(user_id)) if self._latest else None
        return record is not None and cutoff <= record.time


class LineOwner(msgspec.Struct):
    """The ids in a line of the event log."""

    event_id: str | None = None
    user_id: str | None = None
    session_id: str | None = None


OwnedLine = tuple[LogLine, LineOwner]


@dataclass(frozen=True)
class UserLines:
    """Lines of erased users in an event log: those with their ids, and anonymous ones of their sessions."""

    identified: list[OwnedLine]
    anonymous: list[OwnedLine]

    @property
    def session_ids(self) -> set[str]:
        """Sessions that lose events."""
        return {owner.session_id for _, owner in self.identified if owner.session_id}

    @property
    def event_ids(self) -> set[str]:
        """Events that are removed."""
        return {owner.event_id for _, owner in (*self.identified, *self.anonymous) if owner.event_id}

    def __len__(self) -> int:
        return len(self.identified) + len(self.anonymous)


def find_user_lines(event_log: EventLog, records: Collection[ErasureRecord]) -> UserLines:
    """Returns the lines to erase, each before the end that its record names."""
    user_ends = {record.user: record.end for record in records}
    if not user_ends:
        return UserLines([], [])
    identified: list[OwnedLine] = []
    session_ends: dict[str, Segment] = {}
    for line, owner in _read_owned_lines(event_log):
        end = user_ends.get(_digest(owner.user_id)) if owner.user_id else None
        if end and line.is_before(end):
            identified.append((line, owner))
            if owner.session_id:
                session_ends[owner.session_id] = max(end, session_ends.get(owner.session_id, end))
    if not session_ends:
        return UserLines(identified, [])
    anonymous = [
        (line, owner)
        for line, owner in _read_owned_lines(event_log)
        if owner.user_id is None
        and owner.session_id in session_ends
        and line.is_before(session_ends[str(owner.session_id)])
    ]
    return UserLines(identified, anonymous)


def erase_lines(event_log: EventLog, lines: UserLines) -> None:
    """Blanks the lines: first the anonymous ones, which are found through the identified ones.

    Raises:
        UnavailableError: a write failed; a retry finds the remaining lines.
    """
    for part in (lines.anonymous, lines.identified):
        event_log.blank(line for line, _ in part)


def _read_owned_lines(event_log: EventLog) -> Iterator[OwnedLine]:
    """Yields the lines that can be decoded, with their owners; other lines have no owner."""
    decode = msgspec.json.Decoder(LineOwner).decode
    for line in event_log.read_log_lines():
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            yield line, decode(line.text)


def _read_records(path: Path) -> Iterator[ErasureRecord]:
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), start=1):
        try:
            if line:
                yield msgspec.json.decode(line, type=ErasureRecord)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            log.error("%s, line %d cannot be decoded; its erasure was never confirmed", path, number)


def _digest(user_id: str) -> str:
    return hashlib.sha256(user_id.encode()).hexdigest()
