"""The gate: whether a challenger may serve, by the rules of one file, with every number and reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.evaluation.comparison import Comparison

PRIMARY = "mrr_20"
Table = dict[str, dict[str, float]]
_DEFAULT = "gate.toml"
_Value = TypeVar("_Value")


class BaselineRules(msgspec.Struct, forbid_unknown_fields=True):
    """Rows of the evaluation that are to be beaten, and on what."""

    names: list[str]
    metrics: list[str]


class ChampionRules(msgspec.Struct, forbid_unknown_fields=True):
    """How much better than the champion, and how certainly."""

    metric: str
    confidence: float
    least_gain: float


class TrialRules(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What ends a trial beside the champion; see `gate.toml`."""

    error_share: float = 0.01
    latency_ratio: float = 2.0
    confidence: float = 0.95
    least_people: int = 200


class GateRules(msgspec.Struct, forbid_unknown_fields=True):
    """What `gate.toml` holds; see there."""

    baselines: BaselineRules
    champion: ChampionRules
    guards: dict[str, float] = {}
    limits: dict[str, float] = {}
    trial: TrialRules = TrialRules()


class Finding(NamedTuple):
    """A rule, what was found, and whether that keeps it."""

    rule: str
    found: str
    kept: bool


@dataclass(frozen=True)
class Decision:
    """Whether the challenger is promoted, and why: a finding for each rule."""

    findings: list[Finding]
    notes: list[str] = field(default_factory=list)

    @property
    def promote(self) -> bool:
        """Whether every rule is kept."""
        return all(finding.kept for finding in self.findings)

    @property
    def reasons(self) -> list[str]:
        """A line for each rule, broken ones first, then what could not be judged."""
        broken = [f"not good enough: {rule}: {found}" for rule, found, kept in self.findings if not kept]
        return broken + [f"good: {rule}: {found}" for rule, found, kept in self.findings if kept] + self.notes

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        findings = [finding._asdict() for finding in self.findings]
        return {"promote": self.promote, "findings": findings, "notes": self.notes}

    def as_markdown(self) -> str:
        """For people who decide."""
        lines = ["| | rule | found |", "|---|---|---|"]
        ordered = sorted(self.findings, key=lambda finding: finding.kept)
        lines += [f"| {'✓' if kept else '✗'} | {rule} | {found} |" for rule, found, kept in ordered]
        return "\n".join([*lines, "", *self.notes]) + "\n"


@dataclass(frozen=True)
class Evidence:
    """What is known of a challenger.

    Attributes:
        table: its own metrics as `test`, and those of the baselines, on the same questions.
        comparison: with the champion; None where there is none to compare with.
        measured: numbers for `limits`, by the same names.
        same_schema: whether callers of the champion can call it without a change.
        notes: what could not be judged, and why.
        holds: alarms that keep anything from being promoted, in words.
    """

    table: Table
    comparison: Comparison | None = None
    measured: dict[str, float] = field(default_factory=dict)
    same_schema: bool = True
    notes: list[str] = field(default_factory=list)
    holds: list[str] = field(default_factory=list)


def read_rules(path: Path | None = None) -> GateRules:
    """The rules of a file, or the package's own.

    Raises:
        ConfigurationError: the file is missing or wrong; names the key.
    """
    try:
        text = path.read_bytes() if path else resources.files(__package__).joinpath(_DEFAULT).read_bytes()
        rules = msgspec.toml.decode(text, type=GateRules)
    except (OSError, msgspec.DecodeError) as error:  # a ValidationError is a DecodeError
        raise ConfigurationError(f"{path or _DEFAULT} cannot be read as rules of the gate: {error}") from error
    for name, confidence in (("champion", rules.champion.confidence), ("trial", rules.trial.confidence)):
        if not 0.5 < confidence < 1:
            raise ConfigurationError(f"{path}: {name}.confidence is {confidence}; expected 0.5 to 1")
    return rules


def decide(rules: GateRules, evidence: Evidence) -> Decision:
    """Judges a challenger.

    Raises:
        ConfigurationError: a rule asks for what there is no measure of; names those that there are.
    """
    findings = _against_baselines(rules.baselines, evidence.table)
    if evidence.comparison is not None:
        findings.append(_against_champion(rules.champion, evidence.comparison))
        findings += _guards(rules.guards, evidence.comparison, rules.champion.confidence)
        found = "the champion's" if evidence.same_schema else "not the champion's: callers would have to change"
        findings.append(Finding("signature", found, evidence.same_schema))
    findings += within_limits(rules.limits, evidence.measured)
    findings += [Finding("no alarm holds promotions", words, False) for words in evidence.holds]
    return Decision(findings, evidence.notes)


def _against_baselines(rules: BaselineRules, table: Table) -> list[Finding]:
    findings = []
    for name in rules.names:
        for metric in rules.metrics:
            own, other = _known(metric, table["test"]), _known(metric, _known(name, table))
            findings.append(Finding(f"{metric} above {name}", f"{own:.4f} against {other:.4f}", own > other))
    return findings


def _against_champion(rules: ChampionRules, comparison: Comparison) -> Finding:
    gain = _known(rules.metric, comparison)
    least = gain.as_share(gain.low)
    rule = f"{rules.metric} gains more than {rules.least_gain:.1%} on the champion at {rules.confidence:.0%} confidence"
    found = f"{gain.model:.4f} against {gain.rival:.4f}, at least {least:+.1%}"
    if gain.low == gain.high == 0:
        found += "; a tie, the champion stays"
    return Finding(rule, found, least > rules.least_gain)


def _guards(guards: dict[str, float], comparison: Comparison, confidence: float) -> list[Finding]:
    findings = []
    for name, margin in guards.items():
        gain = _known(name, comparison)
        rule = f"{name} not worse than the champion by more than {margin:.0%}"
        most = gain.as_share(gain.high)
        found = f"{gain.model:.4f} against {gain.rival:.4f}, at most {most:+.1%} at {confidence:.0%} confidence"
        findings.append(Finding(rule, f"{found}, {gain.questions:,} questions", most >= -margin))
    return findings


def within_limits(limits: Mapping[str, float], measured: dict[str, float]) -> list[Finding]:
    """Findings about numbers that may not be larger than their limits."""
    return [
        Finding(f"{name} at most {most:g}", f"{_known(name, measured):.2f}", _known(name, measured) <= most)
        for name, most in limits.items()
    ]


def _known(name: str, among: dict[str, _Value]) -> _Value:
    try:
        return among[name]
    except KeyError:
        raise ConfigurationError(
            f"The gate's rules ask for {name}, which is not measured; there are {', '.join(sorted(among))}"
        ) from None
