"""Online metrics: rates of what was acted on, with intervals in which visitors, not clicks, are what varies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, text

from recsys_tasks.experiments.sequential_tests import always_valid
from recsys_tasks.interval import Interval
from recsys_tasks.warehouse import statement

CLICK_THROUGH: Final = "click_through"
ADD_TO_CART: Final = "add_to_cart"
CONVERSION: Final = "conversion"
REVENUE: Final = "revenue_per_session"
COVERAGE: Final = "coverage"
LATENCY: Final = ("latency_p50_ms", "latency_p99_ms")
# What each rate is of what, in the columns of `sql/reports/online_metrics.sql`.
RATES: Final = {
    CLICK_THROUGH: ("clicks", "shown"),
    ADD_TO_CART: ("carts", "shown"),
    CONVERSION: ("buys", "sessions"),
    REVENUE: ("revenue", "sessions"),
}
ALL: Final = ""
_Z = 1.959963984540054  # two-sided 95 %
_CERTAIN = 0.05


class Rate(NamedTuple):
    """A rate with its 95 % interval, of how many visitors; in words as `2.29% (2.02% to 2.56%)`."""

    value: float
    low: float
    high: float
    visitors: int

    @property
    def error(self) -> float:
        """Its standard error; the lower end of the interval may have been cut off at nothing."""
        return (self.high - self.value) / _Z

    def __str__(self) -> str:
        return f"{self.value:.2%} ({self.low:.2%} to {self.high:.2%})"


class Against(NamedTuple):
    """A rate against another one, by a test that may be looked at again and again."""

    own: Rate
    other: Rate

    @property
    def change(self) -> float:
        """How much above the other one, as a share of it."""
        return self.own.value / self.other.value - 1 if self.other.value else 0.0

    @property
    def chance(self) -> float:
        """An always-valid p-value of their difference."""
        variance = self.own.error**2 + self.other.error**2
        return always_valid(self.own.value - self.other.value, variance, self.other.value)

    @property
    def certain(self) -> bool:
        """Whether they differ, at 95 % confidence."""
        return self.chance < _CERTAIN


class Shown(NamedTuple):
    """Whose lists, to whom: a kind of list, a model version, an arm of an experiment, a segment; '' is for all or
    none."""

    list: str
    model_version: str
    experiment: str
    arm: str
    segment: str = ALL


class Figures(NamedTuple):
    """What came of them: sums over visitors, and rates."""

    sums: Mapping[str, float]
    rates: Mapping[str, Rate]

    @classmethod
    def of(cls, sums: Mapping[str, float]) -> Figures:
        """With all rates of sums."""
        return cls(sums, {metric: rate(sums, *parts) for metric, parts in RATES.items()})

    @classmethod
    def together(cls, parts: Sequence[Mapping[str, float]]) -> Figures:
        """Of sums over different visitors, added up."""
        return cls.of({name: sum(part[name] for part in parts) for name in parts[0]})

    @property
    def visitors(self) -> int:
        """To how many it was shown."""
        return int(self.sums["visitors"])


def rate(sums: Mapping[str, float], of: str, base: str) -> Rate:
    """The ratio of two sums over visitors, with a 95 % interval by the variance of a ratio of cluster totals.

    var(R) ≈ m / (m - 1) · Σ (cᵢ - R nᵢ)² / (Σ nᵢ)² for m visitors with totals cᵢ and nᵢ (Cochran, Sampling
    Techniques, 1977, 6.4).
    """
    visitors, total = int(sums["visitors"]), sums[base]
    if not total:
        return Rate(0.0, 0.0, 0.0, visitors)
    value = sums[of] / total
    squares = (
        sums[f"{of}_squared"] - 2 * value * sums[f"{of}_{base}"] + value**2 * sums[f"{base}_squared"]
        if visitors > 1
        else math.inf
    )
    error = math.sqrt(max(squares, 0.0) * visitors / max(visitors - 1, 1)) / total
    return Rate(value, max(value - _Z * error, 0.0), value + _Z * error, visitors)


def online_metrics(connection: Connection, between: Interval, by_version: bool = True) -> dict[Shown, Figures]:
    """What came of what was shown in some time, without machines and internal traffic; of each model version, or of all
    of them together."""
    names = {**between.bounds, "by_version": by_version}
    found = {}
    for row in connection.execute(statement("experiments/online_metrics"), names):
        columns = dict(row._mapping)
        shown = Shown(*(str(columns.pop(name)) for name in Shown._fields))
        sums = {name: float(value or 0) for name, value in columns.items()}
        found[shown] = Figures.of(sums)
    return found


def latest_figures(connection: Connection) -> dict[tuple[str, str, str], float]:
    """Latency and coverage of the latest day that has them, by model version, arm ('' for all) and metric."""
    rows = connection.execute(statement("experiments/latest_online_metrics"), {"metrics": [COVERAGE, *LATENCY]})
    return {(row.model_version, row.arm, row.metric): float(row.value) for row in rows}


def write_metrics(connection: Connection, day: date, empty: bool = False) -> None:
    """Writes the figures of a day to `online_metrics`, in place of those that are there."""
    connection.execute(text("delete from online_metrics where day = :day"), {"day": day})
    rows = [] if empty else list(_rows(connection, day))
    if rows:
        columns = list(rows[0])
        names, values = ", ".join(columns), ", ".join(f":{name}" for name in columns)
        connection.execute(text(f"insert into online_metrics ({names}) values ({values})"), rows)  # noqa: S608


def _rows(connection: Connection, day: date) -> Iterator[dict[str, Any]]:
    between = Interval.of_day(day)
    for shown, figures in online_metrics(connection, between).items():
        for metric, found in figures.rates.items():
            yield {"day": day, **shown._asdict(), "metric": metric, **_finite(found)}
    for row in connection.execute(statement("experiments/online_latency"), between.bounds):
        shown = Shown(row.list, row.model_version, row.experiment, row.arm)
        for metric, value in zip(LATENCY, (row.p50, row.p99), strict=True):
            yield {"day": day, **shown._asdict(), "metric": metric, **_alone(value, row.requests)}
    for row in connection.execute(statement("experiments/online_coverage"), between.bounds):
        shown = Shown(ALL, row.model_version, ALL, ALL)
        yield {"day": day, **shown._asdict(), "metric": COVERAGE, **_alone(row.coverage, 0)}


def _finite(found: Rate) -> dict[str, Any]:
    """A rate's columns; of a single visitor there is no interval."""
    high = found.high if math.isfinite(found.high) else None
    return {**found._asdict(), "low": found.low if high is not None else None, "high": high}


def _alone(value: float, visitors: int) -> dict[str, Any]:
    return {"value": value, "low": None, "high": None, "visitors": visitors}
