"""The expectation suites, in Great Expectations' own JSON: `suites/<kind>.json` for every source of a kind, and
`suites/<kind>.<source>.json` for what is different for one source.

Each expectation is about one metric of a batch's profile (see `profile.py`), with a severity: `warning` reports,
`critical` stops the batch. Its `meta.reason` says in words what is wrong when it fails.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import great_expectations as gx

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.settings import settings

WARNING = "warning"
_BUILT_IN = Path(__file__).parent / "suites"
_SEVERITIES = (WARNING, "critical")


def load_suite(kind: str, source: str, metrics: Collection[str]) -> gx.ExpectationSuite:
    """What is expected of a source's batches, as far as it is about the given metrics.

    An expectation of the source's own file replaces those of the general one for the same metric and severity.
    Files in `RECSYS_SUITES` go before those that come with the package.

    Raises:
        ConfigurationError: a file is malformed; names it and the entry.
    """
    chosen: dict[tuple[str, str], dict[str, Any]] = {}
    for name in (kind, f"{kind}.{source}"):
        for path in _files(name):
            chosen |= {(entry["kwargs"]["column"], entry["severity"]): entry for entry in _entries(path)}
    applicable = [entry for (column, _), entry in chosen.items() if column in metrics]
    try:
        return gx.ExpectationSuite(name=f"{kind}.{source}", expectations=applicable)
    except Exception as error:  # GX raises what it likes for what it does not know
        raise ConfigurationError(f"The suite {kind}.{source} is wrong: {error}") from error


def _files(name: str) -> list[Path]:
    own = settings().suites
    found = [folder / f"{name}.json" for folder in (_BUILT_IN, own) if folder is not None]
    return [path for path in found if path.is_file()]


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["expectations"]
        for place, entry in enumerate(entries):
            problem = _problem(entry)
            if problem:
                raise ConfigurationError(f"{path}: expectations[{place}]: {problem}")
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path}: not a suite: {error!r}") from error
    return entries


def _problem(entry: dict[str, Any]) -> str | None:
    if entry.get("severity") not in _SEVERITIES:
        return f"severity is {entry.get('severity')!r}; expected one of {', '.join(_SEVERITIES)}"
    if "column" not in entry.get("kwargs", {}):
        return "kwargs.column is missing: the metric it is about"
    if not entry.get("meta", {}).get("reason"):
        return "meta.reason is missing: what is wrong when it fails, in words"
    return None
