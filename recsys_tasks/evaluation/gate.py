"""Promotion gate: checks a challenger against the rules of `gate.toml` and reports every number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.evaluation.comparison import Comparison

PRIMARY_METRIC = "mrr_20"
MetricsTable = dict[str, dict[str, float]]
_DEFAULT = "gate.toml"
_Value = TypeVar("_Value")


class BaselineRules(msgspec.Struct, forbid_unknown_fields=True):
    """Baselines that the challenger must beat, and the metrics to compare."""

    names: list[str]
    metrics: list[str]


class ChampionRules(msgspec.Struct, forbid_unknown_fields=True):
    """Minimum gain on the champion's metric, and its confidence."""

    metric: str
    confidence: float
    min_gain: float


class RolloutRules(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Thresholds that end a rollout; see `gate.toml`."""

    max_error_share: float = 0.01
    max_latency_ratio: float = 2.0
    confidence: float = 0.95
    min_visitors: int = 200


class GateRules(msgspec.Struct, forbid_unknown_fields=True):
    """Contents of `gate.toml`; see there."""

    baselines: BaselineRules
    champion: ChampionRules
    guardrails: dict[str, float] = {}
    limits: dict[str, float] = {}
    rollout: RolloutRules = RolloutRules()


class RuleResult(NamedTuple):
    """Result of one rule: the rule, the measured values, and whether it passed."""

    rule: str
    found: str
    passed: bool


@dataclass(frozen=True)
class Decision:
    """Promotion decision with the result of each rule."""

    results: list[RuleResult]
    notes: list[str] = field(default_factory=list)

    @property
    def promote(self) -> bool:
        """Whether every rule passed."""
        return all(result.passed for result in self.results)

    @property
    def reasons(self) -> list[str]:
        """One line for each rule, failed ones first, then the notes."""
        failed = [f"failed: {rule}: {found}" for rule, found, passed in self.results if not passed]
        return failed + [f"passed: {rule}: {found}" for rule, found, passed in self.results if passed] + self.notes

    def as_dict(self) -> dict[str, Any]:
        """Returns all fields for JSON; the stored keys are `findings`, `found` and `kept`."""
        findings = [{"rule": rule, "found": found, "kept": passed} for rule, found, passed in self.results]
        return {"promote": self.promote, "findings": findings, "notes": self.notes}

    def as_markdown(self) -> str:
        """Returns a Markdown table for the approver."""
        lines = ["| | rule | found |", "|---|---|---|"]
        ordered = sorted(self.results, key=lambda result: result.passed)
        lines += [f"| {'✓' if passed else '✗'} | {rule} | {found} |" for rule, found, passed in ordered]
        return "\n".join([*lines, "", *self.notes]) + "\n"


@dataclass(frozen=True)
class Evidence:
    """Measurements of a challenger.

    Attributes:
        table: metrics of the challenger (row `test`) and of the baselines, on the same prediction tasks.
        comparison: with the champion; None without a comparable champion.
        measurements: values for `limits`, by the same names.
        same_schema: whether the champion's callers can call the challenger unchanged.
        notes: what could not be checked, and why.
        promotion_holds: open alarms that hold promotions, as text.
    """

    table: MetricsTable
    comparison: Comparison | None = None
    measurements: dict[str, float] = field(default_factory=dict)
    same_schema: bool = True
    notes: list[str] = field(default_factory=list)
    promotion_holds: list[str] = field(default_factory=list)


def load_gate_rules(path: Path | None = None) -> GateRules:
    """Loads the rules from a file, by default from the package's `gate.toml`.

    Raises:
        ConfigurationError: the file is missing or invalid; names the key.
    """
    try:
        text = path.read_bytes() if path else resources.files(__package__).joinpath(_DEFAULT).read_bytes()
        rules = msgspec.toml.decode(text, type=GateRules)
    except (OSError, msgspec.DecodeError) as error:  # a ValidationError is a DecodeError
        raise ConfigurationError(
            f"{path or _DEFAULT} cannot be read as gate rules: {error}. Compare it with the default gate.toml"
        ) from error
    for name, confidence in (("champion", rules.champion.confidence), ("rollout", rules.rollout.confidence)):
        if not 0.5 < confidence < 1:
            raise ConfigurationError(
                f"{path or _DEFAULT}: {name}.confidence is {confidence}; set a value between 0.5 and 1"
            )
    return rules


def decide_promotion(rules: GateRules, evidence: Evidence) -> Decision:
    """Checks a challenger against the rules.

    Raises:
        ConfigurationError: a rule names an unknown metric; lists the known ones.
    """
    results = _compare_with_baselines(rules.baselines, evidence.table)
    if evidence.comparison is not None:
        results.append(_compare_with_champion(rules.champion, evidence.comparison))
        results += _check_guardrails(rules.guardrails, evidence.comparison, rules.champion.confidence)
        found = "the champion's" if evidence.same_schema else "not the champion's: callers would have to change"
        results.append(RuleResult("signature", found, evidence.same_schema))
    results += check_limits(rules.limits, evidence.measurements)
    results += [RuleResult("no alarm holds promotions", reason, False) for reason in evidence.promotion_holds]
    return Decision(results, evidence.notes)


def _compare_with_baselines(rules: BaselineRules, table: MetricsTable) -> list[RuleResult]:
    results = []
    for name in rules.names:
        for metric in rules.metrics:
            own, other = _lookup_metric(metric, table["model"]), _lookup_metric(metric, _lookup_metric(name, table))
            results.append(RuleResult(f"{metric} above {name}", f"{own:.4f} against {other:.4f}", own > other))
    return results


def _compare_with_champion(rules: ChampionRules, comparison: Comparison) -> RuleResult:
    gain = _lookup_metric(rules.metric, comparison)
    min_relative_gain = gain.relative_to_rival(gain.low)
    rule = f"{rules.metric} gains more than {rules.min_gain:.1%} on the champion at {rules.confidence:.0%} confidence"
    found = f"{gain.model:.4f} against {gain.rival:.4f}, at least {min_relative_gain:+.1%}"
    if gain.low == gain.high == 0:
        found += "; a tie, the champion stays"
    return RuleResult(rule, found, min_relative_gain > rules.min_gain)


def _check_guardrails(guardrails: dict[str, float], comparison: Comparison, confidence: float) -> list[RuleResult]:
    results = []
    for name, margin in guardrails.items():
        gain = _lookup_metric(name, comparison)
        rule = f"{name} not worse than the champion by more than {margin:.0%}"
        max_relative_gain = gain.relative_to_rival(gain.high)
        found = (
            f"{gain.model:.4f} against {gain.rival:.4f}, at most {max_relative_gain:+.1%}"
            f" at {confidence:.0%} confidence, {gain.num_tasks:,} sessions"
        )
        results.append(RuleResult(rule, found, max_relative_gain >= -margin))
    return results


def check_limits(limits: Mapping[str, float], measurements: dict[str, float]) -> list[RuleResult]:
    """Returns the results of upper limits on measurements."""
    return [
        RuleResult(
            f"{name} at most {limit:g}",
            f"{_lookup_metric(name, measurements):.2f}",
            _lookup_metric(name, measurements) <= limit,
        )
        for name, limit in limits.items()
    ]


def _lookup_metric(name: str, candidates: dict[str, _Value]) -> _Value:
    try:
        return candidates[name]
    except KeyError:
        raise ConfigurationError(
            f"The gate's rules name {name}, which is not measured. Use one of {', '.join(sorted(candidates))}"
        ) from None
