"""What simulated shoppers want, beside what households bought: `python benchmarks/shoppers.py --bundle FOLDER`.

Reads the warehouse of `RECSYS_HOME`. Each list has 20 items and is made before a session that no model is trained on,
from the household's actions before it. A hit is one of two wanted items: drawn from the real session, or simulated for
the same household at the same time. Lists should hit as often in both. Differences to personal frequency are paired by
session. With a bundle, the second table has the list for a session's second wish, before and after the first one was
viewed, put in the cart and bought: what the model makes of it should help, or not, in both. `intents` has the items
that are most probable under the shoppers' own model: in the simulation, no list does much better on average. It ignores
the season. In real sessions it has an advantage: its parameters were fitted on them.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from scipy.sparse import csr_array, diags_array

from benchmarks.report import host_info, print_table, write_json
from recsys_tasks.engine.bundle import read_bundle
from recsys_tasks.engine.engine import Engine
from recsys_tasks.engine.ranking import ListOptions
from recsys_tasks.engine.session_decoder import Action
from recsys_tasks.names import ADD_TO_CART, PURCHASE, VIEW
from recsys_tasks.simulation.histories import History, join_histories
from recsys_tasks.simulation.scenario import QUIET
from recsys_tasks.simulation.shopping import ShopperBehavior
from recsys_tasks.simulation.world import Shopper, World
from recsys_tasks.simulation.world_reader import read_world_and_sessions
from recsys_tasks.warehouse import engine

_K, _WANTED, _MAX_ACTIONS = 20, 2, 512
_FREQUENCY = "personal frequency"
_LATEST_ITEMS, _DECAY = 10, 0.8
_BEHAVIOR = ShopperBehavior()
Scorer = Callable[[History, float], np.ndarray]


def main() -> None:
    """Prints the hits of each list in simulated and in real sessions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shoppers", type=int, default=1_000)
    parser.add_argument("--sessions", type=int, default=1_000)
    parser.add_argument("--bundle", type=Path, help="adds the lists of a model that ends before the sessions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    args = parser.parse_args()
    began = time.perf_counter()
    world, held_out = read_world_and_sessions(engine(), args.shoppers, QUIET, args.seed)
    read_seconds = time.perf_counter() - began
    random = np.random.default_rng(args.seed)
    real = []
    for number in np.sort(random.permutation(len(held_out))[: args.sessions]).tolist():
        session = held_out[number]
        wanted = random.choice(session.item, min(_WANTED, len(session.item)), replace=False)
        real.append((session.past, session.seconds, wanted))
    simulated = []
    began = time.process_time()
    for number, (past, seconds, wanted) in enumerate(real):
        household = Shopper(f"household {number}", past, np.inf, 1.0)  # an id of its own: worlds cache the mission mix
        items = world.draw_intents(household, 0, datetime.fromtimestamp(seconds, UTC), len(wanted), random)
        simulated.append((past, seconds, np.asarray([world.catalog.number_of[item.item_id] for item in items])))
    milliseconds = 1_000 * (time.process_time() - began) / sum(len(wanted) for *_, wanted in simulated)
    sessions_of = {"simulated": simulated, "real": real}
    hits = {
        (name, label): np.asarray([_count_hits(scorer(past, seconds), wanted) for past, seconds, wanted in sessions])
        for name, scorer in (scorers(world) | model_scorer(world, args.bundle)).items()
        for label, sessions in sessions_of.items()
    }
    rows: list[dict[str, object]] = []
    for name in dict.fromkeys(name for name, _ in hits):
        row: dict[str, object] = {"list": name}
        for label in ("simulated", "real"):
            row[f"hits, {label}"] = _mean(hits[name, label])
            row[f"against frequency, {label}"] = _mean(hits[name, label] - hits[_FREQUENCY, label])
        rows.append(row)
    title = f"{args.shoppers} shoppers read in {read_seconds:.1f} s, {milliseconds:.2f} ms a wish; {len(real)} sessions"
    host = host_info("numpy")
    print_table(title, rows, host)
    second = _second_wishes(world, args.bundle, sessions_of)
    if second:
        print_table("Second wish of a session: probability that its position is examined", second, host)
    write_json(
        args.json,
        {
            "rows": rows,
            "second": second,
            "read_seconds": read_seconds,
            "wish_milliseconds": milliseconds,
            "machine": host,
        },
    )


def _second_wishes(
    world: World, folder: Path | None, sessions_of: dict[str, list[tuple[History, float, np.ndarray]]]
) -> list[dict[str, object]]:
    """Rows of the second table: lists before and after a purchase of the first of two wishes."""
    if folder is None:
        return []
    rows = []
    frequency = scorers(world)[_FREQUENCY]
    model = model_scorer(world, folder)["the model"]
    for label, sessions in sessions_of.items():
        gains = np.asarray(
            [
                [
                    _gain(frequency(past, seconds), wanted[1]),
                    _gain(model(past, seconds), wanted[1]),
                    _gain(model(past, seconds, int(wanted[0])), wanted[1]),
                ]
                for past, seconds, wanted in sessions
                if len(wanted) > 1
            ]
        ).reshape(-1, 3)
        columns = ("personal frequency", "the model before", "the model after")
        row = {name: f"{value:.4f}" for name, value in zip(columns, gains.mean(0), strict=True)}
        change = gains[:, 2] - gains[:, 1]
        interval = 1.96 * change.std() / np.sqrt(len(change))
        rows.append({"sessions": label, "n": len(gains), **row, "change": f"{change.mean():+.4f} ± {interval:.4f}"})
    return rows


def _gain(scores: np.ndarray, wanted: int) -> float:
    """Probability that an item's position is examined, by the behavior of simulated shoppers; 0 below the list."""
    rank = int((scores > scores[wanted]).sum())
    return float((rank + 1) ** -_BEHAVIOR.position_bias_exponent) if scores[wanted] > 0 and rank < _K else 0.0


def model_scorer(world: World, folder: Path | None, k: int = _K) -> dict[str, Callable[..., np.ndarray]]:
    """The lists of a bundle of k items, from the latest 512 actions, before the first action of a session, or after an
    item was viewed, put in the cart and bought in it."""
    if folder is None:
        return {}
    model, catalog = Engine(read_bundle(folder)), world.catalog
    households = itertools.count()

    def scores(past: History, seconds: float, bought: int | None = None) -> np.ndarray:
        latest = zip(past.item[-_MAX_ACTIONS:].tolist(), past.seconds[-_MAX_ACTIONS:].tolist(), strict=True)
        actions = [Action(catalog.items[number].item_id, PURCHASE, at) for number, at in latest]
        session = [
            Action(catalog.items[bought].item_id, event_type, seconds + 15 * number)
            for number, event_type in enumerate((VIEW, ADD_TO_CART, PURCHASE))
            if bought is not None
        ]
        user = f"household {next(households)}"
        answer = model.recommend(user, actions, session, seconds + 60, ListOptions(k))
        found = np.zeros(len(catalog.items))
        for item in answer.items:
            if item.item_id in catalog.number_of:
                found[catalog.number_of[item.item_id]] = item.score
        return found

    return {"the model": scores}


def _mean(values: np.ndarray) -> str:
    return f"{values.mean():.3f} ± {1.96 * values.std() / np.sqrt(len(values)):.3f}"


def _count_hits(scores: np.ndarray, wanted: np.ndarray) -> int:
    best = np.argpartition(-scores, min(_K, len(scores) - 1))[:_K]
    return int(np.isin(wanted, best).sum())


def scorers(world: World) -> dict[str, Scorer]:
    """Scorers without a model: popularity, habits, items bought together, and the shoppers' own model."""
    lately, ever = world.popularity.lately, world.popularity.ever
    share = ever / ever.sum()

    def frequency(past: History, seconds: float) -> np.ndarray:
        return np.bincount(past.item, minlength=len(share)) + share

    def category_popularity(past: History, seconds: float) -> np.ndarray:
        visits = np.bincount(past.category, minlength=len(world.catalog.items_of))
        of_category = np.bincount(world.catalog.category_of, weights=share, minlength=len(visits))
        return (visits / np.maximum(of_category, 1e-12))[world.catalog.category_of] * share

    return {
        "popularity": lambda past, seconds: share,
        "popularity of the last four weeks": lambda past, seconds: lately,
        "popular items of the household's categories": category_popularity,
        _FREQUENCY: frequency,
        "personal frequency, half-life of 60 days": _decayed_frequency(share),
        "items bought together with the latest ones": _co_occurrence(world),
        "intents": _intents(world),
    }


def _decayed_frequency(share: np.ndarray) -> Scorer:
    def scores(past: History, seconds: float) -> np.ndarray:
        weights = np.exp2(-(seconds - past.seconds) / (60 * 86_400))
        return np.bincount(past.item, weights=weights, minlength=len(share)) + 1e-9 * share

    return scores


def _co_occurrence(world: World) -> Scorer:
    """Cosine similarity by session to a household's latest items, with a decay that favors recent ones."""
    joined = join_histories(shopper.history for shopper in world.shoppers)
    shape = int(joined.session.max()) + 1, len(world.catalog.items)
    matrix = csr_array((np.ones(len(joined.item)), (joined.session, joined.item)), shape=shape)
    matrix.data[:] = 1.0
    norm = np.sqrt(np.maximum(np.asarray(matrix.sum(0)).ravel(), 1.0))
    cosines = csr_array(matrix @ diags_array(1 / norm))
    transposed = csr_array(cosines.T)

    def scores(past: History, seconds: float) -> np.ndarray:
        latest = past.item[-_LATEST_ITEMS:]
        weights = np.zeros(len(norm))
        np.maximum.at(weights, latest, _DECAY ** np.arange(len(latest))[::-1])
        found: np.ndarray = transposed @ (cosines @ weights)
        return found

    return scores


def _intents(world: World) -> Scorer:
    """Probability of each item to be the next wish under the shoppers' model, in a month without a season."""
    model, catalog = world.model, world.catalog

    def scores(past: History, seconds: float) -> np.ndarray:
        mix = model.missions.mix(*past.session_categories())
        main = model.missions.main(mix)
        probability = model.category_probabilities(past, seconds, mix, np.ones(len(catalog.categories)))
        found = np.zeros(len(catalog.items))
        for category in np.argsort(-probability)[:200].tolist():
            items, weights = world.item_probabilities(past, category, main)
            found[items] += probability[category] * weights
        return found

    return scores


if __name__ == "__main__":
    main()
