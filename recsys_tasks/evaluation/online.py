"""Whether people act less on what a model on trial shows them, judged as often as one likes."""

from __future__ import annotations

import math
from typing import NamedTuple

# The size of differences that the test is most sensitive to, as a share of the champion's rate.
_EXPECTED = 0.2


class Acting(NamedTuple):
    """How many people a model was shown to, and how many of them acted on it."""

    people: int
    acting: int

    @property
    def rate(self) -> float:
        """The share of the people who acted."""
        return self.acting / self.people if self.people else 0.0


def chance(champion: Acting, challenger: Acting) -> float:
    """An always-valid p-value of the difference of two shares: the mixture sequential probability ratio test.

    With a normal mixture of variance τ² over the difference, whose estimate d has variance V,
    p = 1 / (√(V / (V + τ²)) · exp(τ² d² / (2 V (V + τ²)))), at most 1; looking at it again and again keeps its meaning
    (Johari, Koomen, Pekelis and Walsh 2017, "Peeking at A/B Tests"). Shares are estimated with one person more who
    acted and one who did not, so that none has no variance.
    """
    shares = [(arm.acting + 1) / (arm.people + 2) for arm in (champion, challenger)]
    variance = sum(
        share * (1 - share) / (arm.people + 2) for share, arm in zip(shares, (champion, challenger), strict=True)
    )
    mixture = (_EXPECTED * shares[0]) ** 2
    difference = shares[1] - shares[0]
    log_ratio = 0.5 * math.log(variance / (variance + mixture)) + mixture * difference**2 / (
        2 * variance * (variance + mixture)
    )
    return min(1.0, math.exp(-min(log_ratio, 700.0)))


def loses(champion: Acting, challenger: Acting, confidence: float, least_people: int) -> bool:
    """Whether fewer people act on the challenger, at a confidence; never with too few people of either."""
    enough = min(champion.people, challenger.people) >= least_people
    return enough and challenger.rate < champion.rate and chance(champion, challenger) < 1 - confidence
