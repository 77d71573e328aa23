"""Click-through rates of arms, adjusted for what their visitors did before the experiment: narrower intervals.

Visitors who clicked much before click much in any arm. CUPED (Deng, Xu, Kohavi and Walker 2013) subtracts what an
earlier rate predicts, and post-stratification (Miratrix, Sekhon and Yu 2013) what the visitor's stratum predicts. Both
are computed from sums over the visitors of each arm and stratum. The CTR is a ratio; it is adjusted by its linear form
(c - R n) / mean(n) (Deng, Knoblich and Lu 2018, "Applying the Delta Method in Metric Analytics").
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection

from recsys_tasks.experiments.online_metrics import Rate, rate_with_error
from recsys_tasks.interval import Interval
from recsys_tasks.warehouse import statement

EARLIER_DAYS = 28
PRIOR_IMPRESSIONS = 50.0
_TINY = 1e-9
_MIN_VISITORS = 30  # of a stratum, over all arms: smaller ones are not adjusted


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


def load_adjusted_rates(
    connection: Connection, between: Interval, without: Collection[str] = ()
) -> dict[tuple[str, str], Rate]:
    """Returns the adjusted CTR of recommendations by experiment and arm, without some arms."""
    parameters = {**between.bounds, "days": EARLIER_DAYS, "prior_impressions": PRIOR_IMPRESSIONS}
    experiments: dict[str, dict[str, dict[str, Stratum]]] = {}
    for row in connection.execute(statement("experiments/adjustable_clicks"), parameters):
        if row.arm in without:
            continue
        sums = Stratum(*(float(getattr(row, name)) for name in Stratum._fields))
        experiments.setdefault(row.experiment, {}).setdefault(row.arm, {})[row.stratum] = sums
    return {(name, arm): rate for name, arms in experiments.items() for arm, rate in adjusted_rates(arms).items()}


def adjusted_rates(arms: Arms) -> dict[str, Rate]:
    """Returns the adjusted CTR of each arm, with a 95 % interval clustered by visitor.

    Without differences between strata or in earlier rates it is the plain CTR, as it is for an arm without clicks. The
    effects are fitted on all arms together, within arms, so that they do not depend on what the arms changed. The
    variance is that of the residuals, with as many degrees of freedom fewer as effects were fitted.
    """
    strata = sorted({stratum for of_arm in arms.values() for stratum in of_arm})
    moments = {arm: _moments([of_arm.get(stratum) for stratum in strata]) for arm, of_arm in arms.items()}
    effects = _fit(sum(moments.values(), start=np.zeros((len(strata), 6))))
    return {arm: _adjusted(of_arm, moments[arm], effects) for arm, of_arm in arms.items()}


class _Effects(NamedTuple):
    """Line of z by x in each stratum: offsets and slopes [S], and the factor of the variance for having fitted them."""

    offset: np.ndarray
    slope: np.ndarray
    variance_factor: float


def _moments(of_arm: list[Stratum | None]) -> np.ndarray:
    """Sums by stratum [S, 6] of 1, x, z, xx, xz and zz, with z = (c - R n) / mean(n) and the R of the arm."""
    sums = np.asarray([stratum or [0.0] * len(Stratum._fields) for stratum in of_arm])
    visitors, c, n, x, cc, nn, cn, xx, xc, xn = sums.T
    rate, size = c.sum() / max(n.sum(), _TINY), max(n.sum() / max(visitors.sum(), 1.0), _TINY)
    z, xz = (c - rate * n) / size, (xc - rate * xn) / size
    return np.stack([visitors, x, z, xx, xz, (cc - 2 * rate * cn + rate**2 * nn) / size**2], 1)


def _fit(moments: np.ndarray) -> _Effects:
    """Least-squares lines from the moments of all arms [S, 6]; none for small strata."""
    count, x, z, xx, xz, _ = moments.T
    is_large, safe = count >= _MIN_VISITORS, np.maximum(count, 1.0)
    mean_x, mean_z = x / safe, z / safe
    variance = xx / safe - mean_x**2
    has_slope = is_large & (variance > _TINY * xx / safe)
    slope = np.divide(xz / safe - mean_x * mean_z, variance, out=np.zeros_like(x), where=has_slope)
    total = float(count.sum())
    fitted = float(max(is_large.sum() - 1, 0) + has_slope.sum())  # the mean of all offsets is 0
    factor = total / max(total - fitted, 1.0)
    return _Effects(np.where(is_large, mean_z - slope * mean_x, 0.0), slope, factor)


def _adjusted(of_arm: Mapping[str, Stratum], moments: np.ndarray, effects: _Effects) -> Rate:
    """The rate of an arm less what strata and earlier rates predict; its error is that of the residuals."""
    totals = np.asarray(list(of_arm.values())).sum(0)
    visitors, clicks, shown = int(totals[0]), float(totals[1]), float(totals[2])
    offset, slope, factor = effects
    if not clicks:
        offset, slope, factor = np.zeros_like(offset), np.zeros_like(slope), 1.0
    count, x, z, xx, xz, zz = moments.T
    predicted = float((count * offset + slope * x).sum())
    of_line = count * offset**2 + 2 * offset * slope * x + slope**2 * xx
    squares = float((zz - 2 * (offset * z + slope * xz) + of_line).sum())
    residual = factor * max(squares - predicted**2 / max(visitors, 1), 0.0)  # the mean of z is 0 in each arm
    error = math.sqrt(residual / max(visitors - 1, 1) / max(visitors, 1)) if visitors > 1 else math.inf
    value = clicks / max(shown, _TINY) - predicted / max(visitors, 1)
    return rate_with_error(max(value, 0.0), error, visitors)
