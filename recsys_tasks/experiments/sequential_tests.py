"""Sequential tests of differences in action rates, valid under continuous monitoring, and the SRM test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from scipy import stats

# The relative change the test is most sensitive to.
_EXPECTED_RELATIVE_CHANGE = 0.2
_NO_PREFERENCE = 0.5


class ActingVisitors(NamedTuple):
    """Number of visitors with impressions of a version or arm (`people`), and how many of them acted (`acting`)."""

    people: int
    acting: int

    @property
    def rate(self) -> float:
        """Share of the visitors who acted."""
        return self.acting / self.people if self.people else 0.0


def always_valid_p_value(difference: float, variance: float, base_rate: float) -> float:
    """Returns the always-valid p-value of a difference from zero: the mixture sequential probability ratio test.

    With a normal mixture of variance τ² over the difference, whose estimate d has variance V,
    p = 1 / (√(V / (V + τ²)) · exp(τ² d² / (2 V (V + τ²)))), at most 1. It stays valid under repeated looks (Johari,
    Koomen, Pekelis and Walsh 2017, "Peeking at A/B Tests").

    Args:
        difference, variance: the estimate and its variance.
        base_rate: the rate that changes are relative to; τ is a fifth of it. Pass the mean of both rates, so that the
            p-value does not depend on their order.
    """
    mixture = (_EXPECTED_RELATIVE_CHANGE * base_rate) ** 2
    if not (variance > 0 and mixture > 0 and math.isfinite(variance)):
        return 1.0
    log_ratio = 0.5 * math.log(variance / (variance + mixture)) + mixture * difference**2 / (
        2 * variance * (variance + mixture)
    )
    return min(1.0, math.exp(-min(log_ratio, 700.0)))


def p_value(champion: ActingVisitors, challenger: ActingVisitors) -> float:
    """Returns the always-valid p-value of the difference of two shares of acting visitors.

    Adds one acting and one inactive visitor to each side, so that no variance is zero.
    """
    arms = (champion, challenger)
    shares = [(arm.acting + 1) / (arm.people + 2) for arm in arms]
    variance = sum(share * (1 - share) / (arm.people + 2) for share, arm in zip(shares, arms, strict=True))
    return always_valid_p_value(shares[1] - shares[0], variance, sum(shares) / 2)


def is_significantly_worse(
    champion: ActingVisitors, challenger: ActingVisitors, confidence: float, min_people: int
) -> bool:
    """Whether the challenger's rate is lower at a confidence; never with fewer than `min_people` on either side."""
    enough = min(champion.people, challenger.people) >= min_people
    return enough and challenger.rate < champion.rate and p_value(champion, challenger) < 1 - confidence


def sample_ratio_p_value(visitors: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """Returns the p-value of a χ² test for sample ratio mismatch (SRM).

    Below 0.001, some arms lose visitors before they are counted, and no comparison of arms is valid (Fabijan et al.
    2019, "Diagnosing Sample Ratio Mismatch in Online Controlled Experiments").

    Args:
        visitors: number of visitors by arm.
        shares: configured share of the visitors by arm.
    """
    total = sum(visitors.get(arm, 0) for arm in shares)
    if not total:
        return 1.0
    expected = [share * total for share in shares.values()]
    result = stats.chisquare([visitors.get(arm, 0) for arm in shares], expected)
    return float(result.pvalue)


class Preference(NamedTuple):
    """Visitors of interleaved lists who clicked more items of the first team, and more of the other team."""

    first: int
    other: int

    @property
    def share(self) -> float:
        """Share of the visitors with a preference who preferred the first team."""
        decided = self.first + self.other
        return self.first / decided if decided else _NO_PREFERENCE

    @property
    def p_value(self) -> float:
        """Always-valid p-value of no preference."""
        decided = self.first + self.other
        variance = _NO_PREFERENCE**2 / decided if decided else 0.0
        return always_valid_p_value(self.share - _NO_PREFERENCE, variance, _NO_PREFERENCE)
