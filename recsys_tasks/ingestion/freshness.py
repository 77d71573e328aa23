"""Sources that deliver later than their mapping promises, and warnings of batches that nobody was told of."""

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
        last_loaded_at: when its last batch was loaded; None without any.
        last_event: time of its latest event; None without any.
    """

    source: str
    expected_every_hours: float
    last_loaded_at: datetime | None
    last_event: datetime | None

    def __str__(self) -> str:
        last = f"{self.last_loaded_at:%Y-%m-%d %H:%M} UTC" if self.last_loaded_at else "never"
        return f"{self.source} should deliver every {self.expected_every_hours:g} hours; last loaded: {last}"


@dataclass(frozen=True)
class BatchWarnings:
    """A batch with warnings of its source, of the expectation suites, or of the load."""

    batch_id: str
    origin: str
    warnings: list[str]


@raises_unavailable
def find_late_sources(engine: Engine) -> list[LateSource]:
    """Returns the late sources that nobody was told of since their last delivery."""
    with engine.connect() as connection:
        return [LateSource(*row) for row in connection.execute(statement("ingestion/late_sources"))]


@raises_unavailable
def mark_late(engine: Engine, source: str) -> None:
    """Records that somebody was told of a late source; call it after the effect."""
    with engine.begin() as connection:
        connection.execute(text("update sources set alerted_at = now() where source = :source"), {"source": source})


@raises_unavailable
def find_warnings(engine: Engine) -> list[BatchWarnings]:
    """Returns the loaded batches with warnings that nobody was told of, oldest first."""
    query = (
        "select batch_id, origin, warnings from batches"
        " where status = 'loaded' and warnings <> '{}' and alerted_at is null order by change_number"
    )
    with engine.connect() as connection:
        return [BatchWarnings(*row) for row in connection.execute(text(query))]


@raises_unavailable
def mark_warned(engine: Engine, batch_ids: Sequence[str]) -> None:
    """Records that somebody was told of the warnings of batches; call it after the effect."""
    query = text("update batches set alerted_at = now() where batch_id = any(:ids)")
    with engine.begin() as connection:
        connection.execute(query, {"ids": list(batch_ids)})
