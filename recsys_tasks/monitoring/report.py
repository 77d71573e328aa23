"""HTML monitoring report: funnel, experiment arms, offline against online metrics, monitors, decisions, quarantine."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from importlib import resources
from typing import Any, NamedTuple

import jinja2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sqlalchemy import Connection

from recsys_tasks.engine.engine import MODEL, POPULARITY
from recsys_tasks.experiments.definition import Experiment, PolicyName
from recsys_tasks.experiments.online_metrics import (
    ADD_TO_CART,
    ALL,
    CLICK_THROUGH,
    CONVERSION,
    COVERAGE,
    LATENCY,
    REVENUE,
    SIGNIFICANCE_LEVEL,
    Rate,
    RateComparison,
    load_latest_metrics,
    load_online_metrics,
)
from recsys_tasks.experiments.stored_results import MIN_VISITORS, DailyRate, find_shown_days, load_daily_rates
from recsys_tasks.experiments.verdicts import ExperimentResult, estimate_exploration_cost, load_experiment_results
from recsys_tasks.interval import Interval
from recsys_tasks.monitoring.monitors import Finding, serving_period
from recsys_tasks.names import PERSONAL_FREQUENCY, RECOMMENDATIONS
from recsys_tasks.warehouse import statement

STYLE, _TEMPLATE = "style.css", "report.html"
_MAX_TICKS = 12
_HEADLINE_BASELINES: Mapping[PolicyName, str] = {POPULARITY: "popularity", PERSONAL_FREQUENCY: "personal frequency"}
_OFFLINE = ("recall_20", "mrr_20", "precision_20", "f1_20")
_AXIS_HEADROOM, _MIN_AXIS_RATE = 1.6, 0.001  # factor above the highest rate of a chart
_LABEL_ROOM = 1.35  # factor on the longest bar, for the labels of the bars
_MODEL, _OTHERS = "#c2410c", ("#1d4ed8", "#15803d", "#7e22ce", "#475569", "#a16207")


class VersionSummary(NamedTuple):
    """Model version with impressions: offline metrics, online rates in the model's arm, and of the latest day the
    catalog coverage and the latency in ms (median and 99th percentile).
    """

    number: str
    offline: Mapping[str, float]
    online: Mapping[str, Rate]
    coverage: float | None
    milliseconds: tuple[float | None, float | None]
    first: datetime
    last: datetime


@dataclass
class MonitoringReport:
    """Contents of the report.

    Attributes:
        period: with impressions; headlines: main results as sentences; funnel: rows by kind of list.
        searches: row with the numbers of searches, zero hits, corrections and reformulations.
        verdicts: results of experiments; versions: with impressions, oldest first.
        findings: of the monitors; alarms, decisions, quarantine, bots: rows of the warehouse.
        charts: SVG by name.
    """

    period: Interval
    headlines: list[str] = field(default_factory=list)
    funnel: list[Any] = field(default_factory=list)
    searches: Any = None
    verdicts: list[ExperimentResult] = field(default_factory=list)
    versions: list[VersionSummary] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    alarms: list[Any] = field(default_factory=list)
    decisions: list[Any] = field(default_factory=list)
    quarantine: list[Any] = field(default_factory=list)
    bots: list[Any] = field(default_factory=list)
    charts: dict[str, str] = field(default_factory=dict)

    def html(self) -> str:
        """Returns the report as HTML."""
        page = jinja2.Environment(
            loader=jinja2.FunctionLoader(_read_text), autoescape=True, undefined=jinja2.StrictUndefined
        )
        page.filters |= {
            "percent": "{:.2%}".format,
            "timestamp": lambda at: f"{at:%Y-%m-%d %H:%M}",
            "data_uri": lambda svg: f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}",
        }
        offline = tuple(name for name in _OFFLINE if any(name in version.offline for version in self.versions))
        return page.get_template(_TEMPLATE).render(
            report=self,
            style=_read_text(STYLE),
            created=datetime.now(UTC),
            offline=offline,
            online=(CLICK_THROUGH, ADD_TO_CART, CONVERSION),
            revenue=REVENUE,
        )


def build_report(
    connection: Connection,
    findings: list[Finding],
    experiment: Experiment | None,
    offline_of: Callable[[str], Mapping[str, float]],
) -> MonitoringReport | None:
    """Builds the report on all impressions so far; returns None without impressions.

    Args:
        connection: to the warehouse, with attributed outcomes.
        findings: of the monitors.
        experiment: that the endpoints run.
        offline_of: returns the offline metrics of a run.
    """
    whole = serving_period(connection)
    if whole is None:
        return None
    report = MonitoringReport(whole, findings=findings)
    report.funnel = list(connection.execute(statement("monitoring/funnel"), whole.bounds))
    report.searches = connection.execute(statement("monitoring/search_rates"), whole.bounds).one()
    report.verdicts = load_experiment_results(connection, whole, experiment)
    report.decisions = list(connection.execute(statement("monitoring/promotions")))
    report.versions = _versions(connection, whole, experiment, report.decisions, offline_of)
    report.alarms = list(connection.execute(statement("monitoring/alarms")))
    report.quarantine = list(connection.execute(statement("monitoring/quarantine_by_rule")))
    report.bots = list(connection.execute(statement("monitoring/bots")))
    report.headlines = _headlines(connection, report, experiment)
    days = find_shown_days(connection, whole)
    report.charts = {
        "funnel": _render_svg(lambda axes: _draw_funnel(axes, report.funnel), 3.0),
        "days": draw_days_chart(days, [rate for day in days for rate in load_daily_rates(connection, day)], experiment),
        "versions": _render_svg(lambda axes: _draw_versions(axes, report.versions), 3.5),
    }
    return report


def draw_days_chart(days: Sequence[date], rates: Sequence[DailyRate], experiment: Experiment | None) -> str:
    """Returns a chart of the CTR of recommendations by day and arm as SVG."""
    return _render_svg(lambda axes: _draw_days(axes, days, rates, experiment), 4.0)


def model_arms(experiment: Experiment | None) -> tuple[str, set[str]]:
    """Returns the experiment's name and the arms whose lists come from the served model alone."""
    if experiment is None:
        return ALL, {ALL}
    return experiment.name, {arm.name for arm in experiment.arms_with_policy(MODEL)}


def describe_comparison(name: str, own: Rate, others: str, other: Rate, num_comparisons: int = 1) -> str:
    """Returns two rates as text, with the direction of the difference if it is significant at 95 % confidence.

    Args:
        name, own: of the first rate.
        others, other: of the second rate.
        num_comparisons: number of comparisons for which the confidence holds together (Bonferroni).
    """
    found, threshold = RateComparison(own, other), SIGNIFICANCE_LEVEL / num_comparisons
    words = f"{name} {own}, {others} {other}"
    needed = f", threshold {threshold:.2g} for {num_comparisons} comparisons" if num_comparisons > 1 else ""
    if found.p_value < threshold:
        direction = "above" if found.is_higher else "below"
        return f"{words}: {direction}, at 95 % confidence (p = {found.p_value:.2g}{needed})"
    return f"{words}: no significant difference (p = {found.p_value:.2f}{needed})"


def _versions(
    connection: Connection,
    whole: Interval,
    experiment: Experiment | None,
    decisions: Sequence[Any],
    offline_of: Callable[[str], Mapping[str, float]],
) -> list[VersionSummary]:
    run_of = {row.model_version: row.run_id for row in decisions}
    name, arms = model_arms(experiment)
    latest = load_latest_metrics(connection)
    found = []
    for shown, figures in load_online_metrics(connection, whole).items():
        ours = (shown.list, shown.experiment, shown.segment) == (RECOMMENDATIONS, name, ALL) and shown.arm in arms
        times = serving_period(connection, shown.model_version) if ours else None
        if times is None or shown.model_version not in run_of:
            continue
        offline = offline_of(run_of[shown.model_version])
        coverage = latest.get((shown.model_version, ALL, COVERAGE))
        p50, p99 = (latest.get((shown.model_version, shown.arm, metric)) for metric in LATENCY)
        online = figures.rates
        found.append(VersionSummary(shown.model_version, offline, online, coverage, (p50, p99), times.start, times.end))
    return sorted(found, key=lambda version: version.first)


def _headlines(connection: Connection, report: MonitoringReport, experiment: Experiment | None) -> list[str]:
    if not report.versions:
        return ["No promoted version has impressions yet."]
    latest, first = max(report.versions, key=lambda version: version.last), report.versions[0]
    lines = []
    name, arms = model_arms(experiment)
    # Both arms over the same days, since the served version was activated.
    since = load_online_metrics(connection, Interval(latest.first, latest.last))
    own = next((f for s, f in since.items() if _matches(s, latest.number, name, arms)), None)
    for policy, label in _HEADLINE_BASELINES.items():
        baseline = {arm.name for arm in experiment.arms_with_policy(policy)} if experiment else set()
        other = next((f for s, f in since.items() if _matches(s, latest.number, name, baseline)), None)
        if own is not None and other is not None:
            words = describe_comparison(
                f"version {latest.number}",
                own.rates[CLICK_THROUGH],
                label,
                other.rates[CLICK_THROUGH],
                len(experiment.shares) - 1 if experiment else 1,  # as in the verdict of the experiment
            )
            lines.append(f"CTR of the champion against the {label} baseline: {words}.")
    if latest.number != first.number:
        words = describe_comparison(
            f"version {latest.number}",
            latest.online[CLICK_THROUGH],
            f"version {first.number}",
            first.online[CLICK_THROUGH],
        )
        lines.append(f"CTR of the champion against the first version: {words}.")
    cost = estimate_exploration_cost(connection, Interval(latest.first, latest.last), latest.number, arms)
    if cost is not None:
        without = cost.without_exploration
        lines.append(
            f"Cost of exploration: {cost.observed_rate:.2%} of impressions led to an action; without exploration,"
            f" an estimated {without.value:.2%} ({without.low:.2%} to {without.high:.2%},"
            " off-policy from logged propensities)."
        )
    held = [found for found in report.findings if found.fires]
    lines += [f"Alarm: {found.rule.name}: {found.explanation}." for found in held]
    return lines


def _matches(shown: Any, number: str, experiment: str, arms: set[str]) -> bool:
    return (
        (shown.list, shown.model_version, shown.experiment, shown.segment) == (RECOMMENDATIONS, number, experiment, ALL)
    ) and shown.arm in arms


def _read_text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _render_svg(draw: Callable[[Axes], None], height: float) -> str:
    """Returns a chart as SVG for embedding."""
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    drawn = text.getvalue()
    return drawn[drawn.index("<svg") :]


def _draw_funnel(axes: Axes, rows: Sequence[Any]) -> None:
    stages = ("impressions", "clicks", "carts", "purchases")
    totals = [sum(int(getattr(row, stage)) for row in rows) for stage in stages]
    bars = axes.barh(stages, totals, color=_MODEL)
    shares = [""] + [f" ({part / totals[0]:.2%} of the impressions)" if totals[0] else "" for part in totals[1:]]
    axes.bar_label(bars, [f"{total:,}{share}" for total, share in zip(totals, shares, strict=True)], padding=4)
    axes.set_xlim(0, max(*totals, 1) * _LABEL_ROOM)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def _draw_days(
    axes: Axes, shown_days: Sequence[date], daily: Sequence[DailyRate], experiment: Experiment | None
) -> None:
    """Draws the CTR of recommendations by day and arm, with 95 % intervals; skips days with too few visitors."""
    name, models = model_arms(experiment)
    of_experiment = [one for one in daily if one.experiment == name]
    arms = sorted({one.arm for one in of_experiment}, key=lambda arm: (arm not in models, arm))
    highest = _MIN_AXIS_RATE
    for number, arm in enumerate(arms):
        drawn = [one for one in of_experiment if one.arm == arm and one.visitors >= MIN_VISITORS]
        days, rates = [one.day for one in drawn], [one.rate for one in drawn]
        highest = max([highest, *(rate.value for rate in rates)])
        color = _MODEL if arm in models else _OTHERS[number % len(_OTHERS)]
        low = [rate.value - rate.low for rate in rates]
        high = [min(rate.high - rate.value, 1.0) for rate in rates]
        axes.errorbar(
            np.asarray(days, "datetime64[D]"),
            [rate.value for rate in rates],
            [low, high],
            marker="o",
            capsize=3,
            color=color,
            label=arm or "all",
        )
    axes.set_ylabel("CTR of recommendations")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    axes.set_ylim(0, _AXIS_HEADROOM * highest)
    ticks = shown_days[:: math.ceil(len(shown_days) / _MAX_TICKS)]
    axes.set_xticks(np.asarray(ticks, "datetime64[D]"), [f"{day:%d %b}" for day in ticks])
    axes.legend(frameon=False)


def _draw_versions(axes: Axes, versions: Sequence[VersionSummary]) -> None:
    """Draws offline MRR@20 against online CTR of each version."""
    for version in versions:
        rate = version.online[CLICK_THROUGH]
        offline = version.offline.get("mrr_20")
        if offline is None:
            continue
        axes.errorbar(
            offline,
            rate.value,
            [[rate.value - rate.low], [min(rate.high - rate.value, 1.0)]],
            marker="o",
            color=_MODEL,
            capsize=3,
        )
        axes.annotate(f"version {version.number}", (offline, rate.value), xytext=(6, 6), textcoords="offset points")
    axes.set_xlabel("MRR@20 on held-out sessions (offline)")
    axes.set_ylabel("CTR (online)")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    axes.margins(0.2)
