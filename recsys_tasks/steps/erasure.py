"""Erasure of users from the endpoints, fetched feedback, the warehouse and the snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

from recsys_tasks.client import admin
from recsys_tasks.errors import InputError
from recsys_tasks.features.redaction import redact_users
from recsys_tasks.ingestion import removal
from recsys_tasks.settings import settings
from recsys_tasks.storage.folder import StoredFile
from recsys_tasks.warehouse import engine

_MAX_WRITING = timedelta(minutes=10)  # of one file; an older unfinished one was left by a killed process


@dataclass(frozen=True)
class ErasureReport:
    """Numbers of erased warehouse events, rewritten snapshot files, and erased lines of the endpoints' event logs."""

    events: int
    files: int
    journal_lines: int


def erase_users_in_file(name: str) -> ErasureReport:
    """Erases the users whose ids are in a file, one per line, of the folder `forget` of the shared files.

    Raises:
        InputError: the file is not in that folder, cannot be read, or has no id.
        UnavailableError: as `erase_users`.
    """
    path = _erasure_file(name)
    try:
        lines = path.read().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a file of user ids: {error}") from error
    user_ids = [line.strip() for line in lines if line.strip()]
    if not user_ids:
        raise InputError(f"{path} has no user id; write one per line")
    return erase_users(user_ids)


def delete_erasure_file(name: str) -> None:
    """Deletes a file of user ids, once their erasure is announced."""
    _erasure_file(name).remove()


def _erasure_file(name: str) -> StoredFile:
    folder = settings().shared_files / "forget"
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise InputError(f"{name} is not in {folder}")
    return folder.file(name)


def erase_users(user_ids: Sequence[str]) -> ErasureReport:
    """Erases users everywhere: at the endpoints, in fetched feedback, in the warehouse, data docs and every snapshot.

    Safe to repeat, also after a failure. Trained weights do not change. Bundles on endpoints contain user histories:
    those are masked at once, and the next promotion replaces the bundles.

    Raises:
        UnavailableError: an endpoint or the warehouse does not answer; repeat the erasure.
    """
    # Event logs first, so that nothing collected later contains these users.
    urls = settings().endpoint_urls
    lines = admin.forget(urls, settings().require_admin_token(), user_ids) if urls else 0
    for folder in (settings().fetched_feedback, settings().validation_home, settings().snapshots):
        folder.remove_unfinished(datetime.now(UTC) - _MAX_WRITING)
    for chunk in settings().fetched_feedback.names(".jsonl"):
        settings().fetched_feedback.remove(chunk)  # fetched again without these users
    removed = removal.forget(engine(), user_ids)
    if settings().validation_home.names(recursive=True):
        from recsys_tasks.validation.expectations import erase_failing_rows  # slow import

        erase_failing_rows(settings().validation_home, user_ids)
    files = redact_users(engine(), settings().snapshots, user_ids)
    return ErasureReport(removed.events, files, lines)
