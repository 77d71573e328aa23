"""Whether something is wrong with what serves, or the world is another one than it learned from: by the rules of one
file, each of which explains what it found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from sqlalchemy import Connection, text

from recsys_tasks.engine.engine import MODEL, POPULARITY
from recsys_tasks.errors import ConfigurationError
from recsys_tasks.experiments.definition import PREVIOUS, Answers, Arm, Experiment
from recsys_tasks.experiments.online_metrics import ALL, CLICK_THROUGH, Against, Figures, Rate, Shown, online_metrics
from recsys_tasks.experiments.verdicts import MISMATCH, verdicts
from recsys_tasks.interval import Interval
from recsys_tasks.names import PURCHASE, RECOMMENDATIONS
from recsys_tasks.warehouse import statement

TELL, RETRAIN, HOLD, ROLL_BACK = "tell", "retrain", "hold", "roll_back"
_DEFAULT = "monitors.toml"
_REFERENCE = timedelta(days=28)
_DAY, _WEEK = timedelta(days=1), timedelta(days=7)
_MOST_VALUES = 50
_REST = "all others"
_NAMED = 3
_CALLED = {"popularity": "popular", "neighbours": "near", PREVIOUS: "shown by the version before"}


class Rule(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What is watched; see `monitors.toml`.

    Attributes:
        least: a smaller loss, fall, share or index is not worth an alarm.
        confidence: with which it is known; days: how many times 24 hours, up to what was shown last, are looked at.
        least_visitors, least_events: with fewer nothing is judged.
    """

    name: str
    what: Literal["arm", "falls", "drift", "sample_ratio", "quarantine"]
    then: Literal["tell", "retrain", "hold", "roll_back"]
    arm: Literal["popularity", "neighbours", "previous"] = "popularity"
    of: Literal["items", "categories", "queries", "event_types", "scores"] = "items"
    least: Annotated[float, msgspec.Meta(ge=0)] = 0.05
    confidence: Annotated[float, msgspec.Meta(gt=0.5, lt=1)] = 0.95
    days: Annotated[int, msgspec.Meta(ge=1)] = 1
    least_visitors: Annotated[int, msgspec.Meta(ge=2)] = 30
    least_events: Annotated[int, msgspec.Meta(ge=1)] = 200


class Rules(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """All of them."""

    rules: list[Rule]


class Served(NamedTuple):
    """What serves: its version, up to when its snapshot goes, and the version that served before."""

    model_version: str
    cutoff: datetime
    before: str | None


class Found(NamedTuple):
    """What a rule found: whether it is so, in words, and the numbers."""

    rule: Rule
    holds: bool
    explanation: str
    evidence: dict[str, Any]


def read_rules(path: Path | None = None) -> list[Rule]:
    """The rules of a file, or the package's own.

    Raises:
        ConfigurationError: the file is missing or wrong; names the key.
    """
    try:
        text = path.read_bytes() if path else resources.files(__package__).joinpath(_DEFAULT).read_bytes()
        return msgspec.toml.decode(text, type=Rules).rules
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{path or _DEFAULT} cannot be read as rules of what to watch: {error}") from error


def judge(connection: Connection, rules: list[Rule], served: Served, experiment: Experiment | None) -> list[Found]:
    """What each rule that can be judged finds now.

    Args:
        connection: to the warehouse, whose outcomes were counted.
        served: what serves; experiment: whose arms the endpoints divide visitors into, if any.
    """
    whole = shown_between(connection)
    if whole is None:
        return []
    watch = _Watch(connection, served, experiment, whole.end)
    looks: dict[str, Callable[[Rule], Found | None]] = {
        "arm": watch.arm,
        "falls": watch.falls,
        "drift": watch.drift,
        "sample_ratio": watch.sample_ratio,
        "quarantine": watch.quarantine,
    }
    return [found for rule in rules if (found := looks[rule.what](rule)) is not None]


def shown_between(connection: Connection, model_version: str = ALL) -> Interval | None:
    """From when until just after when a version, or any, showed something to shoppers; None if it never did."""
    row = connection.execute(statement("monitoring/serving_period"), {"model_version": model_version}).one()
    return None if row.last_time is None else Interval(row.first_time, row.last_time + timedelta(microseconds=1))


def write_alarms(connection: Connection, found: list[Found], served: Served) -> None:
    """Opens an alarm for each rule that holds, or notes that it still does, and closes those that do not."""
    held = [finding for finding in found if finding.holds]
    for finding in held:
        names = {
            "rule": finding.rule.name,
            "model_version": served.model_version,
            "action": finding.rule.then,
            "explanation": finding.explanation,
            "evidence": json.dumps(finding.evidence, default=str),
        }
        connection.execute(statement("monitoring/raise_alarm"), names)
    open_rules = {"rules": [finding.rule.name for finding in held], "model_version": served.model_version}
    connection.execute(statement("monitoring/close_alarms"), open_rules)


class Alarm(NamedTuple):
    """An alarm of the table."""

    alarm_id: int
    rule: str
    model_version: str
    action: str
    explanation: str
    raised_at: datetime
    acted_at: datetime | None


def open_alarms(connection: Connection) -> list[Alarm]:
    """Those that hold, oldest first."""
    return _alarms(connection, "closed_at is null")


def untold_alarms(connection: Connection) -> list[Alarm]:
    """Those that nobody was told of so far, whether they still hold or not, oldest first."""
    return _alarms(connection, "told_at is null")


def _alarms(connection: Connection, which: str) -> list[Alarm]:
    names = ", ".join(Alarm._fields)
    rows = connection.execute(text(f"select {names} from alarms where {which} order by alarm_id"))  # noqa: S608
    return [Alarm(*row) for row in rows]


def note_acted(connection: Connection, alarm_id: int, outcome: str) -> None:
    """Notes what was done about an alarm, after it was done."""
    connection.execute(
        text("update alarms set acted_at = now(), outcome = :outcome where alarm_id = :alarm"),
        {"outcome": outcome, "alarm": alarm_id},
    )


def note_told(connection: Connection, alarm_id: int) -> None:
    """Notes that somebody was told of an alarm, after that was done."""
    connection.execute(
        text("update alarms set told_at = now(), outcome = coalesce(outcome, 'told') where alarm_id = :alarm"),
        {"alarm": alarm_id},
    )


def stability(
    reference: Mapping[str, int], now: Mapping[str, int]
) -> tuple[float, float, list[tuple[str, float, float]]]:
    """The population stability index Σ (q - p) ln(q / p) of shares q now and p before, what of it is chance at most
    (99 %), and which values moved most, with both shares.

    Values beyond the fifty that are most common in either are taken together, and each counts half an event more, so
    that none is impossible. Without a difference the index times nm / (n + m) is about χ² with one degree of freedom
    less than there are values (Yurdakul and Naranjo 2020, "Statistical properties of the population stability index").
    """
    from scipy import stats

    common: dict[str, None] = {}
    for counts in (reference, now):
        common |= dict.fromkeys(sorted(counts, key=lambda value: (-counts[value], value))[:_MOST_VALUES])
    values = [*common, _REST]

    def shares(counts: Mapping[str, int]) -> np.ndarray:
        inside = [counts.get(value, 0) + 0.5 for value in common]
        rest = sum(counts.values()) - sum(counts.get(value, 0) for value in common)
        found = np.asarray([*inside, rest + 0.5])
        found /= found.sum()
        return found

    before, after = shares(reference), shares(now)
    parts = (after - before) * np.log(after / before)
    size, other = sum(reference.values()), sum(now.values())
    chance = float(stats.chi2.ppf(0.99, len(values) - 1)) * (1 / max(size, 1) + 1 / max(other, 1))
    moved = sorted(zip(parts.tolist(), values, before.tolist(), after.tolist(), strict=True), reverse=True)[:_NAMED]
    return float(parts.sum()), chance, [(value, was, now_is) for _, value, was, now_is in moved]


class _Watch:
    """Looks at one moment by one rule after the other."""

    def __init__(self, connection: Connection, served: Served, experiment: Experiment | None, end: datetime) -> None:
        self._connection, self._served, self._experiment, self._end = connection, served, experiment, end
        self._metrics = cache(partial(online_metrics, connection))  # several rules look at the same days

    def arm(self, rule: Rule) -> Found | None:
        """The version that serves against an arm, in the latest days that both were there.

        A version is not taken back where the one before, in an arm of its own in the same days, does no better: then
        the world has changed, and a training from the start is asked for.
        """
        if self._experiment is None:
            return None
        own = self._rate(self._latest(rule), self._served.model_version, self._model_arms)
        other = self._rate_of_arm(rule, rule.arm)
        if other is None or own.visitors < rule.least_visitors:
            return None
        found = self._compared(
            rule, own, other, f"version {self._served.model_version}", f"what is {_CALLED[rule.arm]}"
        )
        before = self._rate_of_arm(rule, PREVIOUS)
        if rule.then != ROLL_BACK or rule.arm == PREVIOUS or before is None or before.value > own.value:
            return found
        words = f"{found.explanation}; but the version before does no better ({before.value:.2%})"
        return found._replace(rule=msgspec.structs.replace(rule, then=RETRAIN), explanation=words)

    def falls(self, rule: Rule) -> Found | None:
        """The latest days against the week before them, in lists that a model made.

        Where the version that serves is new since then, and what is popular did not fall, it is not the world that has
        changed: then the version is taken back.
        """
        latest = self._latest(rule)
        since = f"since {latest.start:%Y-%m-%d %H:%M} UTC"
        now, before = self._now_and_before(latest, self._model_arms)
        if min(now.visitors, before.visitors) < rule.least_visitors:
            return None
        found = self._compared(rule, now, before, since, "the week before")
        shown = shown_between(self._connection, self._served.model_version)
        if not found.holds or self._experiment is None or shown is None or shown.start < latest.start:
            return found
        now, before = self._now_and_before(latest, self._experiment.answering(POPULARITY))
        if min(now.visitors, before.visitors) < rule.least_visitors or Against(now, before).change <= -rule.least:
            return found
        words = (
            f"{found.explanation}; version {self._served.model_version} is new since then, and what is popular did not"
            f" fall ({before.value:.2%} before, now {now.value:.2%})"
        )
        return found._replace(rule=msgspec.structs.replace(rule, then=ROLL_BACK), explanation=words)

    def _now_and_before(self, latest: Interval, arms: list[Arm]) -> tuple[Rate, Rate]:
        """The click-through of some arms in the latest days and in the week before them, by any version."""
        return self._rate(latest, None, arms), self._rate(Interval(latest.start - _WEEK, latest.start), None, arms)

    def drift(self, rule: Rule) -> Found | None:
        """What users did in the latest days, against the time that the version learned from."""
        now = self._latest(rule)
        then = Interval(self._served.cutoff - _REFERENCE, self._served.cutoff)
        if rule.of == "scores":
            shown = shown_between(self._connection, self._served.model_version)
            if shown is None or shown.start + _DAY >= now.start:
                return None
            then = Interval(shown.start, shown.start + _DAY)
        before, after = self._mix(rule.of, then), self._mix(rule.of, now)
        if min(sum(before.values()), sum(after.values())) < rule.least_events:
            return None
        index, chance, moved = stability(before, after)
        title_of = self._titles([value for value, _, _ in moved]) if rule.of == "items" else {}
        named = ", ".join(
            f"{title_of.get(value, value) or 'none'} {was:.1%} to {now_is:.1%}" for value, was, now_is in moved
        )
        words = f"{rule.of} differ by an index of {index:.2f} (chance alone {chance:.2f}); most of it: {named}"
        evidence = {"index": index, "chance": chance, "moved": moved}
        return Found(rule, index > max(rule.least, chance), words, evidence)

    def sample_ratio(self, rule: Rule) -> Found | None:
        """Whether the arms have the visitors they should."""
        if self._experiment is None:
            return None
        for verdict in verdicts(self._connection, self._latest(rule), self._experiment):
            if verdict.experiment == self._experiment.name and verdict.mismatch is not None:
                words = ", ".join(f"{arm} {count:,}" for arm, count in verdict.visitors.items())
                evidence = {"visitors": dict(verdict.visitors), "chance": verdict.mismatch}
                words = f"the arms had {words} visitors (p = {verdict.mismatch:.2g})"
                return Found(rule, verdict.mismatch < MISMATCH, words, evidence)
        return None

    def quarantine(self, rule: Rule) -> Found | None:
        """How much of the latest feedback was refused."""
        row = self._connection.execute(statement("monitoring/quarantined_feedback")).one()
        if not row.read_rows:
            return None
        share = int(row.refused_rows) / int(row.read_rows)
        words = f"{row.refused_rows:,} of {row.read_rows:,} rows of feedback were refused"
        return Found(rule, share > rule.least, words, {"share": share})

    def _latest(self, rule: Rule) -> Interval:
        return Interval(self._end - rule.days * _DAY, self._end)

    @property
    def _model_arms(self) -> list[Arm]:
        if self._experiment is None:
            return [Arm(ALL, 1.0)]
        return self._experiment.answering(MODEL)

    def _rate(self, between: Interval, version: str | None, arms: list[Arm]) -> Rate:
        """The click-through of recommendations of some arms, by one version or by any."""
        metrics = self._metrics(between, version is not None)
        experiment = ALL if self._experiment is None else self._experiment.name
        wanted = [Shown(RECOMMENDATIONS, version or ALL, experiment, arm.name) for arm in arms]
        found = [metrics[shown].sums for shown in wanted if shown in metrics]
        return Figures.together(found).rates[CLICK_THROUGH] if found else Rate(0.0, 0.0, 0.0, 0)

    def _rate_of_arm(self, rule: Rule, answers: Answers) -> Rate | None:
        """The click-through of the arms that answer in a way, in the latest days; None if too few saw them."""
        version = self._served.before if answers == PREVIOUS else self._served.model_version
        arms = self._experiment.answering(answers) if self._experiment else []
        if not arms or version is None:
            return None
        found = self._rate(self._latest(rule), version, arms)
        return found if found.visitors >= rule.least_visitors else None

    def _compared(self, rule: Rule, own: Rate, other: Rate, whose: str, others: str) -> Found:
        found = Against(own, other)
        words = f"click-through {whose} {own}, {others} {other}: {found.change:+.0%} (p = {found.chance:.2g})"
        evidence = {"own": own._asdict(), "other": other._asdict(), "change": found.change, "chance": found.chance}
        return Found(rule, found.change < -rule.least and found.chance < 1 - rule.confidence, words, evidence)

    def _titles(self, item_ids: list[str]) -> dict[str, str]:
        rows = self._connection.execute(
            text("select item_id, title from items where item_id = any(:ids) and title <> ''"), {"ids": item_ids}
        )
        return {row.item_id: f"{row.title} ({row.item_id})" for row in rows}

    def _mix(self, of: str, between: Interval) -> dict[str, int]:
        if of == "scores":
            names = {**between.bounds, "model_version": self._served.model_version}
            rows = self._connection.execute(statement("monitoring/score_distribution"), names)
        else:
            names = {**between.bounds, "of": of, "event_type": PURCHASE}
            rows = self._connection.execute(statement("monitoring/value_shares"), names)
        return {str(row.value): int(row.events) for row in rows}
