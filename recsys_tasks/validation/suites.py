"""Expectation suites in Great Expectations JSON: `suites/<kind>.json` for all sources of a kind, overridden by
`suites/<kind>.<source>.json` for one source.

Each expectation limits one metric of the batch profile. Its severity is `warning` (reported) or `critical` (rejects the
batch). `meta.reason` is the message when it fails.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import great_expectations as gx
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

from recsys_tasks.errors import ConfigurationError

WARNING = "warning"
_BUILT_IN = Path(__file__).parent / "suites"
_SEVERITIES = (WARNING, "critical")


def load_suite(
    kind: str,
    source: str,
    metrics: Collection[str],
    custom_folder: Path | None = None,
    contract_expectations: Iterable[dict[str, Any]] = (),
) -> gx.ExpectationSuite:
    """Returns the suite of a source and kind.

    An expectation of the source's file replaces the general one of the same metric and severity.

    Args:
        kind: items, users or events.
        source: name of the source.
        metrics: names of all metrics.
        custom_folder: folder of custom suites, which override the built-in ones.
        contract_expectations: of the batch's contract.

    Raises:
        ConfigurationError: a file is malformed, or names an unknown expectation or metric.
    """
    merged: dict[tuple[str, str], gx.expectations.Expectation] = {}
    for name in (kind, f"{kind}.{source}"):
        for folder in (_BUILT_IN, custom_folder):
            if folder is not None and (folder / f"{name}.json").is_file():
                merged |= _read_suite(folder / f"{name}.json", metrics)
    merged |= dict(_parse_expectation(entry, metrics) for entry in contract_expectations)
    return gx.ExpectationSuite(name=f"{kind}.{source}", expectations=list(merged.values()))


def describe_limits(kwargs: Mapping[str, Any]) -> str:
    """Returns the limits of an expectation as text."""
    bounds = (("at least", kwargs.get("min_value")), ("at most", kwargs.get("max_value")))
    return " and ".join(f"{word} {_format_limit(limit)}" for word, limit in bounds if limit is not None)


def _format_limit(limit: object) -> str:
    if isinstance(limit, int | float):
        return f"{limit:.4g}"
    if isinstance(limit, Mapping) and list(limit) == ["$PARAMETER"]:
        return str(limit["$PARAMETER"])
    raise ConfigurationError(f'the limit {limit!r} is neither a number nor {{"$PARAMETER": name}}')


def _read_suite(path: Path, metrics: Collection[str]) -> dict[tuple[str, str], gx.expectations.Expectation]:
    try:
        entries = list(json.loads(path.read_text(encoding="utf-8"))["expectations"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path}: not an expectation suite: {error!r}") from error
    parsed = {}
    for index, entry in enumerate(entries):
        try:
            key, expectation = _parse_expectation(entry, metrics)
        except Exception as error:  # GX raises various exceptions for unknown names
            raise ConfigurationError(f"{path}, expectations[{index}]: {error}") from error
        if key in parsed:
            raise ConfigurationError(f"{path}, expectations[{index}]: duplicate expectation for {' '.join(key)}")
        parsed[key] = expectation
    return parsed


def _parse_expectation(
    entry: dict[str, Any], metrics: Collection[str]
) -> tuple[tuple[str, str], gx.expectations.Expectation]:
    """Parses an expectation; returns its key (metric, severity) and the GX object."""
    kwargs = entry.get("kwargs", {})
    metric, severity, reason = kwargs.get("column"), entry.get("severity"), entry.get("meta", {}).get("reason")
    if metric not in metrics:
        raise ConfigurationError(f"kwargs.column is {metric!r}, which is not one of {', '.join(sorted(metrics))}")
    if severity not in _SEVERITIES:
        raise ConfigurationError(f"severity is {severity!r}; expected one of {', '.join(_SEVERITIES)}")
    if not reason:
        raise ConfigurationError("meta.reason is missing: describe what is wrong when it fails")
    if not describe_limits(kwargs):
        raise ConfigurationError("kwargs has neither min_value nor max_value")
    described = {"description": f"{severity.capitalize()} if {reason}; should be {describe_limits(kwargs)}"} | entry
    return (metric, severity), ExpectationConfiguration(**described).to_domain_obj()
