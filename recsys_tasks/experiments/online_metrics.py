"""Online metrics of impressions: CTR and other rates with 95 % confidence intervals, clustered by visitor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, text

from recsys_tasks.experiments.definition import HOLDOUT
from recsys_tasks.experiments.sequential_tests import always_valid_p_value
from recsys_tasks.interval import Interval
from recsys_tasks.warehouse import statement

CLICK_THROUGH: Final = "click_through"
ADD_TO_CART: Final = "add_to_cart"
CONVERSION: Final = "conversion"
REVENUE: Final = "revenue_per_session"
COVERAGE: Final = "coverage"
LATENCY: Final = ("latency_p50_ms", "latency_p99_ms")
# Numerator and denominator of each rate: columns of `sql/experiments/online_metrics.sql`.
RATES: Final = {
    CLICK_THROUGH: ("clicks", "shown"),
    ADD_TO_CART: ("carts", "shown"),
    CONVERSION: ("buys", "sessions"),
    REVENUE: ("revenue", "sessions"),
}
ALL: Final = ""
_Z = 1.959963984540054  # two-sided 95 %
SIGNIFICANCE_LEVEL: Final = 0.05


class Rate(NamedTuple):
    """A rate with its 95 % confidence interval and number of visitors; printed as `2.29% (2.02% to 2.56%)`."""

    value: float
    low: float
    high: float
    visitors: int

    @property
    def standard_error(self) -> float:
        """Standard error, from the upper bound: the lower one may be clipped at zero."""
        return (self.high - self.value) / _Z

    def __str__(self) -> str:
        return f"{self.value:.2%} ({self.low:.2%} to {self.high:.2%})"


class RateComparison(NamedTuple):
    """A rate compared with a baseline rate by a sequential test, valid under continuous monitoring.

    The p-value does not depend on which of the two is the baseline.
    """

    rate: Rate
    baseline: Rate

    @property
    def relative_change(self) -> float:
        """Difference to the baseline as a share of the baseline."""
        return self.rate.value / self.baseline.value - 1 if self.baseline.value else 0.0

    @property
    def is_higher(self) -> bool:
        """Whether the rate is above the baseline."""
        return self.rate.value > self.baseline.value

    @property
    def p_value(self) -> float:
        """Always-valid p-value of the difference."""
        variance = _variance(self.rate, self.baseline) + _variance(self.baseline, self.rate)
        return always_valid_p_value(
            self.rate.value - self.baseline.value, variance, (self.rate.value + self.baseline.value) / 2
        )


def _variance(rate: Rate, other: Rate) -> float:
    """Returns the variance of a rate.

    A rate of 0 has an estimated variance of 0, however few visitors it has. It gets the variance of the other rate
    instead, scaled to its own number of visitors.
    """
    if rate.value == 0:
        return other.standard_error**2 * other.visitors / max(rate.visitors, 1)
    return rate.standard_error**2


class MetricKey(NamedTuple):
    """Grain of online metrics: kind of list, model version, experiment, arm and segment; '' stands for all or none."""

    list: str
    model_version: str
    experiment: str
    arm: str
    segment: str = ALL


class OnlineMetrics(NamedTuple):
    """Sums over visitors, and the rates computed from them."""

    sums: Mapping[str, float]
    rates: Mapping[str, Rate]

    @classmethod
    def from_sums(cls, sums: Mapping[str, float]) -> OnlineMetrics:
        """Computes all rates of the sums."""
        return cls(sums, {metric: estimate_rate(sums, *columns) for metric, columns in RATES.items()})

    @classmethod
    def combine(cls, parts: Sequence[Mapping[str, float]]) -> OnlineMetrics:
        """Adds up sums over disjoint groups of visitors."""
        return cls.from_sums({name: sum(part[name] for part in parts) for name in parts[0]})

    @property
    def visitors(self) -> int:
        """Number of visitors with impressions."""
        return int(self.sums["visitors"])


def estimate_rate(sums: Mapping[str, float], numerator: str, denominator: str) -> Rate:
    """Returns the ratio of two sums over visitors, with a 95 % interval by the variance of a ratio of cluster totals.

    var(R) ≈ m / (m - 1) · Σ (cᵢ - R nᵢ)² / (Σ nᵢ)² for m visitors with totals cᵢ and nᵢ (Cochran, Sampling
    Techniques, 1977, 6.4).
    """
    visitors, total = int(sums["visitors"]), sums[denominator]
    if not total:
        return Rate(0.0, 0.0, 0.0, visitors)
    value = sums[numerator] / total
    squares = (
        sums[f"{numerator}_squared"]
        - 2 * value * sums[f"{numerator}_{denominator}"]
        + value**2 * sums[f"{denominator}_squared"]
        if visitors > 1
        else math.inf
    )
    return rate_with_error(value, math.sqrt(max(squares, 0.0) * visitors / max(visitors - 1, 1)) / total, visitors)


def rate_with_error(value: float, error: float, visitors: int) -> Rate:
    """Returns a rate with the 95 % interval of its standard error."""
    return Rate(value, max(value - _Z * error, 0.0), value + _Z * error, visitors)


def load_online_metrics(
    connection: Connection, between: Interval, by_version: bool = True, by_experiment: bool = True
) -> dict[MetricKey, OnlineMetrics]:
    """Returns the metrics of an interval, without bots and internal traffic.

    Args:
        connection: to the warehouse.
        between: the interval.
        by_version: by model version, or over all versions.
        by_experiment: by experiment and arm, or over all experiments: the holdout's visitors, and all others as arm ''.
    """
    parameters = {**between.bounds, "by_version": by_version, "by_experiment": by_experiment, "holdout": HOLDOUT}
    metrics = {}
    for row in connection.execute(statement("experiments/online_metrics"), parameters):
        columns = dict(row._mapping)
        key = MetricKey(*(str(columns.pop(name)) for name in MetricKey._fields))
        metrics[key] = OnlineMetrics.from_sums({name: float(value or 0) for name, value in columns.items()})
    return metrics


def load_latest_metrics(connection: Connection) -> dict[tuple[str, str, str], float]:
    """Returns latency and coverage of the latest day that has them, by model version, arm ('' for all) and metric."""
    rows = connection.execute(statement("experiments/latest_online_metrics"), {"metrics": [COVERAGE, *LATENCY]})
    return {(row.model_version, row.arm, row.metric): float(row.value) for row in rows}


def write_metrics(connection: Connection, day: date, empty: bool = False) -> None:
    """Replaces a day's rows of the online_metrics table; with `empty`, only deletes them."""
    connection.execute(text("delete from online_metrics where day = :day"), {"day": day})
    rows = [] if empty else list(_metric_rows(connection, day))
    if rows:
        columns = list(rows[0])
        names, values = ", ".join(columns), ", ".join(f":{name}" for name in columns)
        connection.execute(text(f"insert into online_metrics ({names}) values ({values})"), rows)  # noqa: S608


def _metric_rows(connection: Connection, day: date) -> Iterator[dict[str, Any]]:
    between = Interval.of_day(day)
    for key, metrics in load_online_metrics(connection, between).items():
        for metric, rate in metrics.rates.items():
            yield {"day": day, **key._asdict(), "metric": metric, **_rate_columns(rate)}
    for row in connection.execute(statement("experiments/online_latency"), between.bounds):
        key = MetricKey(row.list, row.model_version, row.experiment, row.arm)
        for metric, value in zip(LATENCY, (row.p50, row.p99), strict=True):
            yield {"day": day, **key._asdict(), "metric": metric, **_value_columns(value, row.requests)}
    for row in connection.execute(statement("experiments/online_coverage"), between.bounds):
        key = MetricKey(ALL, row.model_version, ALL, ALL)
        yield {"day": day, **key._asdict(), "metric": COVERAGE, **_value_columns(row.coverage, 0)}


def _rate_columns(rate: Rate) -> dict[str, Any]:
    """Columns of a rate; a single visitor gives no interval."""
    high = rate.high if math.isfinite(rate.high) else None
    return {**rate._asdict(), "low": rate.low if high is not None else None, "high": high}


def _value_columns(value: float, visitors: int) -> dict[str, Any]:
    """Columns of a value without an interval."""
    return {"value": value, "low": None, "high": None, "visitors": visitors}
