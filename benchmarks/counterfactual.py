"""Which of two models would get more clicks, estimated from explored lists of another one:

    python benchmarks/counterfactual.py --bundle FOLDER

Reads the warehouse of `RECSYS_HOME`, and a bundle that ends before its held-out sessions. Simulated households want
items at the times of their real sessions, and see lists of the bundle's model of which exploration filled a share of
the positions. From the clicks on them, every pair of fifteen models is compared, before any of the others served
anybody. The true click-through rates are known: those of the click model, for many draws of what a household wants.
Beside it stands the offline metric of a loop that learns from feedback: MRR@20 on what was clicked, or bought without a
list, in the same sessions.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.report import host_info, print_table, write_json
from benchmarks.shoppers import Scorer, model_scorer, scorers
from recsys_tasks.engine.ranking import Exploration
from recsys_tasks.experiments.counterfactual import CounterfactualComparison, ExploredLists, compare_counterfactually
from recsys_tasks.features.position_bias import estimate_position_bias
from recsys_tasks.simulation.intents import HeldOutSession
from recsys_tasks.simulation.scenario import QUIET
from recsys_tasks.simulation.shopping import ShopperBehavior
from recsys_tasks.simulation.world import Shopper, World
from recsys_tasks.simulation.world_reader import read_world_and_sessions
from recsys_tasks.warehouse import engine

_K, _CANDIDATES = 20, 100
_TRUTH_DRAWS = 40
_NOISE = (0.3, 0.6, 1.0, 2.0)
_BLENDS = (0.25, 0.5, 0.75)
_DIFFERENCE = 0.1  # pairs whose true rates differ by less are not asked about
_BEHAVIOR = ShopperBehavior()
_THETA = np.arange(1, _K + 1) ** -_BEHAVIOR.position_bias_exponent


class Wishes(NamedTuple):
    """What a household wants in a session: numbers of items and of their categories."""

    items: np.ndarray
    categories: np.ndarray


class Figures(NamedTuple):
    """What one log tells: of each model its comparison with the logging one and its MRR@20, and of each pair."""

    comparisons: dict[str, CounterfactualComparison]
    mrr: dict[str, float]
    pairs: list[Pair]


class Pair(NamedTuple):
    """A pair of models: relative true difference of their rates, and whether the estimate is right and significant."""

    difference: float
    by_clicks: bool
    is_certain: bool
    by_mrr: bool


def main() -> None:
    """Prints each model's rates, and how many pairs are ordered correctly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--shoppers", type=int, default=1_000)
    parser.add_argument("--sessions", type=int, default=1_000)
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 4], help="lists that each session sees")
    parser.add_argument("--share", type=float, default=0.1, help="share of the positions that exploration fills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    args = parser.parse_args()
    world, held_out = read_world_and_sessions(engine(), args.shoppers, QUIET, args.seed)
    sessions = held_out[: args.sessions]
    lists = _all_lists(world, sessions, args.bundle, args.seed)
    random = np.random.default_rng([args.seed, 3])
    households = [(f"household {number}", session) for number, session in enumerate(sessions)]
    truth_wishes = [[_draw_wishes(world, *household, random) for _ in range(_TRUTH_DRAWS)] for household in households]
    true_rates = {name: _true_rate(world, listed, truth_wishes) for name, listed in lists.items()}
    rows, summaries = [], []
    for draws in args.draws:
        wishes = [[_draw_wishes(world, *household, random) for _ in range(draws)] for household in households]
        found = _measure(world, lists, true_rates, wishes, args.share, random)
        asked = [pair for pair in found.pairs if abs(pair.difference) >= _DIFFERENCE]
        summaries.append(
            {
                "lists": draws * len(sessions),
                "clicks": next(iter(found.comparisons.values())).num_clicks,
                "pairs": len(asked),
                "correct": _share(pair.by_clicks for pair in asked),
                "significant": _share(pair.is_certain for pair in asked),
                "significant and wrong, of all": sum(pair.is_certain and not pair.by_clicks for pair in found.pairs),
                "correct by MRR@20": _share(pair.by_mrr for pair in asked),
            }
        )
        rows = [_row(name, true_rates[name], of_model, found.mrr[name]) for name, of_model in found.comparisons.items()]
    host = host_info("numpy")
    print_table(f"Models, {summaries[-1]['lists']:,} lists", rows, host)
    print_table(f"Pairs whose true rates differ by at least {_DIFFERENCE:.0%}", summaries, host)
    write_json(args.json, {"rows": rows, "summaries": summaries, "machine": host})


def _row(name: str, true_rate: float, found: CounterfactualComparison, mrr: float) -> dict[str, object]:
    return {
        "model": name,
        "true CTR": f"{true_rate:.2%}",
        "doubly robust": f"{found.model.value:.2%} ({found.model.low:.2%} to {found.model.high:.2%})",
        "SNIPS": f"{found.model_snips.value:.2%}",
        "effective lists": int(found.model.effective_sample_size),
        "overlap": f"{found.overlap.value:.0%}",
        "MRR@20 on feedback": f"{mrr:.4f}",
    }


def _all_lists(world: World, sessions: list[HeldOutSession], bundle: Path, seed: int) -> dict[str, np.ndarray]:
    """The lists of all models before each session, as item numbers from 1 [S, C]; the first is the logging model's."""
    base = model_scorer(world, bundle, _CANDIDATES) | scorers(world)
    logging = next(iter(base))
    names = [*base, *(f"{logging}, noise {noise}" for noise in _NOISE)]
    names += [f"{logging} and {weight:.0%} of personal frequency" for weight in _BLENDS]
    lists = {name: np.zeros((len(sessions), _CANDIDATES), np.int64) for name in names}
    for row, session in enumerate(sessions):
        scores = _scores(base, session, np.random.default_rng([seed, 5, row]))
        for name, values in zip(names, scores, strict=True):
            best = np.argpartition(-values, _CANDIDATES)[:_CANDIDATES]
            lists[name][row] = 1 + best[np.argsort(-values[best], kind="stable")]
    return lists


def _scores(base: dict[str, Scorer], session: HeldOutSession, random: np.random.Generator) -> list[np.ndarray]:
    found = [scorer(session.past, session.seconds) for scorer in base.values()]
    own = found[0]
    noisy = [own * np.exp(noise * random.normal(size=len(own))) for noise in _NOISE]
    frequency = found[list(base).index("personal frequency")]
    shares = own / own.sum(), frequency / frequency.sum()
    return [*found, *noisy, *((1 - weight) * shares[0] + weight * shares[1] for weight in _BLENDS)]


def _draw_wishes(world: World, user_id: str, session: HeldOutSession, random: np.random.Generator) -> Wishes:
    household = Shopper(user_id, session.past, np.inf, 1.0)
    count = 1 + int(random.poisson(_BEHAVIOR.mean_intents - 1))
    items = world.draw_intents(household, 0, datetime.fromtimestamp(session.seconds, UTC), count, random)
    numbers = np.asarray([world.catalog.number_of[item.item_id] for item in items], np.int64)
    return Wishes(numbers, world.catalog.category_of[numbers])


def _click_probabilities(world: World, listed: np.ndarray, wishes: Wishes) -> np.ndarray:
    """Probability of a click on each item, numbered from 1, once it is examined."""
    categories = world.catalog.category_of[listed - 1]
    wanted, near = np.isin(listed - 1, wishes.items), np.isin(categories, wishes.categories)
    chance: np.ndarray = (
        _BEHAVIOR.base_click_probability + _BEHAVIOR.wanted_item_boost * wanted + _BEHAVIOR.wanted_category_boost * near
    )
    return np.minimum(chance, 1.0)


def _true_rate(world: World, listed: np.ndarray, wishes: list[list[Wishes]]) -> float:
    rates = [
        float((_THETA * _click_probabilities(world, row[:_K], drawn)).mean())
        for row, of_session in zip(listed, wishes, strict=True)
        for drawn in of_session
    ]
    return float(np.mean(rates))


def _measure(
    world: World,
    lists: dict[str, np.ndarray],
    true_rates: dict[str, float],
    wishes: list[list[Wishes]],
    share: float,
    random: np.random.Generator,
) -> Figures:
    """Logs lists of the first model, and compares all pairs of models from them."""
    logging = next(iter(lists))
    logged, targets = _log(world, lists[logging], wishes, share, random)
    examination = _estimated_examination(logged)
    of_list = {name: listed[logged.cluster] for name, listed in lists.items()}
    comparisons = {
        name: compare_counterfactually(logged, listed, of_list[logging], examination)
        for name, listed in of_list.items()
    }
    mrr = {name: _mean_reciprocal_rank(listed, targets) for name, listed in lists.items()}
    pairs = []
    for one, other in itertools.combinations(lists, 2):
        found = compare_counterfactually(logged, of_list[one], of_list[other], examination).difference
        truth = true_rates[one] - true_rates[other]
        relative = truth / max(min(true_rates[one], true_rates[other]), 1e-12)
        is_certain = found.low > 0 or found.high < 0
        pairs.append(Pair(relative, found.value * truth > 0, is_certain, (mrr[one] - mrr[other]) * truth > 0))
    return Figures(comparisons, mrr, pairs)


def _log(
    world: World, listed: np.ndarray, wishes: list[list[Wishes]], share: float, random: np.random.Generator
) -> tuple[ExploredLists, list[tuple[int, int]]]:
    """Shows explored lists of a model; also returns the items that were clicked or bought, with their session."""
    rows: list[tuple[int, int, int, int, bool]] = []
    sessions: list[int] = []
    targets: list[tuple[int, int]] = []
    for row, of_session in enumerate(wishes):
        for drawn in of_session:
            shown, explored = Exploration(share, f"{len(sessions)}").draw(listed[row].tolist(), set(), _K)
            chance = _THETA * _click_probabilities(world, np.asarray(shown), drawn)
            clicked = random.random(_K) < chance
            for place, item in enumerate(shown):
                rows.append((len(sessions), place + 1, explored.ranks[place], item, bool(clicked[place])))
            targets += [(row, item) for item, is_clicked in zip(shown, clicked.tolist(), strict=True) if is_clicked]
            bought = random.random(len(drawn.items)) < _BEHAVIOR.organic_purchase_probability
            targets += [(row, 1 + int(item)) for item in drawn.items[bought]]
            sessions.append(row)
    number, position, rank, item_number, is_clicked = (np.asarray(column) for column in zip(*rows, strict=True))
    count = len(sessions)
    logged = ExploredLists(
        cluster=np.asarray(sessions),
        share=np.full(count, share),
        num_candidates=np.full(count, _CANDIDATES),
        list=number,
        position=position,
        rank=rank,
        item=item_number,
        clicked=is_clicked,
    )
    return logged, targets


def _estimated_examination(logged: ExploredLists) -> np.ndarray:
    """Examination of the positions as a snapshot estimates it; the true one where the clicks are too few."""
    item = np.unique(logged.item, return_inverse=True)[1]
    pair, place = np.unique(item * _K + logged.position - 1, return_inverse=True)
    shown, acted = np.bincount(place), np.bincount(place, logged.clicked)
    found = estimate_position_bias(pair // _K, pair % _K, shown, acted)
    return found if len(found) else _THETA


def _mean_reciprocal_rank(listed: np.ndarray, targets: list[tuple[int, int]]) -> float:
    rows, items = (np.asarray(column) for column in zip(*targets, strict=True))
    hit = listed[rows, :_K] == items[:, None]
    return float(np.where(hit.any(1), 1 / (1 + hit.argmax(1)), 0.0).mean())


def _share(values: Iterable[bool]) -> str:
    found = list(values)
    return f"{np.mean(found):.0%}" if found else ""


if __name__ == "__main__":
    main()
