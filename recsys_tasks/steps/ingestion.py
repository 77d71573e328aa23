"""Ingestion of sources and of the endpoints' event logs into the warehouse, replay of quarantine, and retraction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from recsys_tasks.errors import InputError
from recsys_tasks.feedback import EventLogChunk, advance_cursors, fetch_chunks
from recsys_tasks.ingestion import landing_folder, quarantine, removal, replay, source_alerts
from recsys_tasks.ingestion.batch import SourceBatch
from recsys_tasks.ingestion.delivery import Delivery, expand_dates, find_delivered_files, require_delivered_files
from recsys_tasks.ingestion.landing import land_batches
from recsys_tasks.ingestion.load import LoadReport, load_batch
from recsys_tasks.ingestion.quarantine import ALL_ROWS, QuarantineFilter
from recsys_tasks.ingestion.sources import read_source
from recsys_tasks.interval import Interval
from recsys_tasks.names import FEEDBACK_SOURCE
from recsys_tasks.settings import settings
from recsys_tasks.warehouse import engine

if TYPE_CHECKING:
    from recsys_tasks.validation.batch import ValidationReport
    from recsys_tasks.validation.dry_run import DryRunReport


def land_source(source: str, paths: Sequence[str] = (), interval: Interval | None = None) -> list[str]:
    """Lands the batches of a source; returns their ids.

    Args:
        source: name of a source, or path of a mapping file.
        paths: of its files, here or in a remote store; may have `*`, and dates, such as `{date:%Y/%m/%d}`.
        interval: time range that dates in the paths stand for, or that is read.
    """
    return land_batches(engine(), read_source(source, require_delivered_files(paths, interval), interval))


def find_missing_files(delivery: Delivery, interval: Interval) -> list[str]:
    """Returns the paths of a delivery, for all dates in an interval, that no file has yet; its markers among them."""
    paths = [path for path in (delivery.path, delivery.marker) if path is not None]
    return find_delivered_files(paths, interval)[1]


def ingest_files(source: str, paths: Sequence[str], interval: Interval | None = None) -> list[LoadReport]:
    """Lands, validates and loads files; arguments as of `land_source`."""
    return ingest(read_source(source, require_delivered_files(paths, interval), interval))


def ingest_delivery(source: str, delivery: Delivery, interval: Interval) -> list[LoadReport]:
    """Lands, validates and loads the files of all dates that end in an interval; without any such date, nothing."""
    return ingest_files(source, [delivery.path], interval) if expand_dates(delivery.path, interval) else []


def any_rejected(batch_ids: Sequence[str]) -> bool:
    """Whether one of the batches was rejected: its rows are those of a source or mapping that may be mended by now."""
    query = text("select exists (select 1 from batches where batch_id = any(:ids) and status = 'rejected')")
    with engine().connect() as connection:
        return bool(connection.scalar(query, {"ids": list(batch_ids)}))


def validate_batches(batch_ids: Sequence[str], max_bad_share: float | None = None) -> list[ValidationReport]:
    """Validates landed batches.

    Raises:
        BatchRejected: at the first batch that fails as a whole.
    """
    from recsys_tasks.validation.batch import validate_batch  # slow import (seconds); landing and loading do without it

    share = settings().max_bad_share if max_bad_share is None else max_bad_share
    return [
        validate_batch(
            engine(),
            batch_id,
            settings().validation_home,
            max_bad_share=share,
            retention_start=settings().earliest_event_time,
            suites=settings().expectation_suites,
            data_docs_url=settings().data_docs_url,
        )
        for batch_id in batch_ids
    ]


def load_batches(batch_ids: Sequence[str]) -> list[LoadReport]:
    """Loads validated batches."""
    return [load_batch(engine(), batch_id) for batch_id in batch_ids]


def ingest(batches: Iterable[SourceBatch], max_bad_share: float | None = None) -> list[LoadReport]:
    """Lands all batches, then validates and loads them one by one."""
    reports = []
    for batch_id in land_batches(engine(), batches):
        validate_batches([batch_id], max_bad_share)
        reports += load_batches([batch_id])
    return reports


def dry_run(batches: Iterable[SourceBatch]) -> tuple[list[DryRunReport], list[str]]:
    """Reports what an ingestion of batches would do, each on its own, and the errors of files that cannot be landed;
    writes nothing."""
    from recsys_tasks.validation.dry_run import dry_run as run  # slow import, as above

    limits = settings().max_bad_share, settings().earliest_event_time, settings().expectation_suites
    reports, problems = [], []
    for batch in batches:
        try:
            reports.append(run(engine(), batch, *limits))
        except InputError as error:
            problems.append(str(error))
    return reports, problems


def alert_late_sources(send: Callable[[source_alerts.LateSource], bool]) -> list[str]:
    """Sends an alert for each source that is late, once; returns them in words."""
    late = source_alerts.find_late_sources(engine())
    for source in late:
        if send(source):
            source_alerts.mark_source_alerted(engine(), source.source)
    return [str(source) for source in late]


def alert_warnings(send: Callable[[source_alerts.BatchWarnings], bool]) -> list[str]:
    """Sends the warnings of loaded batches, once; returns the ids of the batches."""
    batches = source_alerts.find_warnings(engine())
    source_alerts.mark_warnings_alerted(engine(), [batch.batch_id for batch in batches if send(batch)])
    return [batch.batch_id for batch in batches]


def find_landing_files() -> list[landing_folder.LandingFile]:
    """Returns the files in the landing folder that are not landed yet."""
    return landing_folder.find_new_files(engine(), settings().landing_folder)


def find_skipped_landing_files() -> dict[str, str]:
    """Returns the files in the landing folder that are no data of a source, and why."""
    return landing_folder.find_skipped_files(settings().landing_folder)


def ingest_landing_file(file: landing_folder.LandingFile) -> list[LoadReport]:
    """Ingests one file of the landing folder and records it as landed."""
    reports = ingest(read_source(file.source, [file.path]))
    landing_folder.record_landed_file(engine(), file, [report.batch_id for report in reports])
    return reports


def ingest_landing() -> tuple[list[LoadReport], list[str]]:
    """Ingests every new file of the landing folder; returns the load reports and the errors of failed files."""
    reports: list[LoadReport] = []
    problems = []
    for file in find_landing_files():
        try:
            reports += ingest_landing_file(file)
        except InputError as error:
            problems.append(str(error))
    return reports, problems


def summarize_quarantine(selected: QuarantineFilter) -> list[dict[str, Any]]:
    """Returns the number of quarantined rows by source and rule."""
    return quarantine.summarize(engine(), selected)


def read_quarantine(
    selected: QuarantineFilter, limit: int | None = None, only_replayable: bool = False
) -> list[quarantine.QuarantinedRow]:
    """Returns quarantined rows; only those of loaded batches that a replay loads if asked."""
    return quarantine.read_rows(engine(), selected, limit, only_replayable)


def import_corrections(path: Path) -> list[LoadReport]:
    """Replaces quarantined rows by the corrected ones of a file, and replays these rows alone."""
    rows = quarantine.read_corrections(path)
    quarantine.correct(engine(), rows)
    return replay_quarantine(keys={row.key for row in rows})


def replay_quarantine(
    selected: QuarantineFilter = ALL_ROWS, keys: Collection[quarantine.RowKey] | None = None
) -> list[LoadReport]:
    """Validates and loads quarantined rows again; rows that are still bad return to quarantine.

    Args:
        selected: which rows.
        keys: only these of them; None for all.
    """
    reports = []
    for replayed in replay.build_replay_batches(engine(), selected, keys):
        reports += ingest([replayed.batch], max_bad_share=1.0)
        replay.mark_resolved(engine(), replayed)
    return reports


def retract_batch(batch_id: str, reason: str) -> removal.RemovalReport:
    """Removes the rows of a batch."""
    return removal.retract(engine(), batch_id, reason)


def fetch_feedback() -> list[EventLogChunk]:
    """Fetches the new parts of the endpoints' event logs."""
    return fetch_chunks(
        engine(), settings().endpoint_urls, settings().require_admin_token(), settings().fetched_feedback
    )


def load_feedback(portions: Sequence[EventLogChunk]) -> list[LoadReport]:
    """Lands, validates and loads fetched parts of event logs, then advances the cursors and removes the files.

    No share of bad rows rejects a batch, they are quarantined: one bad caller must not stop all feedback.
    """
    if not portions:
        return []
    folder = settings().fetched_feedback
    reports = ingest(
        read_source(FEEDBACK_SOURCE, [f"{folder.address}/{portion.file}" for portion in portions]), max_bad_share=1.0
    )
    advance_cursors(engine(), portions)
    for portion in portions:
        folder.remove(portion.file)
    return reports
