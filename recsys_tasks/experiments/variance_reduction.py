"""Click-through rates of arms, adjusted for what their visitors did before the experiment: narrower intervals.

Visitors who clicked much before click much in any arm. CUPED (Deng, Xu, Kohavi and Walker 2013) subtracts what an
earlier rate predicts, and post-stratification (Miratrix, Sekhon and Yu 2013) what the visitor's stratum predicts. Both
are computed from sums over the visitors of each arm and stratum. The CTR is a ratio; it is adjusted by its linear form
(c - R n) / mean(n) (Deng, Knoblich and Lu 2018, "Applying the Delta Method in Metric Analytics").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection

from recsys_tasks.experiments.online_metrics import Rate, rate_with_error
from recsys_tasks.interval import Interval
from recsys_tasks.warehouse import statement

EARLIER_DAYS = 28
PRIOR_IMPRESSIONS = 50.0
_TINY = 1e-9
_SUMS = ("visitors", "c", "n", "x", "cc", "nn", "cn", "xx", "xc", "xn")


class Stratum(NamedTuple):
    """Sums over the visitors of one arm and stratum: clicks c, impressions n, earlier rate x, and their products."""

    visitors: float
    c: float
    n: float
    x: float
    cc: float
    nn: float
    cn: float
    xx: float
    xc: float
    xn: float


Arms = Mapping[str, Mapping[str, Stratum]]
"""Sums of an experiment by arm and stratum."""


def load_adjusted_rates(connection: Connection, between: Interval) -> dict[tuple[str, str], Rate]:
    """Returns the adjusted CTR of recommendations by experiment and arm."""
    parameters = {**between.bounds, "days": EARLIER_DAYS, "prior_impressions": PRIOR_IMPRESSIONS}
    experiments: dict[str, dict[str, dict[str, Stratum]]] = {}
    for row in connection.execute(statement("experiments/adjustable_clicks"), parameters):
        sums = Stratum(*(float(getattr(row, name)) for name in _SUMS))
        experiments.setdefault(row.experiment, {}).setdefault(row.arm, {})[row.stratum] = sums
    return {(name, arm): rate for name, arms in experiments.items() for arm, rate in adjusted_rates(arms).items()}


def adjusted_rates(arms: Arms) -> dict[str, Rate]:
    """Returns the adjusted CTR of each arm, with a 95 % interval clustered by visitor.

    Without differences between strata or in earlier rates it is the plain CTR. The effects are fitted on all arms
    together, within arms, so that they do not depend on what the arms changed.
    """
    strata = sorted({stratum for of_arm in arms.values() for stratum in of_arm})
    moments = {arm: _moments([of_arm.get(stratum) for stratum in strata]) for arm, of_arm in arms.items()}
    offset, slope = _fit(sum(moments.values(), start=np.zeros((len(strata), 6))))
    found = {}
    for arm, of_arm in arms.items():
        columns = zip(*((sums.c, sums.n, sums.visitors) for sums in of_arm.values()), strict=True)
        clicks, shown, visitors = map(sum, columns)
        plain = clicks / shown if shown else 0.0
        found[arm] = _adjusted(plain, int(visitors), moments[arm], offset, slope)
    return found


def _moments(of_arm: list[Stratum | None]) -> np.ndarray:
    """Sums by stratum [S, 6] of 1, x, z, xx, xz and zz, with z = (c - R n) / mean(n) and the R of the arm."""
    sums = np.asarray([stratum or [0.0] * len(_SUMS) for stratum in of_arm])
    visitors, c, n, x, cc, nn, cn, xx, xc, xn = sums.T
    rate, size = c.sum() / max(n.sum(), 1e-12), n.sum() / max(visitors.sum(), 1.0)
    size = max(size, 1e-12)
    z, xz = (c - rate * n) / size, (xc - rate * xn) / size
    return np.stack([visitors, x, z, xx, xz, (cc - 2 * rate * cn + rate**2 * nn) / size**2], 1)


def _fit(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares line of z by x in each stratum, from its moments [S, 6]: offsets and slopes [S]."""
    count, x, z, xx, xz, _ = moments.T
    safe = np.maximum(count, 1.0)
    mean_x, mean_z = x / safe, z / safe
    variance = xx / safe - mean_x**2
    slope = np.divide(xz / safe - mean_x * mean_z, variance, out=np.zeros_like(x), where=variance > _TINY * xx / safe)
    return mean_z - slope * mean_x, slope


def _adjusted(plain: float, visitors: int, moments: np.ndarray, offset: np.ndarray, slope: np.ndarray) -> Rate:
    """The rate of an arm less what strata and earlier rates predict; its error is that of the residuals."""
    count, x, z, xx, xz, zz = moments.T
    predicted = float((count * offset + slope * x).sum())
    of_line = count * offset**2 + 2 * offset * slope * x + slope**2 * xx
    squares = float((zz - 2 * (offset * z + slope * xz) + of_line).sum())
    residual = max(squares - predicted**2 / max(visitors, 1), 0.0)  # the mean of z is 0 in each arm
    error = math.sqrt(residual / max(visitors - 1, 1) / max(visitors, 1)) if visitors > 1 else math.inf
    return rate_with_error(plain - predicted / max(visitors, 1), error, visitors)
