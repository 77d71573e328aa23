"""The second stage of ranking: its features, its trees as a graph, and when they are used."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tasks.engine.bundle import SECOND_STAGE, Bundle
from recsys_tasks.engine.graphs import Graph
from recsys_tasks.engine.inputs import History
from recsys_tasks.engine.scoring import PrecomputedScores, ScoredItems
from recsys_tasks.engine.second_stage import (
    FEATURES,
    NUM_FETCHED,
    CandidateFeatures,
    Candidates,
    RescoredItems,
    SecondStage,
    Situation,
)
from recsys_tasks.errors import BundleCorrupt, ConfigurationError
from recsys_tasks.model.neighbors import count_item_neighbors
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, PURCHASE, VIEW
from recsys_tasks.training import second_stage
from recsys_tasks.training.second_stage import Questions, collect_questions, to_onnx
from tests.shops import export_small_network

DAY = 86_400.0
NOW = 1_000 * DAY
PURCHASED, VIEWED = EVENT_TYPE_CODES[PURCHASE], EVENT_TYPE_CODES[VIEW]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose items have neighbors: pairs of items in the same sessions."""
    exported = export_small_network(tmp_path_factory)
    bundle = Bundle.from_model(exported.folder, exported.vocabulary)
    session, item = np.repeat(np.arange(40), 2), np.tile([2, 3, 4, 5], 20)
    neighbors = count_item_neighbors(session, item, len(exported.vocabulary), 5)
    return replace(bundle, neighbors=bundle.neighbors._replace(of_items=neighbors))


@pytest.fixture(scope="module")
def trees() -> bytes:
    """Trees that held-out sessions gain by."""
    return second_stage.fit_questions(_questions(np.random.default_rng(0), 600, 2.0), seed=0).graph


def _situation(*events: tuple[int, int, float], session: tuple[int, ...] = ()) -> Situation:
    """History of (item, kind, days ago) and a session of items, which begins with its start token."""
    item, kind, days = (
        (np.asarray(column) for column in zip(*events, strict=True)) if events else [np.zeros(0, int)] * 3
    )
    history = History(item, kind, NOW - days * DAY, np.zeros((len(item), 0), np.int32))
    return Situation(history, np.asarray([0, *session], np.int64), NOW)


def _features(bundle: Bundle, numbers: list[int], situation: Situation) -> list[dict[str, float]]:
    scored = ScoredItems(np.asarray(numbers), np.linspace(0.5, 0.1, len(numbers)))
    candidates = CandidateFeatures(bundle).select(scored, situation)
    assert candidates.numbers.tolist() == numbers
    return [dict(zip(FEATURES, row, strict=True)) for row in candidates.features.tolist()]


def test_features_say_how_often_and_when_an_item_was_taken(bundle: Bundle) -> None:
    """Items 2 and 12 are of one category, D0 > C0; 3 is of D1 > C1."""
    events = [(2, VIEWED, 100.0), (12, PURCHASED, 90.0), (2, PURCHASED, 40.0), (2, PURCHASED, 10.0), (3, VIEWED, 5.0)]
    own, sister, other, stranger = _features(bundle, [2, 12, 3, 9], _situation(*events))
    assert (own["actions"], own["recent_actions"], own["purchases"]) == (3, 2, 2)
    assert (own["days_since_action"], own["days_between_actions"]) == (10, 45)
    assert own["intervals_since_action"] == pytest.approx(10 / 45)
    assert own["category_actions"] == sister["category_actions"] == 4
    assert own["share_of_category"] == pytest.approx(3 / 4)
    assert (sister["days_since_action"], sister["days_since_category"]) == (90, 10)
    assert (other["actions"], other["purchases"], other["days_between_actions"]) == (1, 0, 999)
    assert (stranger["actions"], stranger["days_since_action"], stranger["intervals_since_action"]) == (0, 999, -1)
    assert own["history_length"] == stranger["history_length"] == 5
    assert own["days_since_history"] == 5


def test_features_say_what_the_session_holds(bundle: Bundle) -> None:
    in_session, sister, stranger = _features(bundle, [2, 12, 3], _situation(session=(3, 2)))
    assert [row["session_length"] for row in (in_session, sister)] == [2, 2]
    assert [row["is_in_session"] for row in (in_session, sister)] == [1, 0]
    assert (sister["category_in_session"], sister["is_category_of_latest"]) == (1, 1)
    assert (stranger["is_in_session"], stranger["is_category_of_latest"]) == (1, 0)
    assert sister["days_since_history"] == 999


def test_features_know_neighbors_of_the_session(bundle: Bundle) -> None:
    neighbors = bundle.neighbors.of_items
    source = int(np.flatnonzero(neighbors.has_neighbors)[0])
    found = neighbors.candidates(np.asarray([source]))
    target, weight = int(found.item[0]), float(np.exp(found.log_weight[0]))
    (row,) = _features(bundle, [target], _situation(session=(source,)))
    assert row["neighbor_weight"] == pytest.approx(weight, rel=1e-5)
    assert row["max_neighbor_weight"] == row["latest_neighbor_weight"] == pytest.approx(weight, rel=1e-5)


def test_a_visitor_without_anything_and_items_added_since_have_features(bundle: Bundle) -> None:
    added = len(bundle.vocabulary) + 3
    rows = _features(bundle, [2, added], _situation((added, VIEWED, 1.0), session=(added,)))
    assert np.isfinite([list(row.values()) for row in rows]).all()
    assert rows[1]["category_actions"] == rows[1]["log_training_events"] == 0


def test_candidates_are_the_best_shown_items_once_each(bundle: Bundle) -> None:
    scored = ScoredItems(np.asarray([5, 7, 5, 9, 3]), np.asarray([0.2, 0.3, 0.4, 0.0, 0.3]))
    candidates = CandidateFeatures(bundle).select(scored, _situation())
    assert candidates.numbers.tolist() == [5, 3, 7]
    assert candidates.scores.tolist() == [0.4, 0.3, 0.3]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 40), st.booleans())
def test_rescored_lists_are_those_of_all_scores(seed: int, k: int, is_filtered: bool) -> None:
    random = np.random.default_rng(seed)
    scores = random.random(400)
    scores[:FIRST_ITEM] = 0
    numbers = np.argsort(-scores)[:100]
    rescored = random.permutation(scores[numbers])
    offset = np.where(random.random(400) < 0.7, 0.0, -np.inf).astype(np.float32) if is_filtered else None
    base = PrecomputedScores(scores)
    found = RescoredItems(base, base.top_k(NUM_FETCHED), None, numbers, rescored).top_k(k, offset)
    expected = scores.copy()
    expected[numbers] = rescored
    if offset is not None:
        expected[offset == -np.inf] = 0
    best = list(dict.fromkeys(found.numbers[np.argsort(-found.scores, kind="stable")].tolist()))[:k]
    assert sorted(expected[best].tolist()) == pytest.approx(sorted(np.sort(expected)[::-1][: len(best)].tolist()))


def _questions(random: np.random.Generator, count: int, signal: float) -> Questions:
    """Questions with 30 candidates; the target has a larger feature, by a signal, where the first stage has none."""
    features = random.normal(size=(count, 30, len(FEATURES))).astype(np.float32)
    target = random.integers(0, 30, count)
    features[np.arange(count), target, 5] += signal
    users = np.arange(count) // 3
    return Questions(features.reshape(-1, len(FEATURES)), np.full(count, 30), target, users, 2 * count)


def test_the_graph_computes_what_the_trees_do(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    questions = _questions(random, 300, 2.0)
    rounded = questions._replace(features=questions.features.round(1))  # thresholds near many values
    booster = second_stage._train(rounded, 0)
    (tmp_path / "graph.onnx").write_bytes(to_onnx(booster))
    features = rounded.features[:3_000]
    found = Graph(tmp_path / "graph.onnx")({"features": features})["logits"][:, 0]
    assert found == pytest.approx(np.asarray(booster.predict(features)), abs=1e-5)


def test_trees_are_used_only_if_held_out_sessions_gain(trees: bytes) -> None:
    again = second_stage.fit_questions(_questions(np.random.default_rng(0), 600, 2.0), seed=0)
    assert again.description.startswith("100 trees, MRR@20 +")
    assert again.graph == trees, "the same questions give the same trees"
    noise = second_stage.fit_questions(_questions(np.random.default_rng(0), 600, 0.0), seed=0)
    assert (noise.graph, noise.description[:6]) == (b"", "none: ")


def test_few_sessions_are_not_enough() -> None:
    fitted = second_stage.fit_questions(_questions(np.random.default_rng(0), 100, 2.0), seed=0)
    assert fitted == (b"", "none: only 100 held-out sessions with the target among the candidates")


def test_questions_are_those_with_the_target_among_the_candidates() -> None:
    rows = np.arange(2 * len(FEATURES), dtype=np.float32).reshape(2, -1)
    candidates = Candidates(np.asarray([7, 9]), np.asarray([0.2, 0.1]), rows)
    questions = collect_questions(iter([candidates, None, candidates]), [9, 7, 8], [5, 5, 6])
    assert questions.sizes.tolist() == [2]
    assert (questions.target.tolist(), questions.user.tolist(), questions.num_asked) == ([1], [5], 2)
    assert (questions.features == rows).all()


def test_rescored_items_keep_the_values_of_the_first_stage(bundle: Bundle, trees: bytes, tmp_path: Path) -> None:
    """So that an impression discount or a rule moves an item as far as without trees."""
    folder = tmp_path / "bundle"
    shutil.copytree(bundle.folder, folder)
    random = np.random.default_rng(0)
    (folder / SECOND_STAGE).write_bytes(trees)
    stage = SecondStage.of(replace(bundle, folder=folder))
    assert stage is not None
    shares = np.zeros(len(bundle.vocabulary))
    shares[FIRST_ITEM:] = random.random(len(shares) - FIRST_ITEM)
    scores = PrecomputedScores(shares / shares.sum())
    situation = _situation((4, PURCHASED, 3.0), (7, VIEWED, 9.0), session=(3,))
    first, second = scores.top_k(100), stage.rescore(scores, situation, None).top_k(100)
    rank_of = [dict(zip(found.numbers.tolist(), found.scores.tolist(), strict=True)) for found in (first, second)]
    assert sorted(rank_of[0].values()) == pytest.approx(sorted(rank_of[1].values()))
    assert rank_of[0] != rank_of[1]
    hidden = np.zeros(len(shares), np.float32)
    hidden[::2] = -np.inf
    shown = stage.rescore(scores, situation, hidden).top_k(5, hidden)
    assert (shown.numbers[shown.scores > 0] % 2 == 1).all()
    assert stage.rescore(scores, _situation((4, PURCHASED, 3.0)), None) is scores, "before the first item"


def test_a_model_of_an_earlier_version_has_no_second_stage(bundle: Bundle, tmp_path: Path) -> None:
    assert SecondStage.of(replace(bundle, folder=tmp_path)) is None


def test_trees_for_other_features_are_refused(
    bundle: Bundle, trees: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / SECOND_STAGE).write_bytes(trees)
    monkeypatch.setattr("recsys_tasks.engine.second_stage.FEATURES", FEATURES[1:])
    with pytest.raises(BundleCorrupt, match="25 features"):
        SecondStage.of(replace(bundle, folder=tmp_path))


def test_without_lightgbm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ConfigurationError, match=r"libgomp1.*RECSYS_SECOND_STAGE=none"):
        second_stage.import_lightgbm()
