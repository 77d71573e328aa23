"""Intervals of the difference of two arms, plain and adjusted for earlier behavior.

    python benchmarks/variance_reduction.py

Simulated visitors have rates of their own, with a standard deviation as large as the mean. Some have lists in the four
weeks before the experiment. In A/A experiments the arms do not differ, in A/B experiments by 30 %.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.report import host_info, print_table, write_json
from recsys_tasks.experiments.online_metrics import RateComparison, estimate_rate
from recsys_tasks.experiments.variance_reduction import PRIOR_IMPRESSIONS, Stratum, adjusted_rates

_EFFECT = 0.3
_Z = 1.959963984540054


def main() -> None:
    """Prints the widths and the coverage of the intervals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--visitors", type=int, default=2_000)
    parser.add_argument("--json")
    args = parser.parse_args()
    rows: list[dict[str, object]] = []
    for returning in (0.3, 0.6, 1.0):
        for impressions in (60, 240):
            row: dict[str, object] = {"returning visitors": f"{returning:.0%}", "impressions of a visitor": impressions}
            for name, effect in (("A/A", 0.0), ("A/B", _EFFECT)):
                found = [
                    SimulatedExperiment(seed, effect, args.visitors, returning, impressions)
                    for seed in range(args.rounds)
                ]
                widths = [one.error(one.adjusted()) / one.error(one.plain()) for one in found]
                row[f"width, {name}"] = f"{np.mean(widths):.2f}"
                row[f"coverage, {name}"] = f"{np.mean([one.is_covered(one.adjusted()) for one in found]):.1%}"
            rows.append(row)
    host = host_info("numpy")
    print_table(f"Adjusted to plain intervals, {args.rounds} experiments of {args.visitors:,} visitors", rows, host)
    write_json(args.json, {"rows": rows, "machine": host})


class SimulatedExperiment:
    """Visitors of two arms, and what they clicked before and during an experiment.

    Args:
        seed: of the draws.
        effect: relative effect of the second arm on every visitor's rate.
        visitors: their number.
        returning: share of the visitors who have earlier lists; the others click half as often.
        impressions: mean number of a visitor's impressions, before and during the experiment.
    """

    def __init__(
        self, seed: int, effect: float, visitors: int = 1_500, returning: float = 0.6, impressions: float = 60.0
    ) -> None:
        random = np.random.default_rng(seed)
        self.returning = random.random(visitors) < returning
        rate = random.beta(1, 15, visitors) * np.where(self.returning, 1.0, 0.5)
        before, during = (5 * random.geometric(5 / impressions, visitors) for _ in range(2))
        self.arm = random.integers(0, 2, visitors)
        chance = np.minimum(rate * np.where(self.arm == 1, 1 + effect, 1.0), 1.0)
        self.clicks, self.shown = random.binomial(during, chance).astype(float), during.astype(float)
        clicks_before = random.binomial(before, rate)
        mean = clicks_before[self.returning].sum() / max(before[self.returning].sum(), 1)
        smoothed = (clicks_before + PRIOR_IMPRESSIONS * mean) / (before + PRIOR_IMPRESSIONS)
        self.earlier = np.where(self.returning, smoothed, 0.0)
        self.difference = effect * float(np.average(rate, weights=during))

    def adjusted(self) -> RateComparison:
        """Returns the adjusted rates."""
        arms = {}
        for arm in (0, 1):
            of_kind = {kind: (self.arm == arm) & (self.returning == kind) for kind in (False, True)}
            arms[str(arm)] = {str(kind): self._stratum(chosen) for kind, chosen in of_kind.items() if chosen.any()}
        rates = adjusted_rates(arms)
        return RateComparison(rates["1"], rates["0"])

    def plain(self) -> RateComparison:
        """Returns the plain rates."""
        rates = [
            estimate_rate(plain_sums(self.clicks[self.arm == arm], self.shown[self.arm == arm]), "clicks", "shown")
            for arm in (1, 0)
        ]
        return RateComparison(*rates)

    def error(self, found: RateComparison) -> float:
        """Returns the standard error of the difference of two rates."""
        return float(np.hypot(found.rate.standard_error, found.baseline.standard_error))

    def is_covered(self, found: RateComparison) -> bool:
        """Whether the 95 % interval of the difference has the true difference."""
        return abs(found.rate.value - found.baseline.value - self.difference) <= _Z * self.error(found)

    def _stratum(self, chosen: np.ndarray) -> Stratum:
        return stratum(self.clicks[chosen], self.shown[chosen], self.earlier[chosen])


def stratum(clicks: np.ndarray, shown: np.ndarray, earlier: np.ndarray) -> Stratum:
    """Returns the sums of visitors, from their clicks, impressions and earlier rates."""
    c, n, x = (np.asarray(column, float) for column in (clicks, shown, earlier))
    return Stratum(len(c), *(float(v.sum()) for v in (c, n, x, c * c, n * n, c * n, x * x, x * c, x * n)))


def plain_sums(clicks: np.ndarray, shown: np.ndarray) -> dict[str, float]:
    """Returns the sums of visitors that a plain rate is estimated from."""
    return {
        "visitors": len(clicks),
        "clicks": clicks.sum(),
        "shown": shown.sum(),
        "clicks_squared": (clicks**2).sum(),
        "shown_squared": (shown**2).sum(),
        "clicks_shown": (clicks * shown).sum(),
    }


if __name__ == "__main__":
    main()
