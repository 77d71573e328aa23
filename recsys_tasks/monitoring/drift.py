"""The population stability index (PSI): how far a distribution has moved from a reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

_MAX_VALUES = 50
_OTHERS = "all others"
_NUM_NAMED = 3


class Drift(NamedTuple):
    """A PSI, and what it consists of.

    Attributes:
        psi: the index.
        noise: the 99 % quantile of the PSI of two samples of these sizes from one distribution.
        moved: the values that contribute most, with their shares in the reference and now.
    """

    psi: float
    noise: float
    moved: list[tuple[str, float, float]]


def population_stability_index(reference: Mapping[str, int], current: Mapping[str, int]) -> Drift:
    """Returns the PSI Σ (q - p) ln(q / p) of the shares q now and p in the reference, from counts by value.

    The fifty most common values of either are compared, and the rest as one. Each count is raised by one half, so that
    no share is zero. For samples of sizes n and m of one distribution, PSI · nm / (n + m) is about χ² with one degree
    of freedom less than there are values (Yurdakul and Naranjo 2020, "Statistical properties of the population
    stability index").
    """
    from scipy import stats

    common: dict[str, None] = {}
    for counts in (reference, current):
        common |= dict.fromkeys(sorted(counts, key=lambda value: (-counts[value], value))[:_MAX_VALUES])
    values = [*common, _OTHERS]

    def shares(counts: Mapping[str, int]) -> np.ndarray:
        named = [counts.get(value, 0) + 0.5 for value in common]
        rest = sum(counts.values()) - sum(counts.get(value, 0) for value in common)
        smoothed = np.asarray([*named, rest + 0.5])
        smoothed /= smoothed.sum()
        return smoothed

    before, after = shares(reference), shares(current)
    terms = (after - before) * np.log(after / before)
    size, other_size = sum(reference.values()), sum(current.values())
    quantile = float(stats.chi2.ppf(0.99, len(values) - 1))
    noise = quantile * (1 / max(size, 1) + 1 / max(other_size, 1))
    ranked = sorted(zip(terms.tolist(), values, before.tolist(), after.tolist(), strict=True), reverse=True)
    return Drift(float(terms.sum()), noise, [(value, was, now) for _, value, was, now in ranked[:_NUM_NAMED]])
