"""The session decoder: answers do not depend on its caches, and match the network."""

from __future__ import annotations

import gc
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tasks.engine.bundle import Bundle, read_bundle
from recsys_tasks.engine.engine import Engine
from recsys_tasks.engine.item_updates import ItemUpdate
from recsys_tasks.engine.ranking import ListOptions
from recsys_tasks.engine.search_options import DEFAULT_SEARCH
from recsys_tasks.engine.session_decoder import Action
from recsys_tasks.features.sequences import (
    GAP_BUCKETS,
    MAX_TOKENS,
    QUERY_WORDS,
    build_timeline,
    gap_bucket,
    scalar_gap_bucket,
    session_inputs,
)
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.incremental import score_items
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import Events, Query
from recsys_tasks.names import EVENT_TYPE_CODES, SEARCH
from recsys_tasks.wire.items import Item
from recsys_tasks.wire.rules import MerchandisingRules
from tests.shops import ITEMS, export_small_network

NOW = 1.7e9
TIME = st.integers(0, 4000)
ACTIONS = st.lists(
    st.one_of(
        st.builds(
            lambda item, kind, at: Action(f"i{item}", kind, NOW + at),
            st.integers(0, ITEMS + 1),  # two of them are unknown
            st.sampled_from(["view", "add_to_cart", "purchase"]),
            TIME,
        ),
        st.builds(
            lambda words, at: Action("", SEARCH, NOW + at, query=words),
            st.sampled_from(["blue item", "yellow", "ü"]),
            TIME,
        ),
    ),
    min_size=1,
    max_size=8,
)
# Requests of one session: how many events it keeps, the events it adds, and how often these repeat.
STEPS = st.lists(st.tuples(st.integers(0, 12), ACTIONS, st.sampled_from([1, 1, 1, 40])), min_size=1, max_size=6)


class ExportedModel(NamedTuple):
    """A network, its vocabulary, and two engines that run its graphs."""

    network: Recommender
    words: Vocabulary
    engines: tuple[Engine, Engine]


@pytest.fixture(scope="module", params=[(False, 1), (True, 2)])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    repeat, layers = request.param
    network, folder, words = export_small_network(
        tmp_path_factory, query_words=QUERY_WORDS, sessions_repeat=repeat, num_decoder_layers=layers
    )
    engines = Engine(Bundle.from_model(folder, words)), Engine(Bundle.from_model(folder, words))
    return ExportedModel(network, words, engines)


@pytest.fixture(scope="module")
def without_searches(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    _, folder, words = export_small_network(tmp_path_factory, query_words=0, sessions_repeat=False)
    return Engine(Bundle.from_model(folder, words))


@pytest.fixture(scope="module")
def engines(exported: ExportedModel) -> tuple[Engine, Engine]:
    return exported.engines


@given(ACTIONS, STEPS)
@settings(deadline=None, max_examples=60)
def test_answers_are_the_same_with_and_without_cache(
    engines: tuple[Engine, Engine], earlier: list[Action], steps: list[tuple[int, list[Action], int]]
) -> None:
    _, uncached = engines
    past = [Action(action.item_id, action.event_type, action.seconds - 1e5, query=action.query) for action in earlier]
    session: list[Action] = []
    for num_kept, new, times in steps:
        session = sorted([*session[:num_kept], *new * times], key=lambda action: action.seconds)
        uncached.forget("u")
        cached, fresh = (engine.recommend("u", past, session, NOW, ListOptions(10)) for engine in engines)
        assert [item.item_id for item in cached.items] == [item.item_id for item in fresh.items]
        assert [item.reason for item in cached.items] == [item.reason for item in fresh.items]
        np.testing.assert_allclose(
            [item.score for item in cached.items], [item.score for item in fresh.items], rtol=1e-4
        )


@given(ACTIONS, ACTIONS)
@settings(deadline=None, max_examples=30)
def test_a_model_that_was_not_trained_on_searches_leaves_them_out(
    without_searches: Engine, earlier: list[Action], session: list[Action]
) -> None:
    past = [Action(action.item_id, action.event_type, action.seconds - 1e5, query=action.query) for action in earlier]
    session = sorted(session, key=lambda action: action.seconds)
    with_searches = without_searches.recommend("u", past, session, NOW, ListOptions(10))
    other_past, other_session = ([action for action in part if action.event_type != SEARCH] for part in (past, session))
    without = without_searches.recommend("u", other_past, other_session, NOW, ListOptions(10))
    assert [item.item_id for item in with_searches.items] == [item.item_id for item in without.items]


@pytest.mark.parametrize("count", [0, 1, 6, MAX_TOKENS - 1, MAX_TOKENS, 250])
@pytest.mark.parametrize("history", [0, 9])
def test_engine_scores_equal_network_scores(exported: ExportedModel, history: int, count: int) -> None:
    """Serving code against training code, on the same history and session."""
    random = np.random.default_rng(count)
    actions = [
        Action("", SEARCH, NOW + at, query="blue item")
        if number % 7 == 3
        else Action(f"i{random.integers(ITEMS - 10)}", "view", NOW + at)
        for number, at in enumerate(np.cumsum(random.integers(1, 5000, history + count)) - (0 if history else 1))
    ]
    past, session = actions[:history], actions[history:]
    start = session[0].seconds if session else NOW + 1e7
    target = Action("i0", "view", session[-1].seconds + 60 if session else start)
    words = exported.words
    events_and_target = [*actions, target]
    seconds = np.asarray([action.seconds for action in events_and_target])
    queries = np.stack([np.zeros(QUERY_WORDS, np.int64), words.encode_query("blue item")])
    in_session = np.arange(len(events_and_target)) >= history
    timeline = build_timeline(
        np.zeros(len(events_and_target), np.int64),
        np.where(in_session, history, np.arange(len(events_and_target))),
        words.numbers([action.item_id for action in events_and_target]),
        np.asarray([EVENT_TYPE_CODES[action.event_type] for action in events_and_target]),
        seconds,
        np.where(in_session, start, seconds),
        np.asarray([int(bool(action.query)) for action in events_and_target]),
        queries,
    )
    events, query = session_inputs(timeline, np.asarray([history]), np.asarray([len(events_and_target) - 1]), 512)
    with torch.inference_mode():
        scores = score_items(
            exported.network,
            Events(**{name: torch.from_numpy(value) for name, value in events.items()}),
            Query(**{name: torch.from_numpy(value) for name, value in query.items()}),
        )
    expected = scores.softmax(-1).numpy()[0]
    prediction = exported.engines[0]._predict(None, past, session, start)
    if not history and not count:
        assert prediction.source == "popular"
        return
    scored = prediction.scores.top_k(1, include=np.arange(len(words)))
    shares = np.zeros(len(words))
    np.maximum.at(shares, scored.numbers, scored.scores)
    np.testing.assert_allclose(shares, expected, rtol=0.03, atol=1e-6)


def test_only_new_tokens_of_a_session_are_decoded(engines: tuple[Engine, Engine]) -> None:
    engine, _ = engines
    num_decoded: list[int] = []
    decoder = engine._session_decoder._decoder

    class RecordingDecoder:
        initial_state = staticmethod(decoder.initial_state)

        def __call__(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            num_decoded.append(arrays["place"].shape[1])
            return decoder(arrays)

    engine._session_decoder._decoder = RecordingDecoder()  # type: ignore[assignment]
    session = [Action(f"i{number % ITEMS}", "view", NOW + number) for number in range(MAX_TOKENS + 1)]
    for count in (3, 3, 4, 9, 2, MAX_TOKENS - 1, MAX_TOKENS, MAX_TOKENS + 1):
        engine.recommend("another", (), session[:count], NOW, ListOptions(3))
    engine._session_decoder._decoder = decoder
    assert num_decoded == [4, 1, 1, 5, 1, MAX_TOKENS - 3, MAX_TOKENS, MAX_TOKENS]


def _is_history_cached(engine: Engine, user_id: str | None, past: list[Action], session: list[Action]) -> bool:
    answer = engine.recommend(user_id, past, session, NOW, ListOptions(3))
    assert answer.timings is not None
    return answer.timings.history_cached


def test_forgetting_a_user_drops_cache_entries(engines: tuple[Engine, Engine]) -> None:
    engine, _ = engines
    past, session = [Action("i1", "view", NOW - 1e5)], [Action("i2", "view", NOW + 1), Action("i3", "view", NOW + 2)]
    assert [_is_history_cached(engine, "erased", past, session) for _ in range(2)] == [False, True]
    engine.recommend(None, (), session, NOW, ListOptions(3))
    engine.forget("erased")
    assert not [key for key, _ in engine._session_decoder._sessions.items_by_recency() if key[0] in (None, "erased")]
    assert not _is_history_cached(engine, "erased", past, session)


def test_caches_stay_within_their_limit_and_shrink_when_idle(exported: ExportedModel) -> None:
    past, session = [Action("i1", "view", NOW - 1e5)], [Action("i2", "view", NOW + 1)]
    limit = 100_000
    engine = Engine(exported.engines[0].bundle, cache_bytes=limit)
    for number in range(200):
        engine.recommend(f"u{number}", past, session, NOW, ListOptions(3))
    decoder = engine._session_decoder

    def size() -> int:
        histories = sum(entry.size_bytes() for _, entry in decoder._histories.items_by_recency())
        return histories + sum(entry.size_bytes() for _, entry in decoder._sessions.items_by_recency())

    assert limit / 2 < size() <= limit
    assert _is_history_cached(engine, "u199", past, session)
    assert not _is_history_cached(engine, "u0", past, session)
    other = Engine(exported.engines[0].bundle, cache_bytes=limit // 4)
    other.warm_cache(engine)
    assert _is_history_cached(other, "u0", past, session)
    assert _is_history_cached(other, "u199", past, session)
    assert not _is_history_cached(other, "u150", past, session)
    engine.shrink_cache()
    assert 0 < size() < limit / 4


@given(st.floats(-10, 1e9, allow_nan=False))
def test_scalar_and_array_gap_buckets_agree(seconds: float) -> None:
    assert scalar_gap_bucket(seconds) == int(gap_bucket(np.asarray([seconds]))[0])
    assert 0 <= scalar_gap_bucket(seconds) < GAP_BUCKETS


def test_a_replaced_engine_is_freed_without_garbage_collection(bundles: list[Path]) -> None:
    """The models of an endpoint are excluded from garbage collection."""
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        engine = Engine(read_bundle(bundles[0]))
        engine.warm_up()
        item_id = engine.bundle.vocabulary.item_ids[0]
        engine.recommend("u1", [], [Action(item_id, "view", 0.0)], 1.0, ListOptions(5))
        searched = Action("", SEARCH, 1.0, query="item")
        engine.search("u1", [], [searched], 1.0, "item", ListOptions(5), DEFAULT_SEARCH)
        changed = engine.with_items({"new": ItemUpdate("new", datetime.now(UTC), Item("New item"))}).with_rules(
            MerchandisingRules()
        )
        changed.recommend("u1", [], [], 1.0, ListOptions(5))
        del engine, changed
        gc.collect()
        kept = {type(part).__name__ for part in gc.garbage if type(part).__module__.startswith("recsys_tasks")}
        assert not kept
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
