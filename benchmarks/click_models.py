"""Errors of position bias and impression discounting where users behave otherwise: `python benchmarks/click_models.py`.

Users of a synthetic shop get lists in an outdated order with some noise, several a day. They follow one of these click
models:

* position-based: a position is examined with a probability of its own, as the estimator assumes;
* cascade: from the top, until they lose patience or a click satisfies them (dependent click model, Guo et al. 2009);
* trust: they also click irrelevant items, more often at the top (Agarwal et al. 2019, "Addressing Trust Bias");
* bored by category: a click gets less likely with each unclicked impression of the item's category, the item's own
  included.

In the first three, only unclicked impressions of the item itself make a click less likely. Impressions that were not
examined do not count, which no shop observes: the pipeline has to estimate it. For each click model, the table compares
estimated with true examination relative to the first position, and the rank correlation (Spearman) of the items' true
relevance with three kinds of click rates: plain, by estimated and by true examination. The last columns have the factor
of the click probability after one and three unclicked impressions of an item, estimated and true.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.report import host_info, print_table, write_json
from recsys_tasks.features.impression_discounting import MAX_UNCLICKED_IMPRESSIONS, estimate_impression_discount
from recsys_tasks.features.position_bias import estimate_position_bias

_ITEMS, _CATEGORIES, _POSITIONS, _LISTS_PER_USER = 400, 20, 20, 6
_EXAMINATION = np.arange(1, _POSITIONS + 1) ** -0.8
_PATIENCE, _SATISFACTION = 0.9, 0.6
_DISCOUNT = 0.85  # of each unclicked impression
_TRUST = 0.08  # clicks on irrelevant items at the first position
_CLICK_MODELS = ("position-based", "cascade", "trust", "bored by category")


class Log(NamedTuple):
    """Lists [N, P]: items, whether each was examined and clicked, and its earlier unclicked impressions."""

    item: np.ndarray
    examined: np.ndarray
    clicked: np.ndarray
    unclicked: np.ndarray


def main() -> None:
    """Prints a row for each click model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    args = parser.parse_args()
    rows = [
        _row(click_model, args.users, np.random.default_rng([args.seed, number]))
        for number, click_model in enumerate(_CLICK_MODELS)
    ]
    host = host_info("numpy")
    print_table(f"{args.users} users with {_LISTS_PER_USER} lists of {_POSITIONS} items each", rows, host)
    write_json(args.json, {"rows": rows, "machine": host})


def _row(click_model: str, users: int, random: np.random.Generator) -> dict[str, object]:
    relevance = random.beta(1, 8, _ITEMS)
    log = simulate(click_model, relevance, users, random)
    position = np.broadcast_to(np.arange(_POSITIONS), log.item.shape)
    pair = (log.item * _POSITIONS + position).ravel()
    shown, acted = np.bincount(pair), np.bincount(pair, log.clicked.ravel())
    pairs = np.flatnonzero(shown)
    estimated = estimate_position_bias(pairs // _POSITIONS, pairs % _POSITIONS, shown[pairs], acted[pairs])
    true = log.examined.mean(0) / log.examined[:, 0].mean()
    discount = _estimated_discount(log, estimated)
    shares = {"plain": np.ones(_POSITIONS), "estimated": estimated, "true": true}
    return {
        "users": click_model,
        "clicks": int(log.clicked.sum()),
        "examined 2, 5, 10, 20": " ".join(f"{true[place]:.2f}" for place in (1, 4, 9, 19)),
        "estimated": " ".join(f"{estimated[place]:.2f}" for place in (1, 4, 9, 19)),
        "mean error": f"{np.abs(estimated / true - 1).mean():.0%}",
        **{f"rank correlation, {name}": f"{_correlation(log, relevance, share):.3f}" for name, share in shares.items()},
        "after 1, 3 unclicked": f"{discount[1]:.2f} {discount[3]:.2f}",
        "true": f"{_DISCOUNT:.2f} {_DISCOUNT**3:.2f}",
    }


def simulate(click_model: str, relevance: np.ndarray, users: int, random: np.random.Generator) -> Log:
    """Returns the lists of all users and what they do with them."""
    category = np.arange(_ITEMS) % _CATEGORIES
    parts = []
    # The order is of a relevance that the items no longer have; with little noise by list, so that items come again.
    score = np.log(random.permutation(relevance)) + random.normal(0, 1.0, (users, _ITEMS))
    of_item, of_category = np.zeros((users, _ITEMS), int), np.zeros((users, _CATEGORIES), int)
    user = np.arange(users)[:, None]
    for _ in range(_LISTS_PER_USER):
        noisy = score + random.normal(0, 0.7, score.shape)
        item = np.argsort(-noisy, 1)[:, :_POSITIONS]
        unclicked = of_item[user, item]
        bored = of_category[user, category[item]] if click_model == "bored by category" else unclicked
        attraction = relevance[item] * _DISCOUNT**bored
        if click_model == "trust":
            attraction = attraction + (1 - attraction) * _TRUST / np.arange(1, _POSITIONS + 1)
        wants = random.random(item.shape) < attraction
        examined = _examine(click_model, wants, random)
        clicked = examined & wants
        parts.append(Log(item, examined, clicked, np.minimum(unclicked, MAX_UNCLICKED_IMPRESSIONS)))
        np.add.at(of_item, (user, item), ~clicked & examined)
        np.add.at(of_category, (user, category[item]), ~clicked & examined)
    return Log(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _examine(click_model: str, wants: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Which positions are examined [N, P]."""
    if click_model != "cascade":
        drawn: np.ndarray = random.random(wants.shape) < _EXAMINATION
        return drawn
    goes_on = random.random(wants.shape) < np.where(wants, 1 - _SATISFACTION, _PATIENCE)
    ahead = np.logical_and.accumulate(goes_on, 1)[:, :-1]
    return np.column_stack([np.ones(len(wants), bool), ahead])


def _estimated_discount(log: Log, examination: np.ndarray) -> np.ndarray:
    """The estimate from expected examinations and clicks by item and number of examined impressions without a click."""
    expected = np.broadcast_to(examination, log.item.shape).ravel()
    key = (log.item * (MAX_UNCLICKED_IMPRESSIONS + 1) + log.unclicked).ravel()
    examined, acted = np.bincount(key, expected), np.bincount(key, log.clicked.ravel())
    keys = np.flatnonzero(examined)
    item, unclicked = np.divmod(keys, MAX_UNCLICKED_IMPRESSIONS + 1)
    return estimate_impression_discount(item, unclicked, examined[keys], acted[keys])


def _correlation(log: Log, relevance: np.ndarray, examination: np.ndarray) -> float:
    """Rank correlation of the items' relevance with their clicks per expected examination."""
    expected = np.bincount(log.item.ravel(), np.broadcast_to(examination, log.item.shape).ravel(), _ITEMS)
    clicks = np.bincount(log.item.ravel(), log.clicked.ravel(), _ITEMS)
    is_shown = expected > 0
    return float(spearmanr(relevance[is_shown], clicks[is_shown] / expected[is_shown]).statistic)


if __name__ == "__main__":
    main()
