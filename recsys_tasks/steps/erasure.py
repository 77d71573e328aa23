"""Users who ask to be forgotten, out of everything that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recsys_tasks.client import admin
from recsys_tasks.features.redaction import redact
from recsys_tasks.ingestion import removal
from recsys_tasks.settings import settings
from recsys_tasks.warehouse import engine


@dataclass(frozen=True)
class Forgotten:
    """How much of the users went: events of the warehouse, files of snapshots, lines of the endpoints' journals."""

    events: int
    files: int
    journal_lines: int


def forget_users(user_ids: Sequence[str]) -> Forgotten:
    """Forgets users everywhere: at the endpoints, in fetched feedback, in the warehouse and in every snapshot.

    Safe to repeat, and to be repeated where it failed half-way. Models that learned from many keep what they learned;
    the bundles on endpoints, which hold histories, are masked at once and replaced by the next promotion.

    Raises:
        UnavailableError: an endpoint or the warehouse does not answer; repeat it then.
    """
    # The journals first: what is collected after that tells nothing of them.
    urls = settings().endpoint_urls
    lines = admin.forget(urls, settings().require_admin_token(), user_ids) if urls else 0
    for portion in (settings().home / "feedback").glob("*.jsonl"):
        portion.unlink()  # it is fetched again, without them
    removed = removal.forget(engine(), user_ids)
    files = redact(engine(), settings().snapshots, user_ids) if settings().snapshots.is_dir() else 0
    return Forgotten(removed.events, files, lines)
