"""One HTML file about the loop: what was shown and what came of it, by arm and version, offline beside online, what is
watched, what was decided, and what waits in quarantine."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from importlib import resources
from itertools import pairwise
from typing import Any, NamedTuple

import jinja2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sqlalchemy import Connection

from recsys_tasks.engine.engine import MODEL, POPULARITY
from recsys_tasks.experiments.definition import Experiment
from recsys_tasks.experiments.online_metrics import (
    ADD_TO_CART,
    ALL,
    CLICK_THROUGH,
    CONVERSION,
    COVERAGE,
    LATENCY,
    REVENUE,
    Against,
    Rate,
    latest_figures,
    online_metrics,
)
from recsys_tasks.experiments.verdicts import Verdict, arm_figures, exploring, verdicts
from recsys_tasks.interval import Interval
from recsys_tasks.monitoring.monitors import Finding, serving_period
from recsys_tasks.names import RECOMMENDATIONS
from recsys_tasks.warehouse import statement

_TEMPLATE = "report.html"
_MOST_DAYS, _MOST_TICKS, _FEWEST_VISITORS = 60, 12, 10
_OFFLINE = ("recall_20", "mrr_20", "precision_20", "f1_20")
_ROOM, _LEAST_RATE = 1.6, 0.001  # above the highest rate of a picture
_MODEL, _OTHERS = "#c2410c", ("#1d4ed8", "#15803d", "#7e22ce", "#475569", "#a16207")


class OfVersion(NamedTuple):
    """A version that showed something: its offline figures, online rates in the arm of the model, and of the last day
    what share of the catalogue it showed and in how many milliseconds (median and 99th percentile)."""

    number: str
    offline: Mapping[str, float]
    online: Mapping[str, Rate]
    coverage: float | None
    milliseconds: tuple[float | None, float | None]
    first: datetime
    last: datetime


@dataclass
class Report:
    """All that the file shows.

    Attributes:
        between: of what time; headlines: what matters, in sentences; funnel: rows by kind of list.
        verdicts: of experiments; versions: that showed something, oldest first.
        findings: of the rules that are watched; alarms, decisions, waiting, machines: rows of the warehouse.
        pictures: by name, as SVG.
    """

    between: Interval
    headlines: list[str] = field(default_factory=list)
    funnel: list[Any] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    versions: list[OfVersion] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    alarms: list[Any] = field(default_factory=list)
    decisions: list[Any] = field(default_factory=list)
    waiting: list[Any] = field(default_factory=list)
    machines: list[Any] = field(default_factory=list)
    pictures: dict[str, str] = field(default_factory=dict)

    def html(self) -> str:
        """The file."""
        loader = jinja2.FunctionLoader(
            lambda name: resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
        )
        page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
        page.filters |= {"percent": "{:.2%}".format, "moment": lambda at: f"{at:%Y-%m-%d %H:%M}"}
        offline = tuple(name for name in _OFFLINE if any(name in version.offline for version in self.versions))
        return page.get_template(_TEMPLATE).render(
            report=self,
            made=datetime.now(UTC),
            offline=offline,
            online=(CLICK_THROUGH, ADD_TO_CART, CONVERSION),
            revenue=REVENUE,
        )


def make_report(
    connection: Connection,
    findings: list[Finding],
    experiment: Experiment | None,
    offline_of: Callable[[str], Mapping[str, float]],
) -> Report | None:
    """The report on all that was shown so far; None where nothing was.

    Args:
        connection: to the warehouse, whose outcomes were counted.
        findings: what the rules found.
        experiment: that the endpoints run.
        offline_of: gives the offline figures of a run.
    """
    whole = serving_period(connection)
    if whole is None:
        return None
    report = Report(whole, findings=findings)
    report.funnel = list(connection.execute(statement("monitoring/funnel"), whole.bounds))
    report.verdicts = verdicts(connection, whole, experiment)
    report.decisions = list(connection.execute(statement("monitoring/promotions")))
    report.versions = _versions(connection, whole, experiment, report.decisions, offline_of)
    report.alarms = list(connection.execute(statement("monitoring/alarms")))
    report.waiting = list(connection.execute(statement("monitoring/quarantine_by_rule")))
    report.machines = list(connection.execute(statement("monitoring/bots")))
    days = _days(whole)
    by_day = {day: arm_figures(connection, Interval.of_day(day)) for day in days}
    report.headlines = _headlines(connection, report, experiment)
    report.pictures = {
        "funnel": _drawn(lambda axes: _draw_funnel(axes, report.funnel), 3.0),
        "days": _drawn(lambda axes: _draw_days(axes, by_day, experiment), 4.0),
        "versions": _drawn(lambda axes: _draw_versions(axes, report.versions), 3.5),
    }
    return report


def model_arms(experiment: Experiment | None) -> tuple[str, set[str]]:
    """The name of the experiment, and of its arms whose lists the model that serves makes alone."""
    if experiment is None:
        return ALL, {ALL}
    return experiment.name, {arm.name for arm in experiment.answering(MODEL)}


def compare(name: str, own: Rate, others: str, other: Rate) -> str:
    """Two rates in words: which is above, and whether that is certain at 95 % confidence."""
    found = Against(own, other)
    words = f"{name} {own}, {others} {other}"
    if found.certain:
        return f"{words}: {'above' if found.change > 0 else 'below'}, at 95 % confidence (p = {found.chance:.2g})"
    return f"{words}: not certainly different (p = {found.chance:.2f})"


def _versions(
    connection: Connection,
    whole: Interval,
    experiment: Experiment | None,
    decisions: Sequence[Any],
    offline_of: Callable[[str], Mapping[str, float]],
) -> list[OfVersion]:
    run_of = {row.model_version: row.run_id for row in decisions}
    name, arms = model_arms(experiment)
    latest = latest_figures(connection)
    found = []
    for shown, figures in online_metrics(connection, whole).items():
        ours = (shown.list, shown.experiment, shown.segment) == (RECOMMENDATIONS, name, ALL) and shown.arm in arms
        times = serving_period(connection, shown.model_version) if ours else None
        if times is None or shown.model_version not in run_of:
            continue
        offline = offline_of(run_of[shown.model_version])
        coverage = latest.get((shown.model_version, ALL, COVERAGE))
        p50, p99 = (latest.get((shown.model_version, shown.arm, metric)) for metric in LATENCY)
        online = figures.rates
        found.append(OfVersion(shown.model_version, offline, online, coverage, (p50, p99), times.start, times.end))
    return sorted(found, key=lambda version: version.first)


def _headlines(connection: Connection, report: Report, experiment: Experiment | None) -> list[str]:
    if not report.versions:
        return ["No version that was promoted has shown anything yet."]
    latest, first = max(report.versions, key=lambda version: version.last), report.versions[0]
    lines = []
    name, arms = model_arms(experiment)
    # What serves now, in the days since it does, beside what is popular in the very same days.
    since = online_metrics(connection, Interval(latest.first, latest.last))
    popular = {arm.name for arm in experiment.answering(POPULARITY)} if experiment else set()
    own = next((f for s, f in since.items() if _is(s, latest.number, name, arms)), None)
    other = next((f for s, f in since.items() if _is(s, latest.number, name, popular)), None)
    if own is not None and other is not None:
        words = compare(
            f"version {latest.number}", own.rates[CLICK_THROUGH], "what is popular", other.rates[CLICK_THROUGH]
        )
        lines.append(f"Click-through of the champion against popularity: {words}.")
    if latest.number != first.number:
        words = compare(
            f"version {latest.number}",
            latest.online[CLICK_THROUGH],
            f"version {first.number}",
            first.online[CLICK_THROUGH],
        )
        lines.append(f"Click-through of the champion against the first one: {words}.")
    cost = exploring(connection, Interval(latest.first, latest.last), latest.number, arms)
    if cost is not None:
        without = cost.without
        lines.append(
            f"Exploring: {cost.shown:.2%} of what was shown was acted on; without chance it would be"
            f" {without.value:.2%} ({without.low:.2%} to {without.high:.2%}, by the chances that were noted)."
        )
    held = [found for found in report.findings if found.fires]
    lines += [f"Alarm: {found.rule.name}: {found.explanation}." for found in held]
    return lines


def _is(shown: Any, number: str, experiment: str, arms: set[str]) -> bool:
    return (
        (shown.list, shown.model_version, shown.experiment, shown.segment) == (RECOMMENDATIONS, number, experiment, ALL)
    ) and shown.arm in arms


def _days(whole: Interval) -> list[date]:
    last, first = whole.end.date(), whole.start.date()
    first = max(first, last - timedelta(days=_MOST_DAYS))
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def _drawn(draw: Callable[[Axes], None], height: float) -> str:
    """A picture as SVG, to stand in a page."""
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
    shares = [""] + [f" ({part / whole:.1%} of those before)" if whole else "" for whole, part in pairwise(totals)]
    axes.bar_label(bars, [f"{total:,}{share}" for total, share in zip(totals, shares, strict=True)], padding=4)
    axes.set_xscale("symlog")
    axes.set_xlim(0, max(*totals, 1) * 30)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def _draw_days(axes: Axes, by_day: Mapping[date, Mapping[Any, Any]], experiment: Experiment | None) -> None:
    """Click-through of recommendations by day and arm, with 95 % intervals, where more than a handful were shown
    something: a day that has just begun says nothing."""
    name, models = model_arms(experiment)
    arms = sorted(
        {arm for figures in by_day.values() for of, arm in figures if of == name},
        key=lambda arm: (arm not in models, arm),
    )
    highest = _LEAST_RATE
    for number, arm in enumerate(arms):
        rates_of = {day: of[name, arm].rates[CLICK_THROUGH] for day, of in by_day.items() if (name, arm) in of}
        days = [day for day, rate in rates_of.items() if rate.visitors >= _FEWEST_VISITORS]
        rates = [rates_of[day] for day in days]
        highest = max([highest, *(rate.value for rate in rates)])
        colour = _MODEL if arm in models else _OTHERS[number % len(_OTHERS)]
        low = [rate.value - rate.low for rate in rates]
        high = [min(rate.high - rate.value, 1.0) for rate in rates]
        axes.errorbar(
            np.asarray(days, "datetime64[D]"),
            [rate.value for rate in rates],
            [low, high],
            marker="o",
            capsize=3,
            color=colour,
            label=arm or "all",
        )
    axes.set_ylabel("click-through of recommendations")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    axes.set_ylim(0, _ROOM * highest)
    ticks = list(by_day)[:: math.ceil(len(by_day) / _MOST_TICKS)]
    axes.set_xticks(np.asarray(ticks, "datetime64[D]"), [f"{day:%d %b}" for day in ticks])
    axes.legend(frameon=False)


def _draw_versions(axes: Axes, versions: Sequence[OfVersion]) -> None:
    """Offline beside online: how good each version was on held-out sessions, and what came of its lists."""
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
    axes.set_ylabel("click-through (online)")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    axes.margins(0.2)
