"""Great Expectations judges a batch's profile: what it finds critical stops the batch, what it warns of is reported."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.exceptions import SuiteParameterError

from recsys_tasks.errors import ConfigurationError, InvariantError
from recsys_tasks.locks import locked
from recsys_tasks.validation.context import SITE, validation_context
from recsys_tasks.validation.suites import WARNING, limits, load_suite


@dataclass
class Verdict:
    """What a batch should be looked at for, and what it must not be loaded for, in words."""

    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def judge(
    home: Path,
    source: str,
    kind: str,
    batch_id: str,
    profile: Mapping[str, float | None],
    at: datetime,
    *,
    parameters: Mapping[str, float] | None = None,
    suites: Path | None = None,
) -> Verdict:
    """Runs the suite of a source and kind over a batch's profile and adds the result to the data docs.

    Args:
        home: folder of validation results and data docs.
        source: what the batch comes from.
        kind: items, users or events.
        batch_id: names the run in the data docs.
        profile: every metric there is; expectations about one that is None do not apply.
        at: when the batch landed; with the same time, judging it again replaces its earlier result.
        parameters: values of the suite's `$PARAMETER`s.
        suites: folder of suites that go before those that come with the package.

    Raises:
        ConfigurationError: a suite is malformed, or names a parameter that is not given.
    """
    suite = load_suite(kind, source, profile.keys(), suites)
    suite.expectations = [expected for expected in suite.expectations if profile[expected.column] is not None]
    run = gx.RunIdentifier(run_name=batch_id, run_time=at.astimezone(UTC))
    with _alone(home):
        results = _run(home, source, kind, suite, run, profile, dict(parameters or {}))
    verdict = Verdict()
    for result in results:
        config = result["expectation_config"]
        if result["exception_info"].get("raised_exception") is not False:
            raise InvariantError(f"{suite.name} could not be checked: {result}")
        if not result["success"]:
            metric, reason = config["kwargs"]["column"], config["meta"]["reason"]
            message = f"{reason} ({kind} {metric} is {profile[metric]:.4g}, should be {limits(config['kwargs'])})"
            (verdict.warnings if config["severity"] == WARNING else verdict.problems).append(message)
    return verdict


def forget_results(home: Path, before: datetime) -> int:
    """Drops the results of batches that landed earlier; the next judging drops their pages. How many there were."""
    with _alone(home):
        store = validation_context(home).validation_results_store
        old = [key for key in store.list_keys() if key.run_id.run_time < before]
        for key in old:
            store.remove_key(key)
    return len(old)


def _run(
    home: Path,
    source: str,
    kind: str,
    suite: gx.ExpectationSuite,
    run: gx.RunIdentifier,
    profile: Mapping[str, float | None],
    parameters: dict[str, float],
) -> list[dict[str, Any]]:
    context = validation_context(home)
    data = context.data_sources.add_pandas(source).add_dataframe_asset(kind).add_batch_definition_whole_dataframe("all")
    kept, key = context.expectations_store, context.expectations_store.get_key(name=suite.name)
    if kept.has_key(key):
        kept.remove_key(key)  # not updated: a process that was killed may have left half of it
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
    changed = [identifier, identifier.expectation_suite_identifier]
    context.build_data_docs(site_names=[SITE], resource_identifiers=changed)
    found: list[dict[str, Any]] = result.to_json_dict()["results"]
    return found


def _alone(home: Path) -> AbstractContextManager[None]:
    """One process at a time writes results and docs: their index lists all of them."""
    return locked(home / "lock")
