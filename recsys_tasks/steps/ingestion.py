"""Sources, and the endpoints' journals, into the warehouse; and out of it what must go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recsys_tasks.errors import InputError
from recsys_tasks.feedback import Portion, advance, fetch
from recsys_tasks.ingestion import landing_folder, removal, replay
from recsys_tasks.ingestion.batch import SourceBatch
from recsys_tasks.ingestion.landing import land
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
            kept_from=settings().earliest_event_time,
            suites=settings().expectation_suites,
            data_docs_url=settings().data_docs_url,
        )
        for batch_id in batch_ids
    ]


def load_batches(batch_ids: Sequence[str]) -> list[LoadReport]:
    """Loads validated batches."""
    return [load(engine(), batch_id) for batch_id in batch_ids]


def ingest(batches: Iterable[SourceBatch], max_bad_share: float | None = None) -> list[LoadReport]:
    """Lands all the batches, then validates and loads them one after the other."""
    reports = []
    for batch_id in land(engine(), batches):
        validate_batches([batch_id], max_bad_share)
        reports += load_batches([batch_id])
    return reports


def dropped_files() -> list[landing_folder.DroppedFile]:
    """The files in the landing folder that were not landed yet."""
    return landing_folder.new_files(engine(), settings().landing_folder)


def ingest_dropped(dropped: landing_folder.DroppedFile) -> list[LoadReport]:
    """Ingests one file of the landing folder and remembers it."""
    reports = ingest(read_source(dropped.source, [Path(dropped.path)]))
    landing_folder.note_landed(engine(), dropped, [report.batch_id for report in reports])
    return reports


def ingest_landing() -> tuple[list[LoadReport], list[str]]:
    """Ingests every new file of the landing folder: what came of them, and what was wrong with those that failed."""
    reports: list[LoadReport] = []
    problems = []
    for dropped in dropped_files():
        try:
            reports += ingest_dropped(dropped)
        except InputError as error:
            problems.append(str(error))
    return reports, problems


def replay_quarantine(
    source: str | None = None, batch_id: str | None = None, rule: str | None = None
) -> list[LoadReport]:
    """Takes rows in quarantine through validation once more; what is still bad is in quarantine again."""
    reports = []
    for found in replay.quarantined_rows(engine(), source=source, batch_id=batch_id, rule=rule):
        reports += ingest([found.batch], max_bad_share=1.0)
        replay.resolve(engine(), found)
    return reports


def retract_batch(batch_id: str, reason: str) -> removal.RemovalReport:
    """Removes what a batch brought."""
    return removal.retract(engine(), batch_id, reason)


def fetch_feedback() -> list[Portion]:
    """Fetches what is new in the endpoints' journals."""
    return fetch(engine(), settings().endpoint_urls, settings().require_admin_token(), settings().home / "feedback")


def load_feedback(portions: Sequence[Portion]) -> list[LoadReport]:
    """Lands, validates and loads fetched portions, then moves the cursors behind them and removes their files.

    Bad rows are quarantined however many they are: one caller's mistakes must not stop everybody's feedback.
    """
    if not portions:
        return []
    paths = [Path(portion.path) for portion in portions]
    reports = ingest(read_source(FEEDBACK_SOURCE, paths), max_bad_share=1.0)
    advance(engine(), portions)
    for path in paths:
        path.unlink(missing_ok=True)
    return reports
