"""Sequence model of shopping intents: recurring needs, missions, discovery, and companions. No neural network.

A session has a mission, from the household's own mix. An intent of the session is first a category:

* new to the household with the probability (θ + d·D) / (θ + N) after N visits to D categories (Pitman-Yor process,
  Pitman and Yor 1997), and then by the mission's category shares;
* else one of its needs, in proportion to h(t / m) · g(n) · r(k) · a(c) / m · lift, where t is the time since the
  household's last purchase, m its typical interval, n its number of visits, k that of the last 60 days, c the category,
  h a piecewise-constant hazard (Friedman 1982), and lift the mission's preference for the category. With constant h, g,
  r and a, a need is a Poisson process (a counter). The factor r lets habits change; the factor a separates categories
  bought repeatedly (gasoline) from those bought once (birthday cards).

Then it is an item of the category. An item new to the household has a Pitman-Yor probability of its own and is drawn in
proportion to its recent popularity, its popularity among similar households, or its overall popularity. An item bought
before is drawn by recency-weighted counts, under a mixture of half-lives: households repeat their latest choice, or
return to an old one.

Further intents of a session go with the earlier ones, as buns go with sausages: their categories, and the items of a
category, are weighted by their co-occurrence with the earlier ones in baskets, relative to independence, on average
over the earlier ones. Of held-out sessions, that explains third items better than the product over the earlier ones,
which counts the same evidence twice. The baskets are older than the sessions that the parameters are estimated from.

All parameters are estimated by maximum likelihood, with priors, from sessions that no recommender is trained on. Each
session has the same total weight, whatever its number of items, because simulated sessions are small.

Letters in shapes: I items, C categories, K missions, R needs, M choices, P popularities, H half-lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from recsys_tasks.simulation.baskets import Baskets, companion_rates
from recsys_tasks.simulation.histories import SECONDS_PER_DAY, History, Needs, find_needs
from recsys_tasks.simulation.missions import Missions

_ELAPSED_EDGES = np.asarray([0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0])  # in typical intervals
_VISIT_EDGES = np.asarray([2, 3, 5, 9, 17, 33])
_RECENT_EDGES = np.asarray([1, 2, 3, 5, 9, 17])
_EDGES = (_ELAPSED_EDGES, _VISIT_EDGES, _RECENT_EDGES)
_NOTHING_TOGETHER = 1e9  # a prior under which co-occurrence does not matter
_COMPANION_PRIORS = np.asarray([0.03, 0.1, 0.3, 1.0, 3.0, 10.0, _NOTHING_TOGETHER])
_ORDERED_ITEMS = 3  # of a session, that the priors of companions are estimated from
_MIN_GAIN = 1.92  # in log-likelihood over independence: the likelihood ratio test at 95 %, one parameter
_PRIOR_CHOICES = 5.0  # of each bin of hazard and strength, with the relative rate 1
_ITERATIONS = 30
_MAX_EM_ITERATIONS, _EM_TOLERANCE = 2_000, 1e-6
_HALF_LIVES = np.asarray([1.0, 7.0, 30.0, 120.0, 365.0])  # days; the shortest one: only the latest purchase
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
        recency_shares: shares of the half-lives of a household's purchases, for the choice between its own items [H].
        source_shares: shares of the popularities that discovered items are drawn from [P].
        category_prior, item_prior: of the rates of companions, see `companion_rates`.
    """

    usual_interval: np.ndarray
    missions: Missions
    rate_factors: tuple[np.ndarray, ...]
    new_category: Novelty
    new_item: Novelty
    recency_shares: np.ndarray
    source_shares: np.ndarray
    category_prior: float = _NOTHING_TOGETHER
    item_prior: float = _NOTHING_TOGETHER

    def need_rates(self, needs: Needs, seconds: float) -> np.ndarray:
        """Returns the relative rate of each need at a time [R], before mission and season."""
        bins, rate = need_bins(needs, seconds, self.usual_interval)
        rates: np.ndarray = rate * _multiply(self.rate_factors, bins)
        return rates

    def own_item_weights(self, history: History, rows: np.ndarray) -> np.ndarray:
        """Returns the weights of some actions of a history by recency; their sum is 1."""
        weights: np.ndarray = self.recency_shares @ _recency_weights(history.seconds[rows])
        return weights

    def category_probabilities(
        self, history: History, seconds: float, mission_mix: np.ndarray, demand: np.ndarray
    ) -> np.ndarray:
        """Returns the probability of each category to be the first intent of a session [C].

        Args:
            mission_mix: the household's share of each mission [K].
            demand: relative demand of each category [C].
        """
        needs = find_needs(history, seconds)
        rates = self.need_rates(needs, seconds) * self.missions.lift[:, needs.category] * demand[needs.category]
        own = mission_mix @ (rates / np.maximum(rates.sum(1, keepdims=True), _TINY))
        probabilities: np.ndarray = (mission_mix @ self.missions.category_shares) * demand
        probabilities[needs.category] = 0.0
        new = self.new_category.probability(float(needs.visits.sum()), float(len(needs.category)))
        probabilities *= new / max(probabilities.sum(), _TINY)
        probabilities[needs.category] = (1 - new) * own
        return probabilities

    def item_probabilities(
        self, history: History, category: int, items: np.ndarray, popularities: np.ndarray
    ) -> np.ndarray:
        """Returns the probability of each item of a category to be the one that a household wants [M].

        Args:
            items: the items of the category, ascending [M].
            popularities: of the items, for the household's main mission [P, M], see `Popularity.of`.
        """
        own = np.flatnonzero(history.category == category)
        place = np.searchsorted(items, history.item[own])
        repeated = np.bincount(place, weights=self.own_item_weights(history, own), minlength=len(items))
        parts = popularities * (repeated == 0)
        discovered: np.ndarray = self.source_shares @ (parts / np.maximum(parts.sum(1, keepdims=True), _TINY))
        if not discovered.any():
            discovered = repeated if len(own) else np.ones(len(items))  # nothing is left to discover
        discovered = discovered / discovered.sum()
        if not len(own):
            return discovered
        novelty = self.new_item.probability(float(len(own)), float(np.count_nonzero(repeated)))
        probabilities: np.ndarray = novelty * discovered + (1 - novelty) * repeated / repeated.sum()
        return probabilities


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
    baskets: Baskets,
    random: np.random.Generator,
) -> IntentModel:
    """Estimates the parameters from held-out sessions; without any, the priors remain.

    Args:
        items_of: item numbers of each category.
        popularity, baskets: before the held-out sessions.
        random: draws the order of a session's items, which is unknown.
    """
    choices = _ChoiceLog(usual_interval, items_of, popularity)
    mean_size = np.mean([len(session.item) for session in sessions]) if sessions else 1.0
    for session in sessions:
        choices.add(session, float(mean_size / max(len(session.item), 1)))
    model = IntentModel(
        usual_interval,
        missions,
        _fit_rates(choices.needs(), len(usual_interval)),
        _fit_novelty(choices.categories),
        _fit_novelty(choices.items),
        _fit_shares(choices.repeats, len(_HALF_LIVES)),
        _fit_shares(choices.discoveries, len(Popularity._fields)),
    )
    category_prior, item_prior = _fit_companion_priors(model, sessions, items_of, popularity, baskets, random)
    return replace(model, category_prior=category_prior, item_prior=item_prior)


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
            self.repeats.add(_recency_weights(session.past.seconds[own])[:, is_same].sum(1), weight)
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


def _recency_weights(seconds: np.ndarray) -> np.ndarray:
    """Weights of actions at some times [N] under each half-life [H, N]; the sum of each is 1."""
    age_days = (seconds.max(initial=0.0) - seconds) / SECONDS_PER_DAY
    weights = np.exp2(-age_days / _HALF_LIVES[:, None])
    shares: np.ndarray = weights / np.maximum(weights.sum(1, keepdims=True), _TINY)
    return shares


def _fit_shares(probabilities: _Choices, num_parts: int) -> np.ndarray:
    """Fits the shares of a mixture to the probability of each choice under its parts [M, P], by EM; flat prior."""
    parts = np.asarray(probabilities.rows, float).reshape(-1, num_parts)
    shares: np.ndarray = np.full(num_parts, 1 / num_parts)
    is_evidence = np.ptp(parts, axis=1) > 0  # equal parts say nothing about the shares
    possible, weights = parts[is_evidence], np.asarray(probabilities.weights)[is_evidence, None]
    for _ in range(_MAX_EM_ITERATIONS):
        joint = possible * shares
        updated = (weights * joint / np.maximum(joint.sum(1, keepdims=True), _TINY)).sum(0) + 1.0
        updated /= updated.sum()
        change, shares = np.abs(updated - shares).max(), updated
        if change < _EM_TOLERANCE:
            break
    return shares


def _fit_companion_priors(
    model: IntentModel,
    sessions: Sequence[HeldOutSession],
    items_of: Sequence[np.ndarray],
    popularity: Popularity,
    baskets: Baskets,
    random: np.random.Generator,
) -> tuple[float, float]:
    """Returns the priors of category and item under which items of a session are most likely, given earlier ones."""
    of_category, of_item = np.zeros(len(_COMPANION_PRIORS)), np.zeros(len(_COMPANION_PRIORS))
    for session in sessions:
        past = session.past
        mix = model.missions.mix(*past.session_categories())
        drawn = random.permutation(len(session.item))[:_ORDERED_ITEMS]
        wanted, categories = session.item[drawn], session.category[drawn]
        for number in range(1, len(drawn)):
            session_mix = model.missions.session_mix(mix, categories[:number])
            alone = model.category_probabilities(past, session.seconds, session_mix, session.season)
            counts = [baskets.of_category(earlier) for earlier in categories[:number].tolist()]
            of_category += _log_likelihood(alone, counts, int(categories[number]))
            items = items_of[categories[number]]
            alone = model.item_probabilities(past, categories[number], items, popularity.of(items, session.mission))
            alone = np.where(np.isin(items, wanted[:number]), 0.0, alone)
            counts = [baskets.of_item(earlier, items) for earlier in wanted[:number].tolist()]
            of_item += _log_likelihood(alone, counts, int(np.searchsorted(items, wanted[number])))
    return _choose_prior(of_category), _choose_prior(of_item)


def _log_likelihood(alone: np.ndarray, counts: Sequence[tuple[np.ndarray, np.ndarray]], chosen: int) -> np.ndarray:
    """Log-likelihood of one choice under each prior, given the probabilities without companions."""
    weights = alone * companion_rates(counts, _COMPANION_PRIORS[:, None])
    likelihood: np.ndarray = np.log(np.maximum(weights[:, chosen] / np.maximum(weights.sum(1), _TINY), _TINY))
    return likelihood


def _choose_prior(log_likelihoods: np.ndarray) -> float:
    """Returns the most likely prior; without enough evidence, that under which nothing goes together."""
    gain = log_likelihoods - log_likelihoods[_COMPANION_PRIORS == _NOTHING_TOGETHER]
    return float(_COMPANION_PRIORS[gain.argmax()]) if gain.max() > _MIN_GAIN else _NOTHING_TOGETHER
