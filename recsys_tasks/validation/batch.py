"""The gate that a landed batch passes: rules row by row, and whether the batch as a whole is believable."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.exc import ProgrammingError

from recsys_tasks.errors import BatchRejected, InvariantError
from recsys_tasks.ingestion.landing_schema import (
    drop_staged,
    enter_landing,
    find_batch,
    landing_schema,
    lock_batch,
    take_in_hand,
)
from recsys_tasks.names import KINDS
from recsys_tasks.validation import row_rules
from recsys_tasks.validation.context import data_docs_address
from recsys_tasks.validation.expectations import judge
from recsys_tasks.validation.profile import profile_batch, with_history
from recsys_tasks.warehouse import answering, statement

log = logging.getLogger(__name__)
_NO_SUCH_TABLE = "42P01"


@dataclass(frozen=True)
class ValidationReport:
    """What validation found in a batch; `rules` counts the rows that broke each rule."""

    batch_id: str
    rows: int
    quarantined: int
    rules: dict[str, int]
    warnings: list[str]
    new_columns: list[str]
    data_docs: str

    @property
    def summary(self) -> str:
        """The report in a line."""
        broken = ", ".join(f"{rule} {count:,}" for rule, count in self.rules.items())
        parts = [f"{self.batch_id}: {self.rows:,} rows, {self.quarantined:,} quarantined"]
        parts += [f"broken rules: {broken}"] if broken else []
        parts += [f"new columns: {', '.join(self.new_columns)}"] if self.new_columns else []
        parts += [f"warning: {warning}" for warning in self.warnings]
        return "; ".join([*parts, self.data_docs])


@dataclass
class _Findings:
    """What is found on the way, kind by kind."""

    rules: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@answering
def validate(
    engine: Engine,
    batch_id: str,
    home: Path,
    *,
    max_bad_share: float,
    kept_from: datetime,
    suites: Path | None = None,
    data_docs_url: str | None = None,
) -> ValidationReport:
    """Checks a landed batch, quarantines its bad rows and marks it validated; one that is, or is loaded, stays.

    Args:
        engine: the warehouse.
        batch_id: a batch that was landed.
        home: folder of validation results and data docs.
        max_bad_share: a batch with a larger share of bad rows is rejected whole.
        kept_from: older events are not taken in.
        suites: folder of expectation suites that go before those that come with the package.
        data_docs_url: where the data docs are served, for messages.

    Raises:
        BatchRejected: the suite of its source stops it; nothing of the batch will be loaded.
        InvariantError: there is no such batch.
        UnavailableError: the warehouse went away; nothing was decided.
    """
    docs = data_docs_address(home, data_docs_url)
    with engine.begin() as connection:
        lock_batch(connection, batch_id)
        batch = find_batch(connection, batch_id)
        if batch is None:
            raise InvariantError(f"There is no batch {batch_id}; land it first")
        if batch.status in ("loaded", "validated"):
            return _report(batch, batch.quarantined_rows, {}, batch.warnings, docs)
        found = _check(connection, batch, home, max_bad_share, kept_from, suites)
        quarantined = _count_quarantined(connection, batch_id)
        message = None
        if found.problems:
            message = (
                f"Batch {batch_id} ({batch.origin}) was rejected: {'; '.join(found.problems)}."
                f" Nothing of it was loaded. Details: {docs}"
            )
        _finish(connection, batch_id, quarantined, found.warnings, message)
    for warning in found.warnings:
        log.warning("Batch %s: %s", batch_id, warning)
    if message:
        raise BatchRejected(message)
    log.info(
        "Validated batch %s: %d rows, %d quarantined %s", batch_id, batch.read_rows, quarantined, found.rules or ""
    )
    return _report(batch, quarantined, found.rules, found.warnings, docs)


def _check(
    connection: Connection,
    batch: Row[tuple[object, ...]],
    home: Path,
    max_bad_share: float,
    kept_from: datetime,
    suites: Path | None,
) -> _Findings:
    enter_landing(connection, batch.number)
    if not connection.scalar(text("select to_regclass('landed_events') is not null")):
        raise BatchRejected(f"Batch {batch.batch_id} is {batch.status} and its landed rows are gone: ingest it again")
    drop_staged(connection)
    connection.execute(text("delete from quarantine where batch_id = :id and kind <> 'lines'"), {"id": batch.batch_id})
    connection.execute(text("delete from batch_profiles where batch_id = :id"), {"id": batch.batch_id})
    _note_pending(connection, batch)
    found = _Findings()
    lines = _count_quarantined(connection, batch.batch_id)
    if lines:
        found.rules["readable"] = lines
    about = {
        "source": batch.source,
        "kept_from": kept_from,
        "implies_items": batch.implies_items,
        "implies_users": batch.implies_users,
        "any_forgotten": connection.scalar(text("select exists (select 1 from forgotten_users)")),
    }
    for kind in KINDS:
        if not connection.scalar(text(f"select exists (select 1 from landed_{kind})")):  # noqa: S608
            continue
        connection.execute(statement(f"validation/stage_{kind}"), about)
        connection.execute(text(f"analyze staged_{kind} (broken_rules)"))  # that most rows break none
        broken = _quarantine(connection, batch.batch_id, kind)
        found.rules |= broken
        profile = profile_batch(connection, batch, kind, broken, lines)
        compared = with_history(connection, batch, kind, profile)
        verdict = judge(
            home,
            batch.source,
            kind,
            batch.batch_id,
            compared,
            batch.landed_at,
            parameters={"max_bad_share": max_bad_share},
            suites=suites,
        )
        found.warnings += verdict.warnings
        found.problems += verdict.problems
    if lines and lines == batch.read_rows and max_bad_share < 1:
        found.problems.append(f"none of its {lines} lines can be read")
    if found.problems and found.rules:
        worst = sorted(found.rules.items(), key=lambda item: -item[1])[:3]
        found.problems.append(f"bad rows: {', '.join(f'{rule} ({count})' for rule, count in worst)}")
    return found


def _note_pending(connection: Connection, batch: Row[tuple[object, ...]]) -> None:
    """Collects the ids of items and users that other batches have landed, which events may refer to already."""
    others = text("select number from batches where status in ('landed', 'validated') and batch_id <> :id")
    numbers = list(connection.scalars(others, {"id": batch.batch_id}))
    for kind, column in (("items", "item_id"), ("users", "user_id")):
        connection.execute(text(f"truncate pending_{kind}"))
        for number in numbers:
            landed = f"{landing_schema(number)}.landed_{kind}"
            _unless_gone(
                connection,
                f"insert into pending_{kind} select distinct {column} from {landed}"  # noqa: S608
                f" where {column} is not null on conflict do nothing",
            )
        if numbers:
            connection.execute(text(f"analyze pending_{kind}"))  # or it is read through for every event


def _unless_gone(connection: Connection, query: str) -> None:
    """Runs a query about another batch's landing, unless that was loaded a moment ago: then all it had is known."""
    try:
        with connection.begin_nested():
            connection.execute(text(query))
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) != _NO_SUCH_TABLE:
            raise


def _quarantine(connection: Connection, batch_id: str, kind: str) -> dict[str, int]:
    """Quarantines the rows that broke a rule; the count of rows for each broken rule."""
    take_in_hand(connection, kind)
    connection.execute(statement("validation/find_broken"))
    values = {"batch_id": batch_id, "kind": kind, "rules": row_rules.as_json(kind)}
    connection.execute(statement("validation/quarantine_rows"), values)
    counted = connection.execute(text("select rule, count(*) from broken_rows group by rule order by rule")).all()
    connection.execute(text("drop table broken_rows"))
    unknown = [rule for rule, _ in counted if rule not in row_rules.RULES[kind]]
    if unknown:
        raise InvariantError(
            f"sql/validation/stage_{kind}.sql names rules that row_rules.py lacks: {', '.join(unknown)}"
        )
    return {rule: count for rule, count in counted}


def _count_quarantined(connection: Connection, batch_id: str) -> int:
    query = text("select count(distinct (kind, row_number)) from quarantine where batch_id = :id")
    return int(connection.scalar(query, {"id": batch_id}) or 0)


def _finish(connection: Connection, batch_id: str, quarantined: int, warnings: list[str], message: str | None) -> None:
    connection.execute(
        text(
            "update batches set status = :status, quarantined_rows = :quarantined, warnings = :warnings,"
            " message = :message where batch_id = :id"
        ),
        {
            "id": batch_id,
            "status": "rejected" if message else "validated",
            "quarantined": quarantined,
            "warnings": warnings,
            "message": message,
        },
    )


def _report(
    batch: Row[tuple[object, ...]], quarantined: int, broken: dict[str, int], warnings: list[str], docs: str
) -> ValidationReport:
    return ValidationReport(
        batch.batch_id, batch.read_rows, quarantined, broken, list(warnings), list(batch.new_columns), docs
    )
