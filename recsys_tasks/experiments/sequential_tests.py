"""Whether people act differently on what one model or arm shows them, judged as often as one likes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from scipy import stats

# The size of differences that the test is most sensitive to, as a share of the first one's rate.
_EXPECTED = 0.2
_NO_PREFERENCE = 0.5


class Acting(NamedTuple):
    """How many people a model was shown to, and how many of them acted on it."""

    people: int
    acting: int

    @property
    def rate(self) -> float:
        """The share of the people who acted."""
        return self.acting / self.people if self.people else 0.0


def always_valid(difference: float, variance: float, usual: float) -> float:
    """An always-valid p-value of a difference from nothing: the mixture sequential probability ratio test.

    With a normal mixture of variance τ² over the difference, whose estimate d has variance V,
    p = 1 / (√(V / (V + τ²)) · exp(τ² d² / (2 V (V + τ²)))), at most 1; looking at it again and again keeps its meaning
    (Johari, Koomen, Pekelis and Walsh 2017, "Peeking at A/B Tests").

    Args:
        difference, variance: the estimate and its variance.
        usual: the rate that differences are shares of; τ is a fifth of it.
    """
    mixture = (_EXPECTED * usual) ** 2
    if not (variance > 0 and mixture > 0 and math.isfinite(variance)):
        return 1.0
    log_ratio = 0.5 * math.log(variance / (variance + mixture)) + mixture * difference**2 / (
        2 * variance * (variance + mixture)
    )
    return min(1.0, math.exp(-min(log_ratio, 700.0)))


def chance(champion: Acting, challenger: Acting) -> float:
    """An always-valid p-value of the difference of two shares of people. Shares are estimated with one person more who
    acted and one who did not, so that none has no variance."""
    shares = [(arm.acting + 1) / (arm.people + 2) for arm in (champion, challenger)]
    variance = sum(
        share * (1 - share) / (arm.people + 2) for share, arm in zip(shares, (champion, challenger), strict=True)
    )
    return always_valid(shares[1] - shares[0], variance, shares[0])


def loses(champion: Acting, challenger: Acting, confidence: float, least_people: int) -> bool:
    """Whether fewer people act on the challenger, at a confidence; never with too few people of either."""
    enough = min(champion.people, challenger.people) >= least_people
    return enough and challenger.rate < champion.rate and chance(champion, challenger) < 1 - confidence


def sample_ratio(visitors: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """With what chance as many visitors come to the arms as did, or counts further from their shares: below 0.001,
    something keeps visitors of some arm from being counted, and no comparison of arms is to be believed (a χ² test;
    Fabijan et al. 2019, "Diagnosing Sample Ratio Mismatch in Online Controlled Experiments").

    Args:
        visitors: by arm; shares: what they should be of all of them, by arm.
    """
    total = sum(visitors.get(arm, 0) for arm in shares)
    if not total:
        return 1.0
    expected = [share * total for share in shares.values()]
    found = stats.chisquare([visitors.get(arm, 0) for arm in shares], expected)
    return float(found.pvalue)


class Preference(NamedTuple):
    """Of people who were shown one list of two: how many clicked more of the first one's, and more of the other's."""

    first: int
    other: int

    @property
    def share(self) -> float:
        """Of those who preferred either, the share that preferred the first."""
        decided = self.first + self.other
        return self.first / decided if decided else _NO_PREFERENCE

    @property
    def chance(self) -> float:
        """An always-valid p-value of preferring neither."""
        decided = self.first + self.other
        variance = _NO_PREFERENCE**2 / decided if decided else 0.0
        return always_valid(self.share - _NO_PREFERENCE, variance, _NO_PREFERENCE)
