"""Sources, and the endpoints' journals, into the warehouse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recsys_tasks.feedback import Portion, advance, fetch
from recsys_tasks.ingestion.land import land
from recsys_tasks.ingestion.load import LoadReport, load
from recsys_tasks.ingestion.sources import read_source
from recsys_tasks.interval import Interval
from recsys_tasks.names import FEEDBACK_SOURCE
from recsys_tasks.settings import settings
from recsys_tasks.warehouse import engine

if TYPE_CHECKING:
    from recsys_tasks.validation import ValidationReport


def land_source(source: str, paths: Sequence[str] = (), interval: Interval | None = None) -> list[str]:
    """Lands what a source has; ids of the batches."""
    return land(engine(), read_source(source, [Path(path) for path in paths], interval))


def validate_batches(batch_ids: Sequence[str], max_bad_share: float | None = None) -> list[ValidationReport]:
    """Validates landed batches; raises `BatchRejected` at the first that is bad as a whole."""
    from recsys_tasks.validation import validate  # takes seconds to import, which landing and loading can save

    share = settings().max_bad_share if max_bad_share is None else max_bad_share
    return [
        validate(
            engine(),
            batch_id,
            settings().validation_home,
            max_bad_share=share,
            data_docs_url=settings().data_docs_url,
        )
        for batch_id in batch_ids
    ]


def load_batches(batch_ids: Sequence[str]) -> list[LoadReport]:
    """Loads validated batches."""
    return [load(engine(), batch_id) for batch_id in batch_ids]


def fetch_feedback() -> list[Portion]:
    """Fetches what is new in the endpoints' journals."""
    return fetch(
        engine(), settings().endpoint_urls, settings().require_admin_token(), settings().home / "landing" / "feedback"
    )


def load_feedback(portions: Sequence[Portion]) -> list[LoadReport]:
    """Lands, validates and loads fetched portions, then moves the cursors behind them.

    Bad rows are quarantined however many they are: one caller's mistakes must not stop everybody's feedback.
    """
    batch_ids = land_source(FEEDBACK_SOURCE, [portion.path for portion in portions])
    validate_batches(batch_ids, max_bad_share=1.0)
    reports = load_batches(batch_ids)
    advance(engine(), portions)
    return reports
