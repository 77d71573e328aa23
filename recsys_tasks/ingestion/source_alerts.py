"""Late sources and batch warnings whose alert is not sent yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, text

from recsys_tasks.warehouse import raises_unavailable, statement


@dataclass(frozen=True)
class LateSource:
    """A source that should have delivered.

    Attributes:
        source: its name.
        expected_every_hours: hours within which it delivers again.
        last_delivered_at: when its last batch was loaded; None without any.
    """

    source: str
    expected_every_hours: float
    last_delivered_at: datetime | None

    def __str__(self) -> str:
        last = f"{self.last_delivered_at:%Y-%m-%d %H:%M} UTC" if self.last_delivered_at else "never"
        return f"{self.source} should deliver every {self.expected_every_hours:g} hours; last delivery: {last}"


@dataclass(frozen=True)
class BatchWarnings:
    """A batch with warnings of its source, of the expectation suites, or of the load."""

    batch_id: str
    origin: str
    warnings: list[str]


@raises_unavailable
def find_late_sources(engine: Engine) -> list[LateSource]:
    """Returns the late sources for which no alert was sent since their last delivery."""
    with engine.connect() as connection:
        return [LateSource(*row) for row in connection.execute(statement("ingestion/late_sources"))]


@raises_unavailable
def mark_source_alerted(engine: Engine, source: str) -> None:
    """Records that the alert of a late source was sent; call it after sending."""
    with engine.begin() as connection:
        connection.execute(text("update sources set alerted_at = now() where source = :source"), {"source": source})


@raises_unavailable
def find_warnings(engine: Engine) -> list[BatchWarnings]:
    """Returns the loaded batches with warnings for which no alert was sent, oldest first."""
    query = (
        "select batch_id, origin, warnings from batches"
        " where status = 'loaded' and warnings <> '{}' and alerted_at is null order by change_number"
    )
    with engine.connect() as connection:
        return [BatchWarnings(*row) for row in connection.execute(text(query))]


@raises_unavailable
def mark_warnings_alerted(engine: Engine, batch_ids: Sequence[str]) -> None:
    """Records that the warnings of batches were sent; call it after sending."""
    query = text("update batches set alerted_at = now() where batch_id = any(:ids)")
    with engine.begin() as connection:
        connection.execute(query, {"ids": list(batch_ids)})
