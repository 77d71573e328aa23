"""The gate that a landed batch passes: rules row by row, and whether the batch as a whole is believable."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import great_expectations as gx
from great_expectations.core.batch_definition import BatchDefinition
from great_expectations.data_context import EphemeralDataContext
from sqlalchemy import Engine, Row, text

from recsys_tasks.errors import BatchRejected, InvariantError
from recsys_tasks.names import KINDS
from recsys_tasks.validation.context import data_docs_address, validation_context
from recsys_tasks.validation.suites import suite, volume
from recsys_tasks.warehouse import statement

log = logging.getLogger(__name__)

# A batch this many times smaller or larger a day than the median of the ones before it is not believed.
_VOLUME_FACTOR = 5.0


@dataclass(frozen=True)
class ValidationReport:
    """What validation found in a batch; `rules` counts the rows that broke each rule."""

    batch_id: str
    rows: int
    quarantined: int
    rules: dict[str, int]
    data_docs: str


def validate(
    engine: Engine, batch_id: str, home: Path, *, max_bad_share: float, data_docs_url: str | None = None
) -> ValidationReport:
    """Checks a landed batch, quarantines its bad rows and marks it validated; a loaded batch stays as it is.

    Args:
        engine: the warehouse.
        batch_id: a batch that was landed.
        home: folder of validation results and data docs.
        max_bad_share: a batch with a larger share of bad rows is rejected whole.
        data_docs_url: where the data docs are served, for messages.

    Raises:
        BatchRejected: too many bad rows, or an unusual volume; nothing of the batch will be loaded.
        InvariantError: there is no such batch.
    """
    docs = data_docs_address(home, data_docs_url)
    with engine.connect() as connection:
        batch = connection.execute(text("select * from batches where batch_id = :id"), {"id": batch_id}).one_or_none()
    if batch is None:
        raise InvariantError(f"There is no batch {batch_id}; land it first")
    if batch.status == "loaded":
        return ValidationReport(batch_id, batch.read_rows, batch.quarantined_rows, {}, docs)
    _reset(engine, batch_id)
    context = validation_context(home)
    rules: dict[str, int] = {}
    for kind in KINDS:
        with _checked_table(engine, kind, batch_id) as table:
            if table is not None:
                rules |= _check_rows(engine, context, batch_id, kind, table)
    unusual = _check_volume(engine, context, batch)
    context.build_data_docs()
    quarantined = _count_quarantined(engine, batch_id)
    problem = _whole_batch_problem(batch, quarantined, max_bad_share, rules, unusual)
    if problem:
        message = (
            f"Batch {batch_id} ({batch.origin}) was rejected: {problem}. Nothing of it was loaded. Details: {docs}"
        )
        _finish(engine, batch_id, "rejected", quarantined, message)
        raise BatchRejected(message)
    _finish(engine, batch_id, "validated", quarantined, None)
    log.info("Validated batch %s: %d rows, %d quarantined %s", batch_id, batch.read_rows, quarantined, rules or "")
    return ValidationReport(batch_id, batch.read_rows, quarantined, rules, docs)


class _checked_table:
    """A table, for the time of a check, with one landed kind of a batch as `sql/validation/<kind>.sql` sees it."""

    def __init__(self, engine: Engine, kind: str, batch_id: str) -> None:
        self._engine, self._kind, self._batch_id = engine, kind, batch_id
        self._name = f"validating_{kind}_{batch_id.rsplit('-', 1)[-1]}"

    def __enter__(self) -> str | None:
        with self._engine.begin() as connection:
            connection.execute(text(f'drop table if exists "{self._name}"'))
            query = statement(f"validation/{self._kind}").text
            made = text(f'create unlogged table "{self._name}" as {query}')
            rows = connection.execute(made, {"batch_id": self._batch_id}).rowcount
        return self._name if rows else None

    def __exit__(self, *_: object) -> None:
        with self._engine.begin() as connection:
            connection.execute(text(f'drop table if exists "{self._name}"'))


def _check_rows(engine: Engine, context: EphemeralDataContext, batch_id: str, kind: str, table: str) -> dict[str, int]:
    """Runs a kind's suite; quarantines the rows that broke it. The count of rows for each broken rule."""
    whole = _whole_table(engine, context, table)
    result = _run(context, f"{kind} {batch_id}", whole, suite(kind))
    broken = [found for found in result["results"] if not found["success"]]
    return {found["expectation_config"]["meta"]["rule"]: _quarantine(engine, batch_id, kind, found) for found in broken}


def _whole_table(engine: Engine, context: EphemeralDataContext, table: str) -> BatchDefinition:
    url = engine.url.render_as_string(hide_password=False)
    source = context.data_sources.add_sql(name=table, connection_string=url)
    return source.add_table_asset(name=table, table_name=table).add_batch_definition_whole_table("whole")


def _run(
    context: EphemeralDataContext, name: str, batch: BatchDefinition, rules: gx.ExpectationSuite
) -> dict[str, Any]:
    kept = context.suites.add(rules)
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=kept))
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name=name,
            validation_definitions=[definition],
            result_format={
                "result_format": "COMPLETE",
                "unexpected_index_column_names": ["row_number"],
                "return_unexpected_index_query": True,
            },
        )
    )
    outcome = checkpoint.run(run_id=gx.RunIdentifier(run_name=name))
    found: dict[str, Any] = next(iter(outcome.run_results.values())).to_json_dict()
    for result in found["results"]:
        if result["exception_info"].get("raised_exception"):
            raise InvariantError(
                f"Rule {result['expectation_config']['meta']} could not be checked: {result['exception_info']}"
            )
    return found


def _quarantine(engine: Engine, batch_id: str, kind: str, found: dict[str, Any]) -> int:
    """Quarantines the rows that broke one rule, found again by the very query that Great Expectations ran."""
    meta = found["expectation_config"]["meta"]
    rows_of_rule = found["result"]["unexpected_index_query"].rstrip("; \n")
    values = {"batch_id": batch_id, "kind": kind, "rule": meta["rule"], "reason": meta["reason"]}
    with engine.begin() as connection:
        connection.exec_driver_sql(f"create temporary table broken_rows on commit drop as {rows_of_rule}")
        count = connection.execute(statement("validation/quarantine_rows"), values).rowcount
    expected = found["result"]["unexpected_count"]
    if count != expected:
        raise InvariantError(
            f"Rule {meta['rule']} found {expected} bad rows in {batch_id} but {count} were quarantined"
        )
    return count


def _check_volume(engine: Engine, context: EphemeralDataContext, batch: Row[Any]) -> str | None:
    """What is unusual about the volume of a batch that covers an interval; None where nothing is."""
    if batch.interval_start is None:
        return None
    with engine.connect() as connection:
        recent = list(
            connection.scalars(
                statement("validation/recent_volumes"), {"source": batch.source, "batch_id": batch.batch_id}
            )
        )
    if not recent:
        return None
    days = max((batch.interval_end - batch.interval_start).total_seconds() / 86_400, 1.0)
    usual = float(median(recent)) * days
    low, high = int(usual / _VOLUME_FACTOR), int(usual * _VOLUME_FACTOR)
    with _checked_table(engine, "events", batch.batch_id) as table:
        if table is None:
            return f"it has no events, where its recent batches lead one to expect {low} to {high}"
        rules = gx.ExpectationSuite(name="volume", expectations=[volume(low, high)])
        # The table has the name that the suite of rows used: the asset is there already.
        source = context.data_sources.get(table)
        whole = source.get_asset(table).get_batch_definition("whole")
        result = _run(context, f"volume {batch.batch_id}", whole, rules)
    if result["success"]:
        return None
    return f"it has {batch.read_rows} rows, where its recent batches lead one to expect {low} to {high}"


def _whole_batch_problem(
    batch: Row[Any], quarantined: int, max_bad_share: float, rules: dict[str, int], unusual: str | None
) -> str | None:
    if batch.read_rows and quarantined > max_bad_share * batch.read_rows:
        worst = ", ".join(f"{rule} ({count})" for rule, count in sorted(rules.items(), key=lambda item: -item[1])[:3])
        share = quarantined / batch.read_rows
        return (
            f"{quarantined} of {batch.read_rows} rows ({share:.0%}) are bad, more than {max_bad_share:.0%}"
            f" (RECSYS_MAX_BAD_SHARE); most of them: {worst or 'unreadable lines'}"
        )
    return unusual


def _reset(engine: Engine, batch_id: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("delete from quarantine where batch_id = :id and kind <> 'lines'"), {"id": batch_id})


def _count_quarantined(engine: Engine, batch_id: str) -> int:
    query = text("select count(distinct (kind, row_number)) from quarantine where batch_id = :id")
    with engine.connect() as connection:
        return int(connection.scalar(query, {"id": batch_id}) or 0)


def _finish(engine: Engine, batch_id: str, status: str, quarantined: int, message: str | None) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "update batches set status = :status, quarantined_rows = :quarantined, message = :message"
                " where batch_id = :id"
            ),
            {"id": batch_id, "status": status, "quarantined": quarantined, "message": message},
        )
