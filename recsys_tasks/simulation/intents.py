"""Sequence model of shopping intents: recurring needs, missions, and discovery. No neural network, no item similarity.

A session has a mission, from the household's own mix. An intent of the session is first a category:

* new to the household with the probability (θ + d·D) / (θ + N) after N visits to D categories (Pitman-Yor process,
  Pitman and Yor 1997), and then by the mission's category shares;
* else one of its needs, in proportion to h(t / m) · g(n) · r(k) · a(c) / m · lift, where t is the time since the
  household's last purchase, m its typical interval, n its number of visits, k that of the last 60 days, c the category,
  h a piecewise-constant hazard (Friedman 1982), and lift the mission's preference for the category. With constant h, g,
  r and a, a need is a Poisson process (a counter). The factor r lets habits change; the factor a separates categories
  bought repeatedly (gasoline) from those bought once (birthday cards).

The categories of further intents have relative rates by how close they are to those of earlier ones: the same, with the
same parent, of the same first level, any other. A basket often has two kinds of yogurt, or buns with sausages.

Then it is an item of the category: never bought by the household with a Pitman-Yor probability of its own, from what
is popular lately, among similar households, or at all times; else one of its own by recency-weighted counts.

All parameters are estimated by maximum likelihood, with priors, from sessions that no recommender is trained on. Each
session has the same total weight, whatever its number of items, because simulated sessions are small.

Letters in shapes: I items, C categories, K missions, R needs, M choices, P popularities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from recsys_tasks.simulation.histories import SECONDS_PER_DAY, History, Needs, find_needs
from recsys_tasks.simulation.missions import Missions

_ELAPSED_EDGES = np.asarray([0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0])  # in typical intervals
_VISIT_EDGES = np.asarray([2, 3, 5, 9, 17, 33])
_RECENT_EDGES = np.asarray([1, 2, 3, 5, 9, 17])
_EDGES = (_ELAPSED_EDGES, _VISIT_EDGES, _RECENT_EDGES)
_NUM_CLOSENESS = 4
_PRIOR_CHOICES = 5.0  # of each bin of hazard and strength, with the relative rate 1
_ITERATIONS = 30
_HALF_LIVES = np.asarray([7.0, 14.0, 30.0, 60.0, 120.0, 365.0])
_CONCENTRATIONS = np.geomspace(0.01, 300.0, 28)
_DISCOUNTS = np.linspace(0.0, 0.95, 20)
_TINY = 1e-12


class Novelty(NamedTuple):
    """Pitman-Yor process: probability that the next choice is a new one."""

    concentration: float
    discount: float

    def probability(self, total: float, distinct: float) -> float:
        """Returns the probability after a number of choices, of which some were distinct."""
        return (self.concentration + self.discount * distinct) / (self.concentration + total)


class Popularity(NamedTuple):
    """Popularity of items [I] from which discoveries are drawn: lately, by mission of the household [K, I], ever."""

    lately: np.ndarray
    by_mission: np.ndarray
    ever: np.ndarray

    def of(self, items: np.ndarray, mission: int) -> np.ndarray:
        """Returns the popularities of some items for a household with a main mission [P, M]."""
        return np.stack([self.lately[items], self.by_mission[mission, items], self.ever[items]])


@dataclass(frozen=True)
class IntentModel:
    """Parameters of the intents.

    Attributes:
        usual_interval: seconds between purchases by category [C].
        rate_factors: relative rates of needs by elapsed time in typical intervals, number of visits, number of recent
            visits, and category; one array each.
        new_category, new_item: discovery of categories, and of items in a category.
        half_life_days: of a household's purchases of an item, for the choice between its own items.
        source_shares: shares of the popularities that discovered items are drawn from [P].
        companion_rates: relative rates of categories by how close they are to that of an earlier wish of the session
            [L], see `Catalog.closeness`.
    """

    usual_interval: np.ndarray
    missions: Missions
    rate_factors: tuple[np.ndarray, ...]
    new_category: Novelty
    new_item: Novelty
    half_life_days: float
    source_shares: np.ndarray
    companion_rates: np.ndarray

    def need_rates(self, needs: Needs, seconds: float) -> np.ndarray:
        """Returns the relative rate of each need at a time [R], before mission and season."""
        bins, rate = need_bins(needs, seconds, self.usual_interval)
        rates: np.ndarray = rate * _multiply(self.rate_factors, bins)
        return rates

    def own_item_weights(self, history: History, rows: np.ndarray) -> np.ndarray:
        """Returns the recency weight of some actions of a history, at most 1."""
        age_days = (history.seconds[rows].max(initial=0.0) - history.seconds[rows]) / SECONDS_PER_DAY
        weights: np.ndarray = np.exp2(-age_days / self.half_life_days)
        return weights


def need_bins(needs: Needs, seconds: float, usual_interval: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Returns each need's bins of elapsed time, visits, recent visits and category, and its visits per day without
    these [R]."""
    interval = needs.intervals(usual_interval)
    values = ((seconds - needs.last) / interval, needs.visits, needs.recent)
    bins = (np.searchsorted(edges, value, side="right") for edges, value in zip(_EDGES, values, strict=True))
    return (*bins, needs.category), SECONDS_PER_DAY / interval


def _multiply(factors: Sequence[np.ndarray], bins: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the product of each need's factors [R]."""
    product: np.ndarray = np.prod([factor[of] for factor, of in zip(factors, bins, strict=True)], axis=0)
    return product


class HeldOutSession(NamedTuple):
    """A session of a household that the shoppers' model is fitted on.

    Attributes:
        past: the household's actions before it.
        mission: main mission of the household before it.
        seconds: its start, seconds since 1970.
        item, category: numbers of its distinct items [M].
        season: relative demand of each category at that time [C].
    """

    past: History
    mission: int
    seconds: float
    item: np.ndarray
    category: np.ndarray
    season: np.ndarray


class _NeedChoices(NamedTuple):
    """Needs of all sessions [R]: session, bins of each kind, rate without the bins, and weighted number of its items in
    the session."""

    session: np.ndarray
    bins: tuple[np.ndarray, ...]
    rate: np.ndarray
    bought: np.ndarray


class _Choices(NamedTuple):
    """Choices of one kind: what describes each, and their weights."""

    rows: list[Any]
    weights: list[float]

    def add(self, row: Any, weight: float) -> None:
        self.rows.append(row)
        self.weights.append(weight)


def fit_intents(
    sessions: Sequence[HeldOutSession],
    missions: Missions,
    usual_interval: np.ndarray,
    items_of: Sequence[np.ndarray],
    popularity: Popularity,
    closeness: Callable[[int], np.ndarray],
) -> IntentModel:
    """Estimates the parameters from held-out sessions; without any, the priors remain.

    Args:
        items_of: item numbers of each category.
        popularity: before the held-out sessions.
        closeness: of all categories to one, see `Catalog.closeness`.
    """
    choices = _ChoiceLog(usual_interval, items_of, popularity)
    mean_size = np.mean([len(session.item) for session in sessions]) if sessions else 1.0
    for session in sessions:
        choices.add(session, float(mean_size / max(len(session.item), 1)))
    return IntentModel(
        usual_interval,
        missions,
        _fit_rates(choices.needs(), len(usual_interval)),
        _fit_novelty(choices.categories),
        _fit_novelty(choices.items),
        _fit_half_life(choices.repeats),
        _fit_shares(choices.discoveries),
        _fit_companions(sessions, closeness),
    )


class _ChoiceLog:
    """What households chose in held-out sessions, beside what they could have chosen."""

    def __init__(self, usual_interval: np.ndarray, items_of: Sequence[np.ndarray], popularity: Popularity) -> None:
        self._usual_interval, self._items_of, self._popularity = usual_interval, items_of, popularity
        self._needs: list[tuple[np.ndarray, ...]] = []
        self.categories, self.items = _Choices([], []), _Choices([], [])
        self.repeats, self.discoveries = _Choices([], []), _Choices([], [])

    def needs(self) -> _NeedChoices:
        """Returns the needs of all sessions."""
        if not self._needs:
            none = np.zeros(0, np.int64)
            return _NeedChoices(none, (none,) * (len(_EDGES) + 1), none.astype(float), none)
        session = np.repeat(np.arange(len(self._needs)), [len(columns[0]) for columns in self._needs])
        rate, bought, *bins = (np.concatenate(columns) for columns in zip(*self._needs, strict=True))
        return _NeedChoices(session, tuple(bins), rate, bought)

    def add(self, session: HeldOutSession, weight: float) -> None:
        """Adds a session's choices, each with a weight."""
        needs = find_needs(session.past, session.seconds)
        bins, rate = need_bins(needs, session.seconds, self._usual_interval)
        bought = weight * (session.category[:, None] == needs.category).sum(0)
        self._needs.append((rate * session.season[needs.category], bought, *bins))
        total, distinct = float(needs.visits.sum()), float(len(needs.category))
        known = set(needs.category.tolist())
        for item, category in zip(session.item.tolist(), session.category.tolist(), strict=True):
            self.categories.add((total, distinct, category not in known), weight)
            self._add_item(session, category, np.flatnonzero(session.past.category == category), item, weight)

    def _add_item(self, session: HeldOutSession, category: int, own: np.ndarray, item: int, weight: float) -> None:
        own_items = session.past.item[own]
        is_same = own_items == item
        if len(own):
            self.items.add((float(len(own)), float(len(np.unique(own_items))), not is_same.any()), weight)
        if is_same.any():
            age_days = (session.seconds - session.past.seconds[own]) / SECONDS_PER_DAY
            weights = np.exp2(-(age_days - age_days.min()) / _HALF_LIVES[:, None])
            self.repeats.add(weights[:, is_same].sum(1) / weights.sum(1), weight)
            return
        all_items = self._items_of[category]
        weights = self._popularity.of(all_items, session.mission) * ~np.isin(all_items, own_items)
        self.discoveries.add(weights[:, all_items == item].sum(1) / np.maximum(weights.sum(1), _TINY), weight)


def _fit_rates(choices: _NeedChoices, num_categories: int) -> tuple[np.ndarray, ...]:
    """Fits the relative rates of the bins by minorization-maximization of the conditional likelihood of each session's
    needs, given their number (Hunter 2004); the prior is a gamma distribution with mean 1.
    """
    rates, bins = [np.ones(size) for size in (*(len(edges) + 1 for edges in _EDGES), num_categories)], choices.bins
    num_bought = np.bincount(choices.session, weights=choices.bought)
    for iteration in range(_ITERATIONS * len(rates)):
        place = iteration % len(rates)
        weight = choices.rate * _multiply(rates, bins)
        total = np.bincount(choices.session, weights=weight)
        expected = num_bought[choices.session] * weight / np.maximum(total, _TINY)[choices.session]
        size = len(rates[place])
        exposure = np.bincount(bins[place], weights=expected / rates[place][bins[place]], minlength=size)
        observed = np.bincount(bins[place], weights=choices.bought, minlength=size)
        rates[place] = (observed + _PRIOR_CHOICES) / (exposure + _PRIOR_CHOICES)
    return tuple(rates)


def _fit_novelty(choices: _Choices) -> Novelty:
    """Fits a Pitman-Yor process to (total, distinct, is new) by maximum a posteriori on a grid."""
    concentration, discount = _CONCENTRATIONS[:, None, None], _DISCOUNTS[None, :, None]
    total, distinct, is_new = np.asarray(choices.rows, float).reshape(-1, 3).T
    weights = np.asarray(choices.weights)
    # Weakly informative prior, so that few choices give a moderate novelty.
    score = -(np.log(concentration / 3.0) ** 2 / 8.0 + (discount - 0.5) ** 2)[:, :, 0]
    chunk = 2_000
    for start in range(0, len(total), chunk):
        rows = slice(start, start + chunk)
        new = (concentration + discount * distinct[rows]) / (concentration + total[rows])
        new = np.clip(new, 1e-6, 1 - 1e-6)
        score += (weights[rows] * np.where(is_new[rows] > 0, np.log(new), np.log1p(-new))).sum(2)
    row, column = np.unravel_index(int(score.argmax()), score.shape)
    return Novelty(float(_CONCENTRATIONS[row]), float(_DISCOUNTS[column]))


def _fit_half_life(repeats: _Choices) -> float:
    """Returns the half-life under which the repeated items are most likely; the longest without any."""
    if not repeats.rows:
        return float(_HALF_LIVES[-1])
    likelihood = np.asarray(repeats.weights) @ np.log(np.maximum(np.asarray(repeats.rows), _TINY))
    return float(_HALF_LIVES[likelihood.argmax()])


def _fit_shares(probabilities: _Choices) -> np.ndarray:
    """Fits the shares of a mixture to the probability of each choice under its parts [M, P], by EM; flat prior."""
    parts = np.asarray(probabilities.rows, float).reshape(-1, len(Popularity._fields))
    shares: np.ndarray = np.full(len(Popularity._fields), 1 / len(Popularity._fields))
    is_possible = parts.sum(1) > 0
    possible, weights = parts[is_possible], np.asarray(probabilities.weights)[is_possible, None]
    for _ in range(_ITERATIONS):
        joint = possible * shares
        shares = (weights * joint / np.maximum(joint.sum(1, keepdims=True), _TINY)).sum(0) + 1.0
        shares /= shares.sum()
    return shares


def _fit_companions(sessions: Sequence[HeldOutSession], closeness: Callable[[int], np.ndarray]) -> np.ndarray:
    """Returns how much more often two items of a session are that close than an item of the session and one of the
    household's past; relative to categories that are not close."""
    together, apart = np.full(_NUM_CLOSENESS, _PRIOR_CHOICES), np.full(_NUM_CLOSENESS, _PRIOR_CHOICES)
    for session in sessions:
        size = len(session.category)
        if size < 2 or not len(session.past.category):
            continue
        for category in session.category.tolist():
            levels = closeness(category)
            pairs = np.bincount(levels[session.category], minlength=_NUM_CLOSENESS).astype(float)
            pairs[0] -= 1.0  # the item itself
            together += pairs / (size * (size - 1))
            past = np.bincount(levels[session.past.category], minlength=_NUM_CLOSENESS)
            apart += past / (size * past.sum())
    rates: np.ndarray = together / apart
    relative: np.ndarray = rates / rates[-1]
    return relative
