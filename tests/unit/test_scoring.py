"""What the scan of all items says of each, against all of it in NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tasks.engine.graphs import Graph
from recsys_tasks.engine.scoring import Copies, ItemVectors, NextItem
from recsys_tasks.model import scoring_graph
from recsys_tasks.model.scoring_graph import export_scan
from recsys_tasks.names import FIRST_ITEM

ITEMS, LATER, WIDTH = 700, 5, 16
ALL = np.arange(ITEMS + LATER)


class Scanned(NamedTuple):
    """Items, some of which came later, and the graph that knows the others."""

    items: ItemVectors
    graph: Graph


@pytest.fixture(scope="module", params=["columns", "rows"])
def scanned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scanned:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((ITEMS + LATER, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    bias = random.standard_normal(ITEMS + LATER).astype(np.float32)
    path = tmp_path_factory.mktemp("scan") / "scan.onnx"
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "rows":
            patch.setattr(scoring_graph, "_CACHE_BYTES", 0)
        export_scan(vectors[:ITEMS], bias[:ITEMS], path)
    assert (b"MatMulNBits" in path.read_bytes()) == (request.param == "rows")
    first = ItemVectors(vectors[:ITEMS], bias[:ITEMS])
    return Scanned(first.and_later(vectors[ITEMS:], bias[ITEMS:]), Graph(path))


def _expected(
    items: ItemVectors, direction: np.ndarray, copied: np.ndarray, of: np.ndarray, gone: np.ndarray
) -> np.ndarray:
    mass = np.exp((items.products(direction) + items.bias).astype(np.float64))
    np.add.at(mass, of, np.exp(copied.astype(np.float64)))
    mass[:FIRST_ITEM] = mass[gone] = 0.0
    shares: np.ndarray = mass / mass.sum()
    return shares


NUMBERS = st.lists(st.integers(0, ITEMS + LATER - 1), min_size=1, max_size=30)


@given(
    st.integers(0, 1000),
    NUMBERS,
    st.lists(st.integers(0, ITEMS + LATER - 1), max_size=10),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 20, 500, 2000]),
)
@settings(deadline=None, max_examples=80)
def test_shares_are_those_of_all_items_and_copies(
    scanned: Scanned, seed: int, history: list[int], session: list[int], repeat: bool, later: bool, few: int
) -> None:
    count = ITEMS + (LATER if later else 0)
    items = scanned.items if later else ItemVectors(scanned.items.first, scanned.items.bias[:ITEMS])
    random = np.random.default_rng(seed)
    direction = random.standard_normal(WIDTH).astype(np.float32)
    direction *= 8 / np.linalg.norm(direction)
    before, tokens = (np.asarray(numbers, np.int64) % count for numbers in (history, session))
    reading = {"direction": direction[None], "of_history": random.standard_normal((1, len(before))).astype(np.float32)}
    copied, copies, gone = reading["of_history"][0], before, tokens
    if repeat:
        reading["of_session"] = random.standard_normal((1, len(tokens))).astype(np.float32)
        copied, copies = np.concatenate([copied, reading["of_session"][0]]), np.concatenate([before, tokens])
        gone = tokens[:0]
    offset = np.where(random.random(count) < 0.3, -np.inf, random.choice([0.0, 0.7], count)).astype(np.float32)
    expected = _expected(items, direction, copied, copies, gone)
    scores = NextItem(items, scanned.graph, reading, Copies.of(before), tokens)
    for moved in (None, offset):
        found = scores.best(few, moved, np.arange(count))
        shares = np.zeros(count)
        np.maximum.at(shares, found.numbers, found.scores)
        shown = np.ones(count, bool) if moved is None else moved > -np.inf
        np.testing.assert_allclose(shares, np.where(shown, expected, 0.0), rtol=0.03, atol=1e-7)
        few_found = scores.best(few, moved).numbers
        with np.errstate(divide="ignore"):
            ranked = np.log(expected) + (0.0 if moved is None else moved)
        best = np.argsort(-ranked)[: few // 2]
        assert set(best[ranked[best] > -np.inf].tolist()) <= set(few_found.tolist())
