"""Online monitors: CTR regressions, drift (PSI), sample ratio mismatch and quarantine rate, with explanations."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, text

from recsys_tasks.engine.engine import MODEL, NEIGHBORS, POPULARITY
from recsys_tasks.experiments.definition import PREVIOUS, Arm, Experiment, PolicyName
from recsys_tasks.experiments.online_metrics import (
    ALL,
    CLICK_THROUGH,
    MetricKey,
    OnlineMetrics,
    Rate,
    RateComparison,
    load_online_metrics,
)
from recsys_tasks.experiments.verdicts import SRM_P_VALUE_THRESHOLD, load_sample_ratio
from recsys_tasks.interval import Interval
from recsys_tasks.monitoring.drift import population_stability_index
from recsys_tasks.monitoring.rules import ALERT, RETRAIN, ROLL_BACK, Distribution, Rule
from recsys_tasks.names import PERSONAL_FREQUENCY, PURCHASE, RECOMMENDATIONS
from recsys_tasks.plugins import MONITOR_GROUP, load_plugin
from recsys_tasks.validation.row_rules import CAUSED_BY_CALLERS
from recsys_tasks.warehouse import statement

log = logging.getLogger(__name__)
_NUL = b"\\u0000"  # PostgreSQL refuses it in texts
_REFERENCE = timedelta(days=28)
_DAY, _WEEK = timedelta(days=1), timedelta(days=7)
_ARM_NAMES = {
    POPULARITY: "the popularity baseline",
    NEIGHBORS: "item neighbors",
    PERSONAL_FREQUENCY: "the user's most frequent items",
    PREVIOUS: "the previous version",
}


class ServedModel(NamedTuple):
    """The version that serves, the cut-off of its snapshot, and the previous version."""

    model_version: str
    cutoff: datetime
    previous_version: str | None


class Finding(NamedTuple):
    """The result of one rule.

    Attributes:
        rule: the rule.
        fires: whether it fires.
        explanation: in words.
        evidence: the figures.
        failed_rule: name of the rule whose monitor failed, so that this finding says nothing about its open alarm.
    """

    rule: Rule
    fires: bool
    explanation: str
    evidence: dict[str, Any]
    failed_rule: str | None = None


class MonitorInput(NamedTuple):
    """What the monitor of a plugin gets beside its rule.

    Attributes:
        connection: to the warehouse, with outcomes attributed.
        served: the model under observation.
        experiment: that the endpoints run, if there is one.
        latest: the rule's last days.
    """

    connection: Connection
    served: ServedModel
    experiment: Experiment | None
    latest: Interval


def run_monitors(
    connection: Connection, rules: list[Rule], served: ServedModel, experiment: Experiment | None
) -> list[Finding]:
    """Runs every rule that has enough data; returns their findings in the order of the rules.

    Args:
        connection: to the warehouse, with outcomes attributed.
        rules: what to check.
        served: the model under observation.
        experiment: the experiment that the endpoints run, if there is one.
    """
    period = serving_period(connection)
    if period is None:
        return []
    monitors = _Monitors(connection, served, experiment, period.end)
    checks: dict[str, Callable[[Rule], Finding | None]] = {
        "ctr_against_arm": monitors.ctr_against_arm,
        "ctr_regression": monitors.ctr_regression,
        "drift": monitors.drift,
        "sample_ratio": monitors.sample_ratio,
        "quarantine_rate": monitors.quarantine_rate,
    }
    found = (checks.get(rule.monitor, monitors.run_plugin)(rule) for rule in rules)
    return [finding for finding in found if finding is not None]


def serving_period(connection: Connection, model_version: str = ALL) -> Interval | None:
    """Returns the time from the first to the last impression of a version, or of any; None without impressions."""
    row = connection.execute(statement("monitoring/serving_period"), {"model_version": model_version}).one()
    return None if row.last_time is None else Interval(row.first_time, row.last_time + timedelta(microseconds=1))


class _Monitors:
    """The checks, all as of one time."""

    def __init__(
        self, connection: Connection, served: ServedModel, experiment: Experiment | None, end: datetime
    ) -> None:
        self._connection, self._served, self._experiment, self._end = connection, served, experiment, end
        self._metrics = cache(partial(load_online_metrics, connection))  # several rules read the same days

    def ctr_against_arm(self, rule: Rule) -> Finding | None:
        """Compares the click-through of the served version with that of an arm, on the days that both served.

        If the previous version, in an arm of its own on the same days, does no better, a rollback would not help: the
        action becomes a training from scratch.
        """
        if self._experiment is None:
            return None
        own = self._rate(self._latest(rule), self._served.model_version, self._model_arms)
        other = self._rate_of_arm(rule, rule.arm)
        if other is None or own.visitors < rule.min_visitors:
            return None
        found = self._compare(rule, own, other, f"version {self._served.model_version}", _ARM_NAMES[rule.arm])
        before = self._rate_of_arm(rule, PREVIOUS)
        if rule.action != ROLL_BACK or rule.arm == PREVIOUS or before is None or before.value > own.value:
            return found
        words = f"{found.explanation}; but the previous version does no better ({before.value:.2%})"
        return found._replace(rule=msgspec.structs.replace(rule, action=RETRAIN), explanation=words)

    def ctr_regression(self, rule: Rule) -> Finding | None:
        """Compares the click-through of the model's lists in the latest days with the week before them.

        If the served version is new since then and the popularity baseline did not fall, the version is the cause: the
        action becomes a rollback.
        """
        latest = self._latest(rule)
        since = f"since {latest.start:%Y-%m-%d %H:%M} UTC"
        now, before = self._now_and_before(latest, self._model_arms)
        if min(now.visitors, before.visitors) < rule.min_visitors:
            return None
        found = self._compare(rule, now, before, since, "the week before")
        shown = serving_period(self._connection, self._served.model_version)
        if not found.fires or self._experiment is None or shown is None or shown.start < latest.start:
            return found
        now, before = self._now_and_before(latest, self._experiment.arms_with_policy(POPULARITY))
        if (
            min(now.visitors, before.visitors) < rule.min_visitors
            or RateComparison(now, before).relative_change <= -rule.min_effect
        ):
            return found
        words = (
            f"{found.explanation}; version {self._served.model_version} is new since then, and the popularity baseline"
            f" did not fall ({before.value:.2%} before, {now.value:.2%} now)"
        )
        return found._replace(rule=msgspec.structs.replace(rule, action=ROLL_BACK), explanation=words)

    def _now_and_before(self, latest: Interval, arms: list[Arm]) -> tuple[Rate, Rate]:
        """Returns the click-through of some arms in the latest days and in the week before, of any version."""
        return self._rate(latest, None, arms), self._rate(Interval(latest.start - _WEEK, latest.start), None, arms)

    def drift(self, rule: Rule) -> Finding | None:
        """Compares a distribution of the latest days with the four weeks before the version's cut-off."""
        now = self._latest(rule)
        then = Interval(self._served.cutoff - _REFERENCE, self._served.cutoff)
        if rule.distribution == "scores":
            shown = serving_period(self._connection, self._served.model_version)
            if shown is None or shown.start + _DAY >= now.start:
                return None
            then = Interval(shown.start, shown.start + _DAY)
        before, after = self._distribution(rule.distribution, then), self._distribution(rule.distribution, now)
        if min(sum(before.values()), sum(after.values())) < rule.min_events:
            return None
        psi, noise, moved = population_stability_index(before, after)
        title_of = self._read_titles([value for value, _, _ in moved]) if rule.distribution == "items" else {}
        named = ", ".join(
            f"{title_of.get(value, value) or 'none'} {was:.1%} to {now_is:.1%}" for value, was, now_is in moved
        )
        words = f"PSI of {rule.distribution} is {psi:.2f} (noise up to {noise:.2f}); moved most: {named}"
        evidence = {"psi": psi, "noise": noise, "moved": moved}
        return Finding(rule, psi > max(rule.min_effect, noise), words, evidence)

    def sample_ratio(self, rule: Rule) -> Finding | None:
        """Tests whether the arms have the shares of visitors that they are configured for (SRM)."""
        if self._experiment is None:
            return None
        visitors, p_value = load_sample_ratio(self._connection, self._latest(rule), self._experiment)
        if p_value is None:
            return None
        counts = ", ".join(f"{arm} {count:,}" for arm, count in visitors.items())
        words = f"the arms had {counts} visitors (p = {p_value:.2g})"
        evidence = {"visitors": visitors, "p_value": p_value}
        return Finding(rule, p_value < SRM_P_VALUE_THRESHOLD, words, evidence)

    def quarantine_rate(self, rule: Rule) -> Finding | None:
        """Returns the share of the last day's feedback that was quarantined for reasons that no caller can cause.

        Unknown items and duplicate event ids do not count: any caller can send them, and no caller may hold promotions.
        The report shows their number by rule.
        """
        names = {"caused_by_callers": CAUSED_BY_CALLERS}
        row = self._connection.execute(statement("monitoring/quarantined_feedback"), names).one()
        if not row.read_rows:
            return None
        share = int(row.refused_rows) / int(row.read_rows)
        words = f"{row.refused_rows:,} of {row.read_rows:,} rows of feedback broke rules that the endpoint had checked"
        return Finding(rule, share > rule.min_effect, words, {"share": share})

    def run_plugin(self, rule: Rule) -> Finding | None:
        """Runs the monitor of a plugin. One that fails has a finding of its own, and stops no other monitor."""
        given = MonitorInput(self._connection, self._served, self._experiment, self._latest(rule))
        try:
            check = load_plugin(MONITOR_GROUP, rule.monitor)
            with self._connection.engine.connect() as own:  # its errors and commits concern nobody else
                found = check(given._replace(connection=own), rule)
            if found is None:
                return None
            if not (isinstance(found, Finding) and isinstance(found.rule, Rule) and found.rule.name == rule.name):
                raise TypeError("it must return None, or a Finding with the rule that it was given")
            evidence = msgspec.json.encode(found.evidence, enc_hook=lambda number: number.item())
            cleaned = msgspec.json.decode(evidence.replace(_NUL, b""))
            return Finding(found.rule, bool(found.fires), str(found.explanation).replace("\0", ""), cleaned)
        except Exception as error:
            log.exception("Monitor %s failed", rule.monitor)
            words = f"the monitor {rule.monitor} failed: {type(error).__name__}: {error}".replace("\0", "")
            failed = msgspec.structs.replace(rule, name=f"{rule.name} (monitor failed)", action=ALERT)
            return Finding(failed, True, words, {}, rule.name)

    def _latest(self, rule: Rule) -> Interval:
        return Interval(self._end - rule.days * _DAY, self._end)

    @property
    def _model_arms(self) -> list[Arm]:
        if self._experiment is None:
            return [Arm(ALL, 1.0)]
        return self._experiment.arms_with_policy(MODEL)

    def _rate(self, between: Interval, version: str | None, arms: list[Arm]) -> Rate:
        """Returns the click-through of recommendations in some arms, of one version or of any."""
        metrics = self._metrics(between, version is not None)
        experiment = ALL if self._experiment is None else self._experiment.name
        wanted = [MetricKey(RECOMMENDATIONS, version or ALL, experiment, arm.name) for arm in arms]
        found = [metrics[shown].sums for shown in wanted if shown in metrics]
        return OnlineMetrics.combine(found).rates[CLICK_THROUGH] if found else Rate(0.0, 0.0, 0.0, 0)

    def _rate_of_arm(self, rule: Rule, answers: PolicyName) -> Rate | None:
        """Returns the latest click-through of the arms with a kind of answers; None with too few visitors."""
        version = self._served.previous_version if answers == PREVIOUS else self._served.model_version
        arms = self._experiment.arms_with_policy(answers) if self._experiment else []
        if not arms or version is None:
            return None
        found = self._rate(self._latest(rule), version, arms)
        return found if found.visitors >= rule.min_visitors else None

    def _compare(self, rule: Rule, own: Rate, other: Rate, whose: str, others: str) -> Finding:
        found = RateComparison(own, other)
        change = f": {found.relative_change:+.0%}" if other.value else ""
        words = f"click-through {whose} {own}, {others} {other}{change} (p = {found.p_value:.2g})"
        evidence = {
            "own": own._asdict(),
            "other": other._asdict(),
            "change": found.relative_change,
            "p_value": found.p_value,
        }
        return Finding(
            rule, found.relative_change < -rule.min_effect and found.p_value < 1 - rule.confidence, words, evidence
        )

    def _read_titles(self, item_ids: list[str]) -> dict[str, str]:
        rows = self._connection.execute(
            text("select item_id, title from items where item_id = any(:ids) and title <> ''"), {"ids": item_ids}
        )
        return {row.item_id: f"{row.title} ({row.item_id})" for row in rows}

    def _distribution(self, distribution: Distribution, between: Interval) -> dict[str, int]:
        if distribution == "scores":
            names = {**between.bounds, "model_version": self._served.model_version}
            rows = self._connection.execute(statement("monitoring/score_distribution"), names)
        else:
            names = {**between.bounds, "of": distribution, "event_type": PURCHASE}
            rows = self._connection.execute(statement("monitoring/value_shares"), names)
        return {str(row.value): int(row.events) for row in rows}
