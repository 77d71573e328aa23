"""Results of online experiments: sample ratio mismatch, comparisons of arms, preferences, cost of exploration."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection

from recsys_tasks.experiments.definition import HOLDOUT, LONG_TERM_HOLDOUT, Experiment
from recsys_tasks.experiments.off_policy import Estimate, LoggedImpressions, estimate_snips
from recsys_tasks.experiments.online_metrics import (
    ALL,
    CLICK_THROUGH,
    SIGNIFICANCE_LEVEL,
    OnlineMetrics,
    Rate,
    RateComparison,
    load_online_metrics,
)
from recsys_tasks.experiments.sequential_tests import Preference, sample_ratio_p_value
from recsys_tasks.experiments.variance_reduction import load_adjusted_rates
from recsys_tasks.interval import Interval
from recsys_tasks.names import RECOMMENDATIONS
from recsys_tasks.warehouse import statement

EVERYBODY_ELSE = "everybody else"
SRM_P_VALUE_THRESHOLD = 0.001
_MIN_GREEDY_PROPENSITY = 0.5  # exploration draws the best remaining item with at least this probability


class ArmComparison(NamedTuple):
    """The click-through rate of an arm compared with the control arm, adjusted unless one is the holdout.

    Attributes:
        arm: the arm.
        comparison: its rate and that of the control arm.
        num_comparisons: number of arms that are compared with the control arm; a difference is significant at 95 % for
            all of them together (Bonferroni).
    """

    arm: str
    comparison: RateComparison
    num_comparisons: int

    @property
    def is_significant(self) -> bool:
        """Whether the rates differ at 95 % confidence, over all comparisons of the experiment."""
        return self.comparison.p_value < self._threshold

    @property
    def _threshold(self) -> float:
        return SIGNIFICANCE_LEVEL / self.num_comparisons

    def __str__(self) -> str:
        """One line of text."""
        found = self.comparison
        words = f"{self.arm}: {found.rate} against {found.baseline}"
        words += f", {found.relative_change:+.0%}" if found.baseline.value else ""
        needed = f", threshold {self._threshold:.2g} for {self.num_comparisons} comparisons"
        needed = needed if self.num_comparisons > 1 else ""
        if self.is_significant:
            direction = "higher" if found.is_higher else "lower"
            return f"{words}; significantly {direction} (p = {found.p_value:.3g}{needed})"
        return f"{words}; not significant yet (p = {found.p_value:.2f}{needed})"


class ExperimentResult(NamedTuple):
    """The result of an experiment so far.

    Attributes:
        experiment: its name.
        control_arm: the arm that the others are compared with.
        visitors: number of visitors by arm.
        srm_p_value: p-value of the sample ratio test, None where the configured shares are unknown.
        comparisons: every other arm with the control arm.
        preferences: of interleaving arms, by arm and the two teams.
    """

    experiment: str
    control_arm: str
    visitors: Mapping[str, int]
    srm_p_value: float | None
    comparisons: list[ArmComparison]
    preferences: Mapping[tuple[str, str, str], Preference]

    @property
    def has_expected_sample_ratio(self) -> bool:
        """Whether no sample ratio mismatch was found."""
        return self.srm_p_value is None or self.srm_p_value >= SRM_P_VALUE_THRESHOLD

    def summary_lines(self) -> list[str]:
        """Returns the result as lines of text."""
        lines = []
        if not self.has_expected_sample_ratio:
            counts = ", ".join(f"{arm} {count:,}" for arm, count in self.visitors.items())
            lines.append(
                f"Sample ratio mismatch ({counts}; p = {self.srm_p_value:.2g}): some arms lose visitors before they are"
                " counted. Ignore all comparisons until the cause is fixed"
            )
        lines += [str(comparison) for comparison in self.comparisons]
        for (arm, one, other), preference in self.preferences.items():
            decided = preference.first + preference.other
            words = f"{arm}: {preference.share:.0%} of {decided:,} visitors clicked more of {one} than of {other}"
            lines.append(f"{words} (p = {preference.p_value:.2g})")
        return lines


def load_experiment_results(
    connection: Connection, between: Interval, configured: Experiment | None = None
) -> list[ExperimentResult]:
    """Returns the result of every experiment with visitors in an interval.

    Args:
        configured: the running experiment, whose shares are known.
    """
    counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for name, arm, visitors in _load_visitors(connection, between):
        counts[name][arm] = visitors
    rates = _load_rates(connection, between)
    preferences = _load_preferences(connection, between)
    found = [_result(name, visitors, rates, preferences, configured) for name, visitors in counts.items()]
    holdout = _load_holdout_result(connection, between)
    return found if holdout is None else [*found, holdout]


class _ArmRates(NamedTuple):
    """CTR by experiment and arm: plain, and adjusted for what visitors did before the experiment."""

    plain: Mapping[tuple[str, str], Rate]
    adjusted: Mapping[tuple[str, str], Rate]

    def compare(self, experiment: str, arm: str, control: str) -> RateComparison | None:
        """The adjusted rates of two arms, the plain ones beside the holdout, whose earlier lists it changed, too; None
        without lists."""
        rates = self.plain if HOLDOUT in (arm, control) else self.adjusted
        own, baseline = rates.get((experiment, arm)), rates.get((experiment, control))
        return None if own is None or baseline is None else RateComparison(own, baseline)


def _load_rates(connection: Connection, between: Interval) -> _ArmRates:
    metrics = load_arm_metrics(connection, between)
    plain = {key: of_arm.rates[CLICK_THROUGH] for key, of_arm in metrics.items()}
    return _ArmRates(plain, load_adjusted_rates(connection, between, without={HOLDOUT}))


def _load_holdout_result(connection: Connection, between: Interval) -> ExperimentResult | None:
    """Returns the comparison of all other users in experiments with the holdout's, since its first list."""
    since = connection.scalar(statement("experiments/first_holdout_list"), {**between.bounds, "holdout": HOLDOUT})
    if since is None:
        return None
    metrics = load_arm_metrics(connection, Interval(since, between.end), by_experiment=False)
    rates = {arm: of_arm.rates[CLICK_THROUGH] for (_, arm), of_arm in metrics.items()}
    if HOLDOUT not in rates or ALL not in rates:
        return None
    visitors = {HOLDOUT: rates[HOLDOUT].visitors, EVERYBODY_ELSE: rates[ALL].visitors}
    comparison = ArmComparison(EVERYBODY_ELSE, RateComparison(rates[ALL], rates[HOLDOUT]), 1)
    return ExperimentResult(LONG_TERM_HOLDOUT, HOLDOUT, visitors, None, [comparison], {})


def load_sample_ratio(
    connection: Connection, between: Interval, configured: Experiment
) -> tuple[dict[str, int], float | None]:
    """Returns the number of visitors of the running experiment by arm, and the p-value of the sample ratio test; None
    without visitors."""
    found = {arm: visitors for name, arm, visitors in _load_visitors(connection, between) if name == configured.name}
    counts = {arm: found.get(arm, 0) for arm in configured.shares}
    return counts, sample_ratio_p_value(found, configured.shares) if found else None


def _load_visitors(connection: Connection, between: Interval) -> list[tuple[str, str, int]]:
    rows = connection.execute(statement("experiments/arm_visitors"), between.bounds)
    return [(row.experiment, row.arm, int(row.visitors)) for row in rows]


def load_arm_metrics(
    connection: Connection, between: Interval, by_experiment: bool = True
) -> dict[tuple[str, str], OnlineMetrics]:
    """Returns the metrics of recommendations by experiment and arm, over all model versions and segments.

    For `by_experiment` see `load_online_metrics`.
    """
    return {
        (key.experiment, key.arm): metrics
        for key, metrics in load_online_metrics(connection, between, False, by_experiment).items()
        if key.list == RECOMMENDATIONS and not key.segment
    }


def _result(
    name: str,
    visitors: dict[str, int],
    rates: _ArmRates,
    preferences: Mapping[tuple[str, str, str, str], Preference],
    configured: Experiment | None,
) -> ExperimentResult:
    shares: dict[str, float] = {}
    if configured is not None and configured.name == name:
        shares = configured.shares
    arms = list(shares) or sorted(visitors, key=lambda arm: (arm == HOLDOUT, arm))
    control = arms[0]
    comparisons = []
    for arm in arms[1:]:
        comparison = rates.compare(name, arm, control)
        if comparison is not None:
            comparisons.append(ArmComparison(arm, comparison, len(arms) - 1))
    srm_p_value = sample_ratio_p_value(visitors, shares) if shares else None
    own_preferences = {key[1:]: preference for key, preference in preferences.items() if key[0] == name}
    counts = {arm: visitors.get(arm, 0) for arm in arms}
    return ExperimentResult(name, control, counts, srm_p_value, comparisons, own_preferences)


def _load_preferences(connection: Connection, between: Interval) -> dict[tuple[str, str, str, str], Preference]:
    """Returns the preferences by experiment, arm and the two teams."""
    clicks: defaultdict[tuple[str, str], defaultdict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for row in connection.execute(statement("experiments/interleaving"), between.bounds):
        clicks[row.experiment, row.arm][row.visitor][row.team] += row.clicks
    preferences = {}
    for (experiment, arm), by_visitor in clicks.items():
        teams = sorted({team for counts in by_visitor.values() for team in counts})
        if len(teams) == 1:
            teams.append("the other")
        one, other = teams[:2]
        signs = Counter(np.sign(counts[one] - counts[other]) for counts in by_visitor.values())
        preferences[experiment, arm, one, other] = Preference(signs[1], signs[-1])
    return preferences


class ExplorationCost(NamedTuple):
    """Click rate of positions filled by exploration: observed, and estimated without exploration."""

    observed_rate: float
    without_exploration: Estimate


def estimate_exploration_cost(
    connection: Connection, between: Interval, model_version: str, arms: Iterable[str]
) -> ExplorationCost | None:
    """Returns the cost of exploration in lists of a version and some arms, from the logged propensities.

    None where nothing was explored.
    """
    parameters = {**between.bounds, "model_version": model_version, "arms": list(arms)}
    rows = connection.execute(statement("experiments/explored_impressions"), parameters).all()
    if not rows:
        return None
    reward = np.asarray([row.clicked for row in rows], float)
    propensity = np.asarray([row.propensity for row in rows], float)
    visitor = np.asarray([row.visitor for row in rows])
    greedy = (propensity >= _MIN_GREEDY_PROPENSITY).astype(float)
    logged = LoggedImpressions(reward, propensity, greedy, visitor)
    return ExplorationCost(float(reward.mean()), estimate_snips(logged))
