"""The expectation suites, in Great Expectations' own JSON: `suites/<kind>.json` for every source of a kind, and
`suites/<kind>.<source>.json` for what is different for one source.

Each expectation is about one metric of a batch's profile, with a severity: `warning` reports, `critical` stops the
batch. Its `meta.reason` says in words what is wrong when it fails.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import great_expectations as gx
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

from recsys_tasks.errors import ConfigurationError

WARNING = "warning"
_BUILT_IN = Path(__file__).parent / "suites"
_SEVERITIES = (WARNING, "critical")


def load_suite(kind: str, source: str, metrics: Collection[str], own: Path | None = None) -> gx.ExpectationSuite:
    """What is expected of a source's batches of a kind.

    An expectation of the source's own file replaces the general one of the same metric and severity.

    Args:
        kind: items, users or events.
        source: what the batches come from.
        metrics: the names of all metrics there are.
        own: folder of suites that go before those that come with the package.

    Raises:
        ConfigurationError: a file is malformed, or names an expectation or a metric that does not exist.
    """
    chosen: dict[tuple[str, str], gx.expectations.Expectation] = {}
    for name in (kind, f"{kind}.{source}"):
        for folder in (_BUILT_IN, own):
            if folder is not None and (folder / f"{name}.json").is_file():
                chosen |= _read(folder / f"{name}.json", metrics)
    return gx.ExpectationSuite(name=f"{kind}.{source}", expectations=list(chosen.values()))


def limits(kwargs: Mapping[str, Any]) -> str:
    """The limits of an expectation, in words."""
    found = (("at least", kwargs.get("min_value")), ("at most", kwargs.get("max_value")))
    return " and ".join(f"{word} {_number(limit)}" for word, limit in found if limit is not None)


def _number(limit: object) -> str:
    if isinstance(limit, int | float):
        return f"{limit:.4g}"
    if isinstance(limit, Mapping) and list(limit) == ["$PARAMETER"]:
        return str(limit["$PARAMETER"])
    raise ConfigurationError(f'the limit {limit!r} is neither a number nor {{"$PARAMETER": name}}')


def _read(path: Path, metrics: Collection[str]) -> dict[tuple[str, str], gx.expectations.Expectation]:
    try:
        entries = list(json.loads(path.read_text(encoding="utf-8"))["expectations"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path}: not an expectation suite: {error!r}") from error
    found = {}
    for place, entry in enumerate(entries):
        try:
            key, expectation = _expectation(entry, metrics)
        except Exception as error:  # GX raises what it likes for what it does not know
            raise ConfigurationError(f"{path}, expectations[{place}]: {error}") from error
        if key in found:
            raise ConfigurationError(f"{path}, expectations[{place}]: a second one for {' '.join(key)}")
        found[key] = expectation
    return found


def _expectation(
    entry: dict[str, Any], metrics: Collection[str]
) -> tuple[tuple[str, str], gx.expectations.Expectation]:
    """An expectation, described by its reason in the data docs, and what it is about."""
    kwargs = entry.get("kwargs", {})
    metric, severity, reason = kwargs.get("column"), entry.get("severity"), entry.get("meta", {}).get("reason")
    if metric not in metrics:
        raise ConfigurationError(f"kwargs.column is {metric!r}, which is none of {', '.join(sorted(metrics))}")
    if severity not in _SEVERITIES:
        raise ConfigurationError(f"severity is {severity!r}; expected one of {', '.join(_SEVERITIES)}")
    if not reason:
        raise ConfigurationError("meta.reason is missing: what is wrong when it fails, in words")
    if not limits(kwargs):
        raise ConfigurationError("kwargs has neither min_value nor max_value")
    described = {"description": f"{severity.capitalize()} if {reason}; should be {limits(kwargs)}"} | entry
    return (metric, severity), ExpectationConfiguration(**described).to_domain_obj()
