"""Results of all experiments as of the last attribution, in the warehouse: a page that shows them reads one row.

They are as of `computed_at`: data that is removed later counts until the next attribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import msgspec
from sqlalchemy import Connection, text

from recsys_tasks.experiments.definition import Experiment
from recsys_tasks.experiments.online_metrics import CLICK_THROUGH, Rate
from recsys_tasks.experiments.verdicts import load_arm_metrics, load_experiment_results
from recsys_tasks.interval import Interval
from recsys_tasks.warehouse import statement

MIN_VISITORS = 10  # of a day, to be shown
_MAX_DAYS = 60
_LOCK_KEY = 5_260_114


class ExperimentSummary(msgspec.Struct, frozen=True):
    """Result of an experiment: number of visitors by arm, and the verdict as lines of text."""

    experiment: str
    control_arm: str
    visitors: dict[str, int]
    lines: list[str]


class DailyRate(msgspec.Struct, frozen=True):
    """CTR of recommendations of one arm on one day, with its 95 % interval; `high` is null for a single visitor."""

    day: date
    experiment: str
    arm: str
    value: float
    low: float
    high: float | None
    visitors: int

    @property
    def rate(self) -> Rate:
        """The rate; without an upper bound, it is infinite."""
        return Rate(self.value, self.low, math.inf if self.high is None else self.high, self.visitors)


class StoredResults(msgspec.Struct, frozen=True):
    """Results of all experiments.

    Attributes:
        start, end: period of the lists.
        experiments: every experiment with visitors.
        days: the shown days, also those without lists.
        rates: CTR by day and arm.
        computed_at: time of the computation.
        definition: of the experiment that was configured.
        attributed: up to which change of the warehouse each day was counted.
    """

    start: datetime
    end: datetime
    experiments: list[ExperimentSummary]
    days: list[date]
    rates: list[DailyRate]
    computed_at: datetime
    definition: str = ""
    attributed: dict[date, int] = {}


def update_results(
    connection: Connection, load_period: Callable[[Connection], Interval | None], configured: Experiment | None
) -> None:
    """Stores the results of all impressions, unless no day was attributed since they were stored.

    Concurrent callers wait for each other.

    Args:
        load_period: returns the period with impressions; None deletes the results.
        configured: the running experiment, whose shares are known.
    """
    connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK_KEY})
    # Before the outcomes: a day that another process attributes meanwhile is computed again by the next call.
    attributed = {
        row.day: int(row.as_of_change) for row in connection.execute(text("select day, as_of_change from outcome_days"))
    }
    earlier, definition = read_results(connection), repr(configured)
    period = load_period(connection)
    if period is None:
        connection.execute(text("delete from experiment_results"))
        return
    known = {} if earlier is None else earlier.attributed
    changed = {day for day in attributed.keys() | known.keys() if attributed.get(day) != known.get(day)}
    if earlier is not None and not changed and earlier.definition == definition:
        return
    days = find_shown_days(connection, period)
    kept = set() if earlier is None else {day for day in earlier.days if day in days and day not in changed}
    rates = [] if earlier is None else [rate for rate in earlier.rates if rate.day in kept]
    rates += [rate for day in days if day not in kept for rate in load_daily_rates(connection, day)]
    rates.sort(key=lambda rate: rate.day)
    found = load_experiment_results(connection, period, configured)
    summaries = [
        ExperimentSummary(one.experiment, one.control_arm, dict(one.visitors), one.summary_lines()) for one in found
    ]
    now = datetime.now(UTC)
    results = StoredResults(period.start, period.end, summaries, days, rates, now, definition, attributed)
    connection.execute(
        statement("experiments/write_results"),
        {"computed_at": now, "results": msgspec.json.encode(results).decode()},
    )


def find_shown_days(connection: Connection, period: Interval) -> list[date]:
    """Returns the days from the first to the last one with enough visitors, at most 60. One wrong time does not stretch
    them; without such days, all of the period."""
    found = connection.scalars(statement("experiments/shown_days"), {"min_visitors": MIN_VISITORS}).all()
    last, first = (found[0], found[-1]) if found else (period.end.date(), period.start.date())
    first = max(first, last - timedelta(days=_MAX_DAYS))
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def load_daily_rates(connection: Connection, day: date) -> list[DailyRate]:
    """Returns the CTR of recommendations of every arm on a day, from the outcomes."""
    rates = []
    for (experiment, arm), metrics in load_arm_metrics(connection, Interval.of_day(day)).items():
        rate = metrics.rates[CLICK_THROUGH]
        high = rate.high if math.isfinite(rate.high) else None
        rates.append(DailyRate(day, experiment, arm, rate.value, rate.low, high, rate.visitors))
    return rates


def read_results(connection: Connection) -> StoredResults | None:
    """Returns the stored results; None if no attribution has stored any."""
    row = connection.execute(text("select results from experiment_results")).one_or_none()
    return None if row is None else msgspec.json.decode(msgspec.json.encode(row.results), type=StoredResults)
