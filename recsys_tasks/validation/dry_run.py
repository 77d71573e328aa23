"""Dry run of an ingestion: what a batch would do to the warehouse, without a trace there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, text

from recsys_tasks.errors import InvariantError
from recsys_tasks.ingestion.batch import SourceBatch
from recsys_tasks.ingestion.landing import copy_batch
from recsys_tasks.ingestion.landing_schema import find_batch
from recsys_tasks.names import COLUMNS_BY_KIND, UNREADABLE_LINES
from recsys_tasks.storage.folder import Folder
from recsys_tasks.validation.batch import check_rows
from recsys_tasks.validation.failing_rows import truncate
from recsys_tasks.warehouse import raises_unavailable, statement

_EXAMPLES = 3


@dataclass(frozen=True)
class BrokenRule:
    """A rule that rows of a batch break: their number, the reason, and some of them, by line or row number."""

    rule: str
    rows: int
    reason: str
    examples: list[dict[str, Any]]


@dataclass(frozen=True)
class DryRunReport:
    """What a batch would do.

    Attributes:
        origin: the file.
        read: number of rows and bad lines.
        ignored: number of events of types that the mapping ignores.
        valid: number of valid rows by kind.
        examples: typed valid rows by kind, without their null columns.
        quarantined: the rules that rows break, those that most rows break first.
        warnings: of the source and of the expectation suites.
        problems: why the batch would be rejected; empty if it would not.
    """

    origin: str
    read: int
    ignored: int
    valid: dict[str, int]
    examples: dict[str, list[dict[str, Any]]]
    quarantined: list[BrokenRule]
    warnings: list[str]
    problems: list[str]

    def lines(self) -> Iterator[str]:
        """Yields the report as text for a terminal."""
        counts = ", ".join(f"{rows:,} valid {kind}" for kind, rows in self.valid.items()) or "no valid rows"
        ignored = f", {self.ignored:,} events ignored" if self.ignored else ""
        yield f"{self.origin}: {self.read:,} rows read, {counts}{ignored}"
        for kind, rows in self.examples.items():
            for row in rows:
                yield f"  {kind}: " + ", ".join(f"{name}={truncate(value)}" for name, value in row.items())
        for broken in self.quarantined:
            yield f"  quarantined: {broken.rows:,} rows, {broken.reason} ({broken.rule}), for example"
            yield from (f"    {row['row_number']}: {truncate(row['raw'])}" for row in broken.examples)
        yield from (f"  warning: {warning}" for warning in self.warnings)
        yield from (f"  would be rejected: {problem}" for problem in self.problems)


@raises_unavailable
def dry_run(
    engine: Engine,
    batch: SourceBatch,
    max_bad_share: float,
    retention_start: datetime,
    suites: Path | None = None,
) -> DryRunReport:
    """Lands and checks a batch in a transaction that is rolled back. Conflicting event ids show only in a load.

    Args:
        engine: the warehouse.
        batch: what a source has read; it is used up.
        max_bad_share: batches with a larger share of bad rows would be rejected.
        retention_start: older events would be quarantined.
        suites: folder of custom expectation suites.

    Raises:
        MalformedFile: a file lacks a mapped column, or has a malformed line and its mapping says `reject`.
        UnavailableError: the warehouse is unreachable.
    """
    batch.digest = f"dry-run-{batch.digest}"  # a batch that is loaded may be tried again
    with engine.connect() as connection, connection.begin() as transaction, tempfile.TemporaryDirectory() as home:
        copy_batch(connection, batch)
        landed = find_batch(connection, batch.batch_id)
        if landed is None:
            raise InvariantError(f"Batch {batch.batch_id} was not landed")
        findings = check_rows(connection, landed, Folder.of(Path(home)), max_bad_share, retention_start, suites)
        valid = {kind: _count_valid(connection, kind) for kind in _staged_kinds(connection)}
        report = DryRunReport(
            batch.origin,
            landed.read_rows,
            landed.ignored_rows,
            valid,
            {kind: _example_rows(connection, kind) for kind in valid},
            _broken_rules(connection, batch.batch_id),
            findings.warnings,
            findings.problems,
        )
        transaction.rollback()
    return report


def _staged_kinds(connection: Connection) -> list[str]:
    exists = text("select to_regclass(:name) is not null")
    return [kind for kind in COLUMNS_BY_KIND if connection.scalar(exists, {"name": f"staged_{kind}"})]


def _count_valid(connection: Connection, kind: str) -> int:
    return int(connection.scalar(text(f"select count(*) from staged_{kind} where broken_rules is null")) or 0)  # noqa: S608


def _example_rows(connection: Connection, kind: str) -> list[dict[str, Any]]:
    query = text(f"select * from staged_{kind} where broken_rules is null order by row_number limit :limit")  # noqa: S608
    rows = connection.execute(query, {"limit": _EXAMPLES}).mappings()
    return [{name: row[name] for name in COLUMNS_BY_KIND[kind] if row.get(name) is not None} for row in rows]


def _broken_rules(connection: Connection, batch_id: str) -> list[BrokenRule]:
    values = {"batch_id": batch_id, "kinds": [*COLUMNS_BY_KIND, UNREADABLE_LINES], "examples": _EXAMPLES}
    return [BrokenRule(*row) for row in connection.execute(statement("validation/broken_rules"), values)]
