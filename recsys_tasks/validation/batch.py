"""Validation of a landed batch: row rules in SQL, then an expectation suite on the batch's profile."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.exc import ProgrammingError

from recsys_tasks.errors import BatchRejected, InvariantError
from recsys_tasks.ingestion.contract import Contract
from recsys_tasks.ingestion.landing_schema import (
    create_landing_views,
    drop_staging_tables,
    find_batch,
    landing_schema_name,
    lock_batch,
    use_landing_schema,
)
from recsys_tasks.names import COLUMNS_BY_KIND
from recsys_tasks.storage.folder import Folder
from recsys_tasks.validation import row_rules
from recsys_tasks.validation.context import resolve_data_docs_url
from recsys_tasks.validation.contracts import ConstraintCheck, check_contract
from recsys_tasks.validation.expectations import run_suite
from recsys_tasks.validation.failing_rows import read_failing_rows
from recsys_tasks.validation.profile import compare_with_history, profile_batch
from recsys_tasks.warehouse import raises_unavailable, statement

log = logging.getLogger(__name__)
_UNDEFINED_TABLE = "42P01"


@dataclass(frozen=True)
class ValidationReport:
    """Result of a validation; `rules` counts the rows that broke each rule."""

    batch_id: str
    rows: int
    quarantined: int
    rules: dict[str, int]
    warnings: list[str]
    new_columns: list[str]
    data_docs: str

    @property
    def summary(self) -> str:
        """The report as one line."""
        broken = ", ".join(f"{rule} {count:,}" for rule, count in self.rules.items())
        parts = [f"{self.batch_id}: {self.rows:,} rows, {self.quarantined:,} quarantined"]
        parts += [f"broken rules: {broken}"] if broken else []
        parts += [f"new columns: {', '.join(self.new_columns)}"] if self.new_columns else []
        parts += [f"warning: {warning}" for warning in self.warnings]
        return "; ".join([*parts, self.data_docs])


@dataclass
class Findings:
    """Findings accumulated over the kinds of a batch: rows by broken rule, warnings, what rejects the batch, and the
    rows of forgotten users."""

    rules: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    forgotten: int = 0


@raises_unavailable
def validate_batch(
    engine: Engine,
    batch_id: str,
    home: Folder,
    *,
    max_bad_share: float,
    retention_start: datetime,
    suites: Path | None = None,
    data_docs_url: str | None = None,
) -> ValidationReport:
    """Checks a landed batch, quarantines its bad rows and marks it validated.

    Does nothing if the batch is already validated or loaded.

    Args:
        engine: the warehouse.
        batch_id: id of a landed batch.
        home: folder of validation results and data docs.
        max_bad_share: batches with a larger share of bad rows are rejected.
        retention_start: older events are quarantined.
        suites: folder of custom expectation suites, which override the built-in ones.
        data_docs_url: URL of the data docs, for messages.

    Raises:
        BatchRejected: an expectation of severity `critical` failed. Nothing of the batch is loaded.
        InvariantError: the batch does not exist.
        UnavailableError: the warehouse is unreachable. The batch is unchanged.
    """
    docs = resolve_data_docs_url(home, data_docs_url)
    with engine.begin() as connection:
        lock_batch(connection, batch_id)
        batch = find_batch(connection, batch_id)
        if batch is None:
            raise InvariantError(f"Batch {batch_id} does not exist; land it first")
        if batch.status in ("loaded", "validated"):
            return _build_report(batch, batch.quarantined_rows, {}, batch.warnings, docs)
        findings = check_rows(connection, batch, home, max_bad_share, retention_start, suites)
        quarantined = _count_quarantined(connection, batch_id)
        message = None
        if findings.problems:
            message = (
                f"Batch {batch_id} ({batch.origin}) was rejected: {'; '.join(findings.problems)}."
                f" Nothing of it was loaded. Details: {docs}"
            )
        _record_result(connection, batch_id, quarantined, findings, message, max_bad_share)
    for warning in findings.warnings:
        log.warning("Batch %s: %s", batch_id, warning)
    if message:
        raise BatchRejected(message)
    log.info(
        "Validated batch %s: %d rows, %d quarantined %s", batch_id, batch.read_rows, quarantined, findings.rules or ""
    )
    return _build_report(batch, quarantined, findings.rules, findings.warnings, docs)


def check_rows(
    connection: Connection,
    batch: Row[tuple[object, ...]],
    home: Folder,
    max_bad_share: float,
    retention_start: datetime,
    suites: Path | None,
) -> Findings:
    """Checks the rows of a landed batch, quarantines the bad ones, and runs the suites on its profile.

    Args:
        connection: with an open transaction.
        batch: row of `batches`.
        home: folder of validation results and data docs.
        max_bad_share: batches with a larger share of bad rows are rejected.
        retention_start: older events are quarantined.
        suites: folder of custom expectation suites.

    Raises:
        BatchRejected: the rows were dropped since.
    """
    use_landing_schema(connection, batch.number)
    if not connection.scalar(text("select to_regclass('landed_events') is not null")):
        raise BatchRejected(
            f"Batch {batch.batch_id} is {batch.status} but its landing schema was dropped; ingest it again"
        )
    drop_staging_tables(connection)
    connection.execute(text("delete from quarantine where batch_id = :id and kind <> 'lines'"), {"id": batch.batch_id})
    connection.execute(text("delete from batch_profiles where batch_id = :id"), {"id": batch.batch_id})
    _collect_pending_ids(connection, batch)
    findings = Findings(warnings=list(batch.landing_warnings))
    num_bad_lines = _count_quarantined(connection, batch.batch_id)
    if num_bad_lines:
        findings.rules["readable"] = num_bad_lines
    parameters = {
        "source": batch.source,
        "retention_start": retention_start,
        "implies_items": batch.implies_items,
        "implies_users": batch.implies_users,
        "any_forgotten": connection.scalar(text("select exists (select 1 from forgotten_users)")),
    }
    for kind in COLUMNS_BY_KIND:
        is_empty = not connection.scalar(text(f"select exists (select 1 from landed_{kind})"))  # noqa: S608
        if is_empty and kind not in batch.kinds:
            continue
        connection.execute(statement(f"validation/stage_{kind}"), parameters)
        if parameters["any_forgotten"]:
            left_out = _count_left_out(connection, kind)
            findings.forgotten += left_out
            if left_out and not connection.scalar(text(f"select exists (select 1 from staged_{kind})")):  # noqa: S608
                continue
        connection.execute(text(f"analyze staged_{kind} (broken_rules)"))  # statistics: most rows break no rule
        broken = _quarantine_rows(connection, batch.batch_id, kind)
        findings.rules |= broken
        profile = profile_batch(connection, batch, kind, broken, num_bad_lines)
        metrics = compare_with_history(connection, batch, kind, profile)
        constraints = _check_contract(connection, batch, kind)
        result = run_suite(
            home,
            batch.source,
            kind,
            batch.batch_id,
            metrics | {constraint.metric: constraint.num_rows for constraint in constraints},
            batch.landed_at,
            parameters={"max_bad_share": max_bad_share},
            suites=suites,
            contract_expectations=[constraint.expectation for constraint in constraints],
            failing_rows=[
                *read_failing_rows(connection, batch.batch_id, kind),
                *(constraint.failing_rows for constraint in constraints if constraint.num_rows),
            ],
        )
        findings.warnings += result.warnings
        findings.problems += result.problems
    if num_bad_lines and num_bad_lines == batch.read_rows and max_bad_share < 1:
        findings.problems.append(f"none of its {num_bad_lines} lines can be parsed")
    if findings.problems and findings.rules:
        top_rules = sorted(findings.rules.items(), key=lambda item: -item[1])[:3]
        findings.problems.append(f"bad rows: {', '.join(f'{rule} ({count})' for rule, count in top_rules)}")
    return findings


def _check_contract(connection: Connection, batch: Row[tuple[object, ...]], kind: str) -> list[ConstraintCheck]:
    if batch.contract is None or batch.contract["kind"] != kind:
        return []
    return check_contract(connection, kind, Contract.model_validate(batch.contract["contract"]))


def _collect_pending_ids(connection: Connection, batch: Row[tuple[object, ...]]) -> None:
    """Collects ids of items and users that are landed but not loaded; events may refer to them."""
    landed_batches = text("select number from batches where status in ('landed', 'validated') or batch_id = :id")
    numbers = list(connection.scalars(landed_batches, {"id": batch.batch_id}))
    for kind, column in (("items", "item_id"), ("users", "user_id")):
        connection.execute(text(f"truncate pending_{kind}"))
        for number in numbers:
            landed = f"{landing_schema_name(number)}.landed_{kind}"
            _execute_unless_dropped(
                connection,
                f"insert into pending_{kind} select distinct {column} from {landed}"  # noqa: S608
                f" where {column} is not null on conflict do nothing",
            )
        if numbers:
            connection.execute(text(f"analyze pending_{kind}"))  # otherwise the planner scans it for every event


def _execute_unless_dropped(connection: Connection, query: str) -> None:
    """Runs a query on another batch's landing schema; ignores a schema that was dropped after its load."""
    try:
        with connection.begin_nested():
            connection.execute(text(query))
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) != _UNDEFINED_TABLE:
            raise


def _quarantine_rows(connection: Connection, batch_id: str, kind: str) -> dict[str, int]:
    """Quarantines the rows that broke a rule; returns the number of rows per rule."""
    create_landing_views(connection, kind)
    connection.execute(statement("validation/find_broken"))
    values = {"batch_id": batch_id, "kind": kind, "rules": row_rules.rules_as_json(kind)}
    connection.execute(statement("validation/quarantine_rows"), values)
    counted = connection.execute(text("select rule, count(*) from broken_rows group by rule order by rule")).all()
    connection.execute(text("drop table broken_rows"))
    unknown = [rule for rule, _ in counted if rule not in row_rules.RULES[kind]]
    if unknown:
        raise InvariantError(f"sql/validation/stage_{kind}.sql has rules missing in row_rules.py: {', '.join(unknown)}")
    return {rule: count for rule, count in counted}


def _count_left_out(connection: Connection, kind: str) -> int:
    """Returns the number of landed rows that are not staged, as they are of forgotten users."""
    query = f"select (select count(*) from landed_{kind}) - (select count(*) from staged_{kind})"  # noqa: S608
    return int(connection.scalar(text(query)) or 0)


def _count_quarantined(connection: Connection, batch_id: str) -> int:
    query = text("select count(distinct (kind, row_number)) from quarantine where batch_id = :id")
    return int(connection.scalar(query, {"id": batch_id}) or 0)


def _record_result(
    connection: Connection,
    batch_id: str,
    quarantined: int,
    findings: Findings,
    message: str | None,
    max_bad_share: float,
) -> None:
    connection.execute(
        text(
            "update batches set status = :status, quarantined_rows = :quarantined, warnings = :warnings,"
            " forgotten_rows = :forgotten, message = :message, max_bad_share = :max_bad_share where batch_id = :id"
        ),
        {
            "id": batch_id,
            "status": "rejected" if message else "validated",
            "quarantined": quarantined,
            "warnings": findings.warnings,
            "forgotten": findings.forgotten,
            "message": message,
            "max_bad_share": max_bad_share,
        },
    )


def _build_report(
    batch: Row[tuple[object, ...]], quarantined: int, broken: dict[str, int], warnings: list[str], docs: str
) -> ValidationReport:
    return ValidationReport(
        batch.batch_id, batch.read_rows, quarantined, broken, list(warnings), list(batch.new_columns), docs
    )
