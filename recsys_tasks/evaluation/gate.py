"""Promotion gate: checks a challenger against the rules of `gate.toml` and reports every number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import resources
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.evaluation.comparison import Comparison, MetricGain
from recsys_tasks.evaluation.segments import QUESTIONS, segment_metric
from recsys_tasks.experiments.counterfactual import CounterfactualComparison
from recsys_tasks.plugins import GATE_RULE_GROUP, load_plugin

PRIMARY_METRIC = "mrr_20"
PROMOTE, WAIT, REFUSE = "promote", "wait", "refuse"  # verdicts
MODEL, CHAMPION = "model", "champion"  # rows of the metrics table that are no baselines
MetricsTable = dict[str, dict[str, float]]
_DEFAULT = "gate.toml"
_Value = TypeVar("_Value")


class BaselineRules(msgspec.Struct, forbid_unknown_fields=True):
    """Metrics and segments in which the challenger must beat the best baseline; see `gate.toml`."""

    metrics: list[str]
    segments: list[str] = []
    min_questions: int = 100
    names: list[str] | None = None
    first_names: list[str] | None = None


class ChampionRules(msgspec.Struct, forbid_unknown_fields=True):
    """Minimum gain on the champion's metric, its confidence, and the number of comparable sessions it needs."""

    metric: str
    confidence: float
    min_gain: float
    min_questions: int = 100


class CounterfactualRules(msgspec.Struct, forbid_unknown_fields=True):
    """What explored lists must say of a challenger; see `gate.toml`."""

    confidence: float = 0.95
    max_loss: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    min_overlap: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.6
    min_clicks: Annotated[int, msgspec.Meta(ge=1)] = 100
    min_users: Annotated[int, msgspec.Meta(ge=2)] = 50
    max_lists: Annotated[int, msgspec.Meta(ge=1)] = 4_000


class RolloutRules(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Thresholds that end a rollout; see `gate.toml`."""

    max_error_share: float = 0.01
    max_latency_ratio: float = 2.0
    confidence: float = 0.95
    min_visitors: int = 200


class GateRules(msgspec.Struct, forbid_unknown_fields=True):
    """Contents of `gate.toml`; see there. `plugins` names rules that packages add."""

    baselines: BaselineRules
    champion: ChampionRules
    guardrails: dict[str, float] = {}
    limits: dict[str, float] = {}
    plugins: list[str] = []
    counterfactual: CounterfactualRules | None = None
    rollout: RolloutRules = RolloutRules()


class Outcome(StrEnum):
    """Outcome of a rule: it passed, failed, was not applied for lack of sessions, or waits for more of them."""

    PASSED = "passed"
    FAILED = "failed"
    WAITS = "waits"
    NOT_APPLIED = "not applied"


_MARKS = {
    Outcome.FAILED: "✗",
    Outcome.WAITS: "…",
    Outcome.PASSED: "✓",
    Outcome.NOT_APPLIED: "–",
}  # in the order of reports


class RuleResult(NamedTuple):
    """Result of one rule: the rule, the measured values, and the outcome."""

    rule: str
    found: str
    outcome: Outcome

    @property
    def passed(self) -> bool:
        """Whether the rule does not stand against a promotion."""
        return self.outcome in (Outcome.PASSED, Outcome.NOT_APPLIED)


@dataclass(frozen=True)
class Decision:
    """Promotion decision with the result of each rule."""

    results: list[RuleResult]
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """`refuse` if a rule failed; else `wait` if one waits for more sessions; else `promote`.

        A version that waits is no failed challenger: it was not compared.
        """
        outcomes = {result.outcome for result in self.results}
        return REFUSE if Outcome.FAILED in outcomes else WAIT if Outcome.WAITS in outcomes else PROMOTE

    @property
    def promote(self) -> bool:
        """Whether the version may be promoted."""
        return self.verdict == PROMOTE

    @property
    def reasons(self) -> list[str]:
        """One line for each rule, failed ones first, then those that wait, then the notes."""
        return [f"{outcome}: {rule}: {found}" for rule, found, outcome in self._ordered] + self.notes

    def as_dict(self) -> dict[str, Any]:
        """Returns all fields for JSON; the stored keys are `findings`, `found`, `kept` and `outcome`."""
        findings = [
            {"rule": result.rule, "found": result.found, "kept": result.passed, "outcome": result.outcome.value}
            for result in self.results
        ]
        return {"promote": self.promote, "verdict": self.verdict, "findings": findings, "notes": self.notes}

    def as_markdown(self) -> str:
        """Returns a Markdown table for the approver."""
        lines = ["| | rule | found |", "|---|---|---|"]
        lines += [f"| {_MARKS[outcome]} | {rule} | {found} |" for rule, found, outcome in self._ordered]
        return "\n".join([*lines, "", *self.notes]) + "\n"

    @property
    def _ordered(self) -> list[RuleResult]:
        return sorted(self.results, key=lambda result: list(_MARKS).index(result.outcome))


@dataclass(frozen=True)
class Evidence:
    """Measurements of a challenger.

    Attributes:
        table: metrics of the challenger (row `model`) and of the baselines, on the same prediction tasks, with those of
            segments and the numbers of tasks as in `EvaluationReport.metrics_table`; empty for an untrained version.
        comparison: with the champion; None without a comparable champion.
        num_earlier_tries: number of other challengers that were compared with a champion before, on largely the same
            sessions.
        measurements: values for `limits`, by the same names.
        same_schema: whether the champion's callers can call the challenger unchanged.
        notes: what could not be checked, and why.
        promotion_holds: open alarms that hold promotions, as text.
        replaces_trained: whether the challenger would replace a trained champion.
        is_first: whether no trained model was promoted yet.
    """

    table: MetricsTable
    comparison: Comparison | None = None
    num_earlier_tries: int = 0
    measurements: dict[str, float] = field(default_factory=dict)
    same_schema: bool = True
    notes: list[str] = field(default_factory=list)
    promotion_holds: list[str] = field(default_factory=list)
    replaces_trained: bool = False
    is_first: bool = False


def load_gate_rules(path: Path | None = None) -> GateRules:
    """Loads the rules from a file, by default from the package's `gate.toml`.

    Raises:
        ConfigurationError: the file is missing or invalid, or a plugin that it names cannot be loaded; names the key.
    """
    try:
        text = path.read_bytes() if path else resources.files(__package__).joinpath(_DEFAULT).read_bytes()
        rules = msgspec.toml.decode(text, type=GateRules)
    except (OSError, msgspec.DecodeError) as error:  # a ValidationError is a DecodeError
        raise ConfigurationError(
            f"{path or _DEFAULT} cannot be read as gate rules: {error}. Compare it with the default gate.toml"
        ) from error
    for name in rules.plugins:
        load_plugin(GATE_RULE_GROUP, name)
    confidences = {"champion": rules.champion.confidence, "rollout": rules.rollout.confidence}
    if rules.counterfactual is not None:
        confidences["counterfactual"] = rules.counterfactual.confidence
    for name, confidence in confidences.items():
        if not 0.5 < confidence < 1:
            raise ConfigurationError(
                f"{path or _DEFAULT}: {name}.confidence is {confidence}; set a value between 0.5 and 1"
            )
    return rules


def decide_promotion(rules: GateRules, evidence: Evidence) -> Decision:
    """Checks a challenger against the rules.

    Raises:
        ConfigurationError: a rule names an unknown metric, then the known ones are listed; or the rule of a plugin
            returns something else than results.
    """
    baselines = _first_version_rules(rules.baselines) if evidence.is_first else rules.baselines
    results = _compare_with_baselines(baselines, evidence.table) if evidence.table else [_untrained(evidence)]
    if evidence.comparison is not None:
        results += _compare_with_champion(rules, evidence.comparison, evidence.num_earlier_tries)
        found = "the champion's" if evidence.same_schema else "not the champion's: callers would have to change"
        results.append(RuleResult("signature", found, _outcome(evidence.same_schema)))
        if rules.counterfactual is not None:
            results.append(_check_clicks(rules.counterfactual, evidence.comparison.counterfactual))
    results += check_limits(rules.limits, evidence.measurements)
    for name in rules.plugins:
        results += _run_plugin(name, evidence)
    results += [RuleResult("no alarm holds promotions", reason, Outcome.FAILED) for reason in evidence.promotion_holds]
    return Decision(results, evidence.notes)


def _run_plugin(name: str, evidence: Evidence) -> list[RuleResult]:
    found = load_plugin(GATE_RULE_GROUP, name)(evidence)
    is_valid = isinstance(found, list) and all(
        isinstance(result, RuleResult)
        and isinstance(result.outcome, Outcome)
        and isinstance(result.rule, str)
        and isinstance(result.found, str)
        for result in found
    )
    if not is_valid:
        raise ConfigurationError(
            f"Rule {name} of {GATE_RULE_GROUP} must return a list of RuleResult, each of two texts and an Outcome; it"
            f" returned {found!r}"
        )
    return list(found)


def _first_version_rules(rules: BaselineRules) -> BaselineRules:
    """The rules while no trained model serves: the best baseline is no alternative then, popularity is."""
    if rules.first_names is None:
        return rules
    return msgspec.structs.replace(rules, names=rules.first_names, segments=[])


def _compare_with_baselines(rules: BaselineRules, table: MetricsTable) -> list[RuleResult]:
    names = [name for name in table if name not in (MODEL, CHAMPION)] if rules.names is None else rules.names
    baselines = {name: _lookup_metric(name, table) for name in names}
    if not baselines:
        return []
    best_of = {metric: max(names, key=lambda name: _lookup_metric(metric, baselines[name])) for metric in rules.metrics}
    results = []
    for segment in ("", *rules.segments):
        num_tasks = int(_lookup_metric(segment_metric(segment, QUESTIONS), table[MODEL])) if segment else None
        for metric in rules.metrics:
            rule = f"{metric} above the best baseline" + (f" on {segment}" if segment else "")
            if num_tasks is not None and num_tasks < rules.min_questions:
                results.append(_too_few(rule, num_tasks, rules.min_questions))
                continue
            key, best = segment_metric(segment, metric), best_of[metric]
            own, other = _lookup_metric(key, table[MODEL]), _lookup_metric(key, baselines[best])
            found = f"{own:.4f} against {other:.4f} of {best}"
            found += "" if num_tasks is None else f", {num_tasks:,} sessions"
            results.append(RuleResult(rule, found, _outcome(own > other)))
    return results


def _untrained(evidence: Evidence) -> RuleResult:
    """A version that was not trained places items by content and popularity, and may not replace a trained champion."""
    found = "not trained and not evaluated: lists come from content and popularity"
    return RuleResult("trained", found, Outcome.FAILED if evidence.replaces_trained else Outcome.NOT_APPLIED)


def _too_few(rule: str, num_tasks: int, min_tasks: int) -> RuleResult:
    return RuleResult(rule, f"{num_tasks:,} sessions, needs {min_tasks:,}", Outcome.NOT_APPLIED)


def _outcome(passed: bool) -> Outcome:
    return Outcome.PASSED if passed else Outcome.FAILED


def confidence_of_try(confidence: float, number: int) -> float:
    """Returns the confidence of the k-th comparison on the same sessions, k from 1, so that `confidence` holds for all.

    With alpha = 1 - confidence, try k gets alpha / (k (k + 1)); these sum to alpha over any number of tries
    (alpha-spending, Tian and Ramdas 2021).
    """
    return 1 - (1 - confidence) / (number * (number + 1))


def _compare_with_champion(rules: GateRules, comparison: Comparison, num_earlier_tries: int) -> list[RuleResult]:
    champion = rules.champion
    if comparison.num_tasks < champion.min_questions:
        found = (
            f"only {comparison.num_tasks:,} comparable sessions, needs {champion.min_questions:,}; the other"
            f" {comparison.num_excluded:,} began before {comparison.since:%Y-%m-%d %H:%M} UTC, up to which one of the"
            " two was trained. A challenger of a later snapshot has more"
        )
        return [RuleResult("comparison with the champion", found, Outcome.WAITS)]
    gain = _check_gain(champion, comparison.gains, num_earlier_tries + 1)
    return [gain, *_check_guardrails(rules.guardrails, champion, comparison.gains)]


def _check_gain(rules: ChampionRules, gains: dict[str, MetricGain], number: int) -> RuleResult:
    gain = _lookup_metric(rules.metric, gains)
    confidence = confidence_of_try(rules.confidence, number)
    min_relative_gain = gain.relative_to_rival(gain.low(confidence))
    rule = f"{rules.metric} gains more than {rules.min_gain:.1%} on the champion at {rules.confidence:.0%} confidence"
    found = (
        f"{gain.model:.4f} against {gain.rival:.4f}, at least {min_relative_gain:+.1%}, {gain.num_tasks:,} sessions,"
        f" try {number} on them, at {confidence:.2%} confidence"
    )
    if gain.is_tie:
        found += "; a tie, the champion stays"
    return RuleResult(rule, found, _outcome(min_relative_gain > rules.min_gain))


def _check_guardrails(
    guardrails: dict[str, float], rules: ChampionRules, gains: dict[str, MetricGain]
) -> list[RuleResult]:
    """Returns the results of the guardrails; those with too few sessions are not applied.

    Each of m applied guardrails has a bound at confidence 1 - alpha / m, so that all of them together refuse a model
    that is as good with probability alpha at most (Bonferroni, Dunn 1961).
    """
    of_guardrail = {name: _lookup_metric(name, gains) for name in guardrails}
    num_applied = sum(gain.num_tasks >= rules.min_questions for gain in of_guardrail.values())
    confidence = 1 - (1 - rules.confidence) / max(num_applied, 1)
    results = []
    for name, gain in of_guardrail.items():
        rule = f"{name} not worse than the champion by more than {guardrails[name]:.0%}"
        if gain.num_tasks < rules.min_questions:
            results.append(_too_few(rule, gain.num_tasks, rules.min_questions))
            continue
        max_relative_gain = gain.relative_to_rival(gain.high(confidence))
        found = (
            f"{gain.model:.4f} against {gain.rival:.4f}, at most {max_relative_gain:+.1%} at {confidence:.2%}"
            f" confidence ({rules.confidence:.0%} for all {num_applied} guardrails, Bonferroni),"
            f" {gain.num_tasks:,} sessions"
        )
        results.append(RuleResult(rule, found, _outcome(max_relative_gain >= -guardrails[name])))
    return results


def _check_clicks(rules: CounterfactualRules, found: CounterfactualComparison | None) -> RuleResult:
    """Returns whether the challenger's lists would have got as many clicks, as far as explored lists tell."""
    loss = f" by more than {rules.max_loss:.0%}" if rules.max_loss else ""
    rule = f"estimated CTR not significantly below the champion's{loss}"
    if found is None:
        nothing = (
            "no complete explored lists without pins of known users since both were trained, or position bias is not"
            " known yet"
        )
        return RuleResult(rule, nothing, Outcome.NOT_APPLIED)
    size = f"{found.num_lists:,} explored lists of {found.num_clusters:,} users, {found.num_clicks:,} clicks"
    if found.num_clicks < rules.min_clicks or found.num_clusters < rules.min_users:
        needed = f"needs {rules.min_clicks:,} clicks and {rules.min_users:,} users"
        return RuleResult(rule, f"{size}, {needed}", Outcome.NOT_APPLIED)
    overlap = f"overlap {found.overlap.value:.0%} ({found.overlap.low:.0%} to {found.overlap.high:.0%})"
    if found.overlap.value < rules.min_overlap:
        problem = f"exploration could not have shown enough of its lists: {overlap}, needs {rules.min_overlap:.0%}"
        is_certain = found.overlap.high < rules.min_overlap
        return RuleResult(rule, f"{problem}; {size}", Outcome.FAILED if is_certain else Outcome.NOT_APPLIED)
    if not found.is_finite:
        return RuleResult(rule, f"no estimate; {size}", Outcome.NOT_APPLIED)
    error = NormalDist().inv_cdf(rules.confidence) * found.difference.standard_error
    max_relative_gain = (found.difference.value + error) / found.rival.value
    words = (
        f"{found.model.value:.2%} against {found.rival.value:.2%} (doubly robust), {found.model_snips.value:.2%}"
        f" against {found.rival_snips.value:.2%} (SNIPS), at most {max_relative_gain:+.1%} at {rules.confidence:.0%}"
        f" confidence; {size}, effective sample size {found.difference.effective_sample_size:,.0f}, {overlap}"
    )
    return RuleResult(rule, words, _outcome(max_relative_gain >= -rules.max_loss))


def check_limits(limits: Mapping[str, float], measurements: dict[str, float]) -> list[RuleResult]:
    """Returns the results of upper limits on measurements."""
    return [
        RuleResult(
            f"{name} at most {limit:g}",
            f"{_lookup_metric(name, measurements):.2f}",
            _outcome(_lookup_metric(name, measurements) <= limit),
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
