"""Verdicts on experiments: whether arms got the visitors they should, and in words, who is ahead and how certainly."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection

from recsys_tasks.experiments.definition import Experiment
from recsys_tasks.experiments.off_policy import Estimate, Logged, self_normalised
from recsys_tasks.experiments.online_metrics import CLICK_THROUGH, Against, Figures, online_metrics
from recsys_tasks.experiments.sequential_tests import Preference, sample_ratio
from recsys_tasks.interval import Interval
from recsys_tasks.names import RECOMMENDATIONS
from recsys_tasks.warehouse import statement

MISMATCH = 0.001
_BEST = 0.5


class Compared(NamedTuple):
    """An arm against the first one, in the rate of items that were acted on."""

    arm: str
    against: Against

    def __str__(self) -> str:
        """In words."""
        found = self.against
        words = f"{self.arm}: {found.own} against {found.other}, {found.change:+.0%}"
        if found.certain:
            return f"{words}; it is {'ahead' if found.change > 0 else 'behind'} (p = {found.chance:.3g})"
        return f"{words}; not certain yet (p = {found.chance:.2f})"


class Verdict(NamedTuple):
    """What an experiment comes to so far.

    Attributes:
        experiment, first: its name, and the arm that the others are compared with.
        visitors: of each arm; mismatch: the chance of these counts if all is well, None where shares are not known.
        compared: each other arm; preferences: of arms whose lists are two in one, by arm and the two names.
    """

    experiment: str
    first: str
    visitors: Mapping[str, int]
    mismatch: float | None
    compared: list[Compared]
    preferences: Mapping[tuple[str, str, str], Preference]

    @property
    def believable(self) -> bool:
        """Whether the arms have the visitors that they should."""
        return self.mismatch is None or self.mismatch >= MISMATCH

    def lines(self) -> list[str]:
        """All of it in words."""
        found = []
        if not self.believable:
            counts = ", ".join(f"{arm} {count:,}" for arm, count in self.visitors.items())
            found.append(
                f"Visitors are not divided as they should be ({counts}; p = {self.mismatch:.2g}): something keeps some"
                " from being counted, and no comparison is to be believed until it is found"
            )
        found += [str(compared) for compared in self.compared]
        for (arm, one, other), preference in self.preferences.items():
            decided = preference.first + preference.other
            words = f"{arm}: {preference.share:.0%} of {decided:,} people clicked more of {one} than of {other}"
            found.append(f"{words} (p = {preference.chance:.2g})")
        return found


def verdicts(connection: Connection, between: Interval, configured: Experiment | None = None) -> list[Verdict]:
    """What every experiment comes to that ran in some time; `configured` is the one whose shares are known."""
    counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for row in connection.execute(statement("experiments/arm_visitors"), between.bounds):
        counts[row.experiment][row.arm] = int(row.visitors)
    figures = arm_figures(connection, between)
    preferred = _preferences(connection, between)
    return [_verdict(name, visitors, figures, preferred, configured) for name, visitors in counts.items()]


def arm_figures(connection: Connection, between: Interval) -> dict[tuple[str, str], Figures]:
    """What came of the recommendations of each arm, of whatever model versions: by experiment and arm."""
    return {
        (shown.experiment, shown.arm): figures
        for shown, figures in online_metrics(connection, between, by_version=False).items()
        if shown.list == RECOMMENDATIONS and not shown.segment
    }


def _verdict(
    name: str,
    visitors: dict[str, int],
    figures: Mapping[tuple[str, str], Figures],
    preferred: Mapping[tuple[str, str, str, str], Preference],
    configured: Experiment | None,
) -> Verdict:
    known = configured is not None and configured.name == name
    shares = {arm.name: arm.share for arm in configured.arms} if configured is not None and known else {}
    order = list(shares) or sorted(visitors)
    first = order[0]
    compared = []
    for arm in order[1:]:
        if (name, arm) in figures and (name, first) in figures:
            own, other = (figures[name, one].rates[CLICK_THROUGH] for one in (arm, first))
            compared.append(Compared(arm, Against(own, other)))
    mismatch = sample_ratio(visitors, shares) if shares else None
    of_this = {key[1:]: preference for key, preference in preferred.items() if key[0] == name}
    return Verdict(name, first, {arm: visitors.get(arm, 0) for arm in order}, mismatch, compared, of_this)


def _preferences(connection: Connection, between: Interval) -> dict[tuple[str, str, str, str], Preference]:
    """By experiment, arm and the two whose lists are in one."""
    clicks: defaultdict[tuple[str, str], defaultdict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for row in connection.execute(statement("experiments/interleaving"), between.bounds):
        clicks[row.experiment, row.arm][row.visitor][row.team] += row.clicks
    found = {}
    for (experiment, arm), of_visitor in clicks.items():
        teams = sorted({team for counted in of_visitor.values() for team in counted})
        if len(teams) == 1:
            teams.append("the other")
        one, other = teams[:2]
        ahead = Counter(np.sign(counted[one] - counted[other]) for counted in of_visitor.values())
        found[experiment, arm, one, other] = Preference(ahead[1], ahead[-1])
    return found


class Exploring(NamedTuple):
    """What places filled by chance cost: the rate of what was shown, and what it would be without chance."""

    shown: float
    without: Estimate


def exploring(connection: Connection, between: Interval, model_version: str, arms: Iterable[str]) -> Exploring | None:
    """What exploration costs in lists that a version made in some arms, by the chances that were noted; None where
    there was none."""
    names = {**between.bounds, "model_version": model_version, "arms": list(arms)}
    rows = connection.execute(statement("experiments/explored_impressions"), names).all()
    if not rows:
        return None
    reward = np.asarray([row.clicked for row in rows], float)
    chances = np.asarray([row.propensity for row in rows], float)
    visitor = np.asarray([row.visitor for row in rows])
    always_best = (chances >= _BEST).astype(float)  # of what is left the best comes with more than half a chance
    return Exploring(float(reward.mean()), self_normalised(Logged(reward, chances, always_best, visitor)))
