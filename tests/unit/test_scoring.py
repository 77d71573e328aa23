"""The scan graph and the mixture of its components against a NumPy reference."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tasks.engine.graphs import Graph
from recsys_tasks.engine.scoring import CopyCandidates, ItemVectors, Neighbors, NextItemScores
from recsys_tasks.features.item_neighbors import ItemNeighbors, latest_items
from recsys_tasks.features.session_neighbors import SessionNeighbors
from recsys_tasks.model import scoring_graph
from recsys_tasks.model.scoring_graph import export_scoring_graph
from recsys_tasks.names import FIRST_ITEM

ITEMS, ADDED, WIDTH = 700, 5, 16
ALL, NOTHING = np.arange(ITEMS + ADDED), np.zeros(0, np.int64)


class ScannedItems(NamedTuple):
    """Item vectors with added items, and the scan graph of the base items."""

    items: ItemVectors
    graph: Graph


@pytest.fixture(scope="module", params=["columns", "rows"])
def scanned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ScannedItems:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((ITEMS + ADDED, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    bias = random.standard_normal(ITEMS + ADDED).astype(np.float32)
    path = tmp_path_factory.mktemp("scan") / "scan.onnx"
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "rows":
            patch.setattr(scoring_graph, "_CACHE_BYTES", 0)
        export_scoring_graph(vectors[:ITEMS], bias[:ITEMS], path)
    assert (b"MatMulNBits" in path.read_bytes()) == (request.param == "rows")
    base = ItemVectors(vectors[:ITEMS], bias[:ITEMS])
    return ScannedItems(base.with_added(vectors[ITEMS:], bias[ITEMS:]), Graph(path))


def _expected(
    items: ItemVectors,
    direction: np.ndarray,
    copy_logits: np.ndarray,
    copies: np.ndarray,
    excluded: np.ndarray,
    weight: float = 0.0,
    candidates: np.ndarray = NOTHING,
    shares_of_candidates: np.ndarray = NOTHING,
) -> np.ndarray:
    mass = np.exp((items.dot(direction) + items.bias).astype(np.float64))
    np.add.at(mass, copies, np.exp(copy_logits.astype(np.float64)))
    mass[:FIRST_ITEM] = mass[excluded] = 0.0
    if len(candidates):
        mass[candidates] += weight * mass[candidates].sum() * shares_of_candidates
    shares: np.ndarray = mass / mass.sum()
    return shares


def _random_neighbors(count: int, seed: int) -> ItemNeighbors:
    """Two neighbors of every third item."""
    random = np.random.default_rng(seed)
    length = np.where((np.arange(count) % 3 == 0) & (np.arange(count) >= FIRST_ITEM), 2, 0)
    start = np.concatenate([[0], np.cumsum(length)])
    item = random.integers(FIRST_ITEM, count, start[-1]).astype(np.int32)
    return ItemNeighbors(start, item, np.log(random.uniform(0.1, 0.9, start[-1])).astype(np.float32))


def _random_sessions(count: int) -> SessionNeighbors:
    """Two thousand sessions of four items."""
    item = np.random.default_rng(2).integers(FIRST_ITEM, count, 8_000)
    return SessionNeighbors.from_events(np.repeat(np.arange(2_000), 4), item, count)


NEIGHBORS, SESSIONS = _random_neighbors(ITEMS, 1), _random_sessions(ITEMS)
NO_SESSIONS = Neighbors(NEIGHBORS, SessionNeighbors.none(ITEMS), 0.0)
NUMBERS = st.lists(st.integers(0, ITEMS + ADDED - 1), min_size=1, max_size=30)


@given(
    st.integers(0, 1000),
    NUMBERS,
    st.lists(st.integers(0, ITEMS + ADDED - 1), max_size=10),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.sampled_from([1, 20, 500, 2000]),
)
@settings(deadline=None, max_examples=80)
def test_probabilities_equal_the_numpy_reference(
    scanned: ScannedItems,
    seed: int,
    history: list[int],
    session: list[int],
    repeat: bool,
    with_neighbors: bool,
    with_added: bool,
    session_weight: float,
    k: int,
) -> None:
    count = ITEMS + (ADDED if with_added else 0)
    items = scanned.items if with_added else ItemVectors(scanned.items.base, scanned.items.bias[:ITEMS])
    random = np.random.default_rng(seed)
    direction = random.standard_normal(WIDTH).astype(np.float32)
    direction *= 8 / np.linalg.norm(direction)
    past, tokens = (np.asarray(numbers, np.int64) % count for numbers in (history, session))
    reading = {"direction": direction[None], "of_history": random.standard_normal((1, len(past))).astype(np.float32)}
    copy_logits, copies, excluded = reading["of_history"][0], past, tokens
    if repeat:
        reading["of_session"] = random.standard_normal((1, len(tokens))).astype(np.float32)
        copy_logits = np.concatenate([copy_logits, reading["of_session"][0]])
        copies, excluded = np.concatenate([past, tokens]), tokens[:0]
    if with_neighbors:
        reading["of_neighbors"] = random.standard_normal((1, 3)).astype(np.float32)
        reading["neighbor_query"] = random.standard_normal((1, WIDTH)).astype(np.float32)
        latest = latest_items(tokens, 3)
        proposed = NEIGHBORS.candidates(latest)
        token_logits = reading["of_neighbors"][0] + items[latest] @ reading["neighbor_query"][0]
        neighbor_logits = token_logits[proposed.token] + proposed.log_weight
        copy_logits, copies = np.concatenate([copy_logits, neighbor_logits]), np.concatenate([copies, proposed.item])
        allowed = ~np.isin(copies, excluded)
        copy_logits, copies = copy_logits[allowed], copies[allowed]
    offset = np.where(random.random(count) < 0.3, -np.inf, random.choice([0.0, 0.7], count)).astype(np.float32)
    found = SESSIONS.candidates(tokens, excluded)
    near = found.items if session_weight else found.items[:0]
    shares_of_near = found.scores / max(found.scores.sum(), 1e-30)
    expected = _expected(items, direction, copy_logits, copies, excluded, session_weight, near, shares_of_near)
    neighbors = Neighbors(NEIGHBORS, SESSIONS, session_weight)
    scores = NextItemScores(items, scanned.graph, reading, CopyCandidates.from_events(past), tokens, neighbors)
    known = np.arange(FIRST_ITEM, count)
    np.testing.assert_allclose(scores.of(known), expected[known], rtol=1e-3, atol=1e-9)
    for used_offset in (None, offset):
        scored = scores.top_k(k, used_offset, np.arange(count))
        shares = np.zeros(count)
        np.maximum.at(shares, scored.numbers, scored.scores)
        shown = np.ones(count, bool) if used_offset is None else used_offset > -np.inf
        np.testing.assert_allclose(shares, np.where(shown, expected, 0.0), rtol=0.03, atol=1e-7)
        selected = scores.top_k(k, used_offset).numbers
        with np.errstate(divide="ignore"):
            ranked = np.log(expected) + (0.0 if used_offset is None else used_offset)
        best = np.argsort(-ranked)[: k // 2]
        assert set(best[ranked[best] > -np.inf].tolist()) <= set(selected.tolist())


def test_the_probabilities_of_some_items_are_estimated_where_the_catalog_is_large() -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((40_000, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    items = ItemVectors(vectors, -np.log(np.arange(1, 40_001)).astype(np.float32))  # popular items first
    direction = 4 * vectors[39_000]
    nothing, numbers = np.zeros(0, np.int64), np.asarray([FIRST_ITEM, 500, 39_000])
    reading = {"direction": direction[None], "of_history": np.zeros((1, 0), np.float32)}
    scores = NextItemScores(items, None, reading, CopyCandidates.from_events(nothing), nothing, NO_SESSIONS)  # type: ignore[arg-type]
    expected = _expected(items, direction, nothing, nothing, nothing)
    np.testing.assert_allclose(scores.of(numbers), expected[numbers], rtol=0.1)
