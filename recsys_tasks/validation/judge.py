"""Great Expectations judges a batch's profile: what it finds critical stops the batch, what it warns of is reported."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd

from recsys_tasks.errors import InvariantError
from recsys_tasks.validation.context import SITE, validation_context
from recsys_tasks.validation.suites import WARNING, load_suite

log = logging.getLogger(__name__)


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
    parameters: Mapping[str, float],
) -> Verdict:
    """Runs the suite of a source and kind over a batch's profile and adds the result to the data docs.

    Args:
        home: folder of validation results and data docs.
        source: its own suite `suites/<kind>.<source>.json`, if it has one, goes before the general one.
        kind: items, users or events.
        batch_id: names the run in the data docs.
        profile: metrics; expectations about one that is None or absent do not apply.
        parameters: values of the suite's `$PARAMETER`s.
    """
    measured = {name: value for name, value in profile.items() if value is not None}
    suite = load_suite(kind, source, measured)
    with _alone(home):
        result = _run(home, suite, batch_id, measured, parameters)
    verdict = Verdict()
    for found in result["results"]:
        config = found["expectation_config"]
        if found["exception_info"].get("raised_exception"):
            raise InvariantError(f"{suite.name}: {config['meta']} could not be checked: {found['exception_info']}")
        if not found["success"]:
            observed = found["result"]["observed_value"]
            message = (
                f"{config['meta']['reason']} ({kind} {config['kwargs']['column']} is {observed:.4g}, {_limits(config)})"
            )
            (verdict.warnings if config["severity"] == WARNING else verdict.problems).append(message)
    return verdict


def _run(
    home: Path,
    suite: gx.ExpectationSuite,
    batch_id: str,
    measured: Mapping[str, float],
    parameters: Mapping[str, float],
) -> dict[str, Any]:
    context = validation_context(home)
    frame = context.data_sources.add_pandas(suite.name).add_dataframe_asset("profile")
    whole = frame.add_batch_definition_whole_dataframe(batch_id)
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=suite.name, data=whole, suite=context.suites.add(suite))
    )
    checkpoint = context.checkpoints.add(gx.Checkpoint(name=suite.name, validation_definitions=[definition]))
    outcome = checkpoint.run(
        batch_parameters={"dataframe": pd.DataFrame([measured])},
        expectation_parameters=dict(parameters),
        run_id=gx.RunIdentifier(run_name=batch_id),
    )
    identifier, result = next(iter(outcome.run_results.items()))
    context.build_data_docs(site_names=[SITE], resource_identifiers=[identifier])
    found: dict[str, Any] = result.to_json_dict()
    return found


def _limits(config: Mapping[str, Any]) -> str:
    low, high = config["kwargs"].get("min_value"), config["kwargs"].get("max_value")
    return " and ".join(
        f"{word} {limit:.4g}" for word, limit in (("at least", low), ("at most", high)) if limit is not None
    )


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One process at a time writes results and docs: their index lists all of them."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
