"""Runs Great Expectations suites on batch profiles: critical failures reject the batch, warnings are reported."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.exceptions import SuiteParameterError
from sqlalchemy import text

from recsys_tasks.errors import ConfigurationError, InvariantError
from recsys_tasks.storage.folder import Folder
from recsys_tasks.validation.context import SITE, validation_context
from recsys_tasks.validation.failing_rows import FailingRows, remove_users
from recsys_tasks.validation.suites import WARNING, describe_limits, load_suite
from recsys_tasks.warehouse import engine

log = logging.getLogger(__name__)
_FAILING_ROWS = "failing_rows"  # in the metadata of a result


@dataclass
class SuiteResult:
    """Failed expectations as messages: `warnings` are reported, `problems` (critical) reject the batch."""

    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def run_suite(
    home: Folder,
    source: str,
    kind: str,
    batch_id: str,
    profile: Mapping[str, float | None],
    landed_at: datetime,
    *,
    parameters: Mapping[str, float] | None = None,
    suites: Path | None = None,
    contract_expectations: Sequence[dict[str, Any]] = (),
    failing_rows: Sequence[FailingRows] = (),
) -> SuiteResult:
    """Runs the suite of a source and kind on a batch profile and adds the result to the data docs.

    Args:
        home: folder of validation results and data docs.
        source: name of the source.
        kind: items, users or events.
        batch_id: name of the run in the data docs.
        profile: value of every metric; expectations on a metric that is None are skipped.
        landed_at: landing time; a second run with the same time replaces the earlier result.
        parameters: values of the suite's `$PARAMETER`s.
        suites: folder of custom suites, which override the built-in ones.
        contract_expectations: of the batch's contract.
        failing_rows: shown on the batch's page.

    Raises:
        ConfigurationError: a suite is malformed, or uses a parameter without a value.
        InvariantError: an expectation raised an exception.
    """
    suite = load_suite(kind, source, profile.keys(), suites, contract_expectations)
    suite.expectations = [expected for expected in suite.expectations if profile[expected.column] is not None]
    run = gx.RunIdentifier(run_name=batch_id, run_time=landed_at.astimezone(UTC))
    with _exclusive_access(home):
        results = _run_checkpoint(home, source, kind, suite, run, profile, dict(parameters or {}), failing_rows)
    report = SuiteResult()
    for result in results:
        config = result["expectation_config"]
        if result["exception_info"].get("raised_exception") is not False:
            raise InvariantError(f"{suite.name} could not be evaluated: {result}")
        if not result["success"]:
            metric, reason = config["kwargs"]["column"], config["meta"]["reason"]
            message = (
                f"{reason} ({kind} {metric} is {profile[metric]:.4g}, should be {describe_limits(config['kwargs'])})"
            )
            (report.warnings if config["severity"] == WARNING else report.problems).append(message)
    return report


def delete_old_results(home: Folder, before: datetime) -> int:
    """Deletes results of batches landed before a time; the next run removes their pages. Returns their number."""
    with _exclusive_access(home):
        store = validation_context(home).validation_results_store
        old_keys = [key for key in store.list_keys() if key.run_id.run_time < before]
        for key in old_keys:
            store.remove_key(key)
    return len(old_keys)


def erase_failing_rows(home: Folder, user_ids: Sequence[str]) -> int:
    """Erases the rows of users from results and data docs. Returns the number of results that had some.

    A result that cannot be read, as of a killed process, is removed.
    """
    with _exclusive_access(home):
        context = validation_context(home)
        store = context.validation_results_store
        num_changed = 0
        for key in store.list_keys():
            try:
                result = store.get(key)
            except Exception:  # Great Expectations raises what its parsers raise
                log.exception("The validation result %s cannot be read and is removed", key)
                store.remove_key(key)
                continue
            shown = result.meta.get(_FAILING_ROWS, [])
            kept = remove_users(shown, user_ids)
            if kept != shown:
                result.meta[_FAILING_ROWS] = kept
                store.update(key, result)
                num_changed += 1
        context.build_data_docs(site_names=[SITE])  # all pages: some may have outlived their results
    return num_changed


def _run_checkpoint(
    home: Folder,
    source: str,
    kind: str,
    suite: gx.ExpectationSuite,
    run: gx.RunIdentifier,
    profile: Mapping[str, float | None],
    parameters: dict[str, float],
    failing_rows: Sequence[FailingRows],
) -> list[dict[str, Any]]:
    context = validation_context(home)
    data = context.data_sources.add_pandas(source).add_dataframe_asset(kind).add_batch_definition_whole_dataframe("all")
    store, key = context.expectations_store, context.expectations_store.get_key(name=suite.name)
    if store.has_key(key):
        store.remove_key(key)  # removed, not updated: a killed process may have left a partial file
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=suite.name, data=data, suite=context.suites.add(suite))
    )
    checkpoint = context.checkpoints.add(gx.Checkpoint(name=suite.name, validation_definitions=[definition]))
    frame = {"dataframe": pd.DataFrame([profile])}
    try:
        outcome = checkpoint.run(batch_parameters=frame, expectation_parameters=parameters, run_id=run)
    except SuiteParameterError as error:
        raise ConfigurationError(f"The suite {suite.name}: {error}") from error
    [(identifier, result)] = outcome.run_results.items()
    if failing_rows:
        result.meta[_FAILING_ROWS] = [group._asdict() for group in failing_rows]
        context.validation_results_store.update(identifier, result)
    changed = [identifier, identifier.expectation_suite_identifier]
    context.build_data_docs(site_names=[SITE], resource_identifiers=changed)
    checks: list[dict[str, Any]] = result.to_json_dict()["results"]
    return checks


_LOCK_KEY = 7_236_105  # any number, the same in every process


def _exclusive_access(home: Folder) -> AbstractContextManager[None]:
    """Locks results and docs across processes, and across hosts if they share a store: each run rewrites the index."""
    return home.lock() if home.local_path else _warehouse_lock()


@contextmanager
def _warehouse_lock() -> Iterator[None]:
    with engine().begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK_KEY})
        yield
