"""What is kept of users and sessions between answers, and that it changes none of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tasks.engine.bundle import Bundle
from recsys_tasks.engine.engine import Engine
from recsys_tasks.engine.ranking import Wishes
from recsys_tasks.engine.session_decoder import Action
from recsys_tasks.features.sequences import (
    GAP_BUCKETS,
    MAX_TOKENS,
    QUERY_WORDS,
    build_timeline,
    gap_bucket,
    gap_bucket_of,
    query_inputs,
)
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.export import export_graphs
from recsys_tasks.model.files import TrainedModel, save_model
from recsys_tasks.model.incremental import score_items
from recsys_tasks.model.network import Recommender
from recsys_tasks.model.tensors import Events, Query
from recsys_tasks.model.training_loop import build_network
from recsys_tasks.names import EVENT_TYPE_CODES, SEARCH
from tests.shops import ITEMS, small_config, vocabulary

NOW = 1.7e9
TIME = st.integers(0, 4000)
ACTIONS = st.lists(
    st.one_of(
        st.builds(
            lambda item, kind, at: Action(f"i{item}", kind, NOW + at),
            st.integers(0, ITEMS + 1),  # two of them are not known
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
# How a session that was asked for goes on: so many of its first events, then others, all of them several times over.
STEPS = st.lists(st.tuples(st.integers(0, 12), ACTIONS, st.sampled_from([1, 1, 1, 40])), min_size=1, max_size=6)


class Served(NamedTuple):
    """A network, its vocabulary, and two engines that run its graphs."""

    network: Recommender
    words: Vocabulary
    engines: tuple[Engine, Engine]


@pytest.fixture(scope="module", params=[(False, 1), (True, 2)])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    repeat, layers = request.param
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    words = vocabulary()
    sizes: dict[str, Any] = {"decoder_layers": layers, "query_words": QUERY_WORDS, "sessions_repeat": repeat}
    network = build_network(small_config(words, **sizes), words)
    save_model(TrainedModel(network, words), folder)
    export_graphs(network, folder)
    engines = Engine(Bundle.of_model(folder, words)), Engine(Bundle.of_model(folder, words))
    return Served(network.eval(), words, engines)


@pytest.fixture(scope="module")
def engines(served: Served) -> tuple[Engine, Engine]:
    return served.engines


@given(ACTIONS, STEPS)
@settings(deadline=None, max_examples=60)
def test_answers_are_the_same_with_and_without_what_is_kept(
    engines: tuple[Engine, Engine], before: list[Action], steps: list[tuple[int, list[Action], int]]
) -> None:
    _, forgetful = engines
    past = [Action(action.item_id, action.event_type, action.seconds - 1e5, query=action.query) for action in before]
    session: list[Action] = []
    for first, more, times in steps:
        session = sorted([*session[:first], *more * times], key=lambda action: action.seconds)
        forgetful.forget("u")
        found, fresh = (engine.recommend("u", past, session, NOW, Wishes(10)) for engine in engines)
        assert [item.item_id for item in found.items] == [item.item_id for item in fresh.items]
        assert [item.reason for item in found.items] == [item.reason for item in fresh.items]
        np.testing.assert_allclose(
            [item.score for item in found.items], [item.score for item in fresh.items], rtol=1e-4
        )


@pytest.mark.parametrize("count", [0, 1, 6, MAX_TOKENS - 1, MAX_TOKENS, 250])
@pytest.mark.parametrize("known", [0, 9])
def test_answers_are_what_the_network_makes_of_the_same_events(served: Served, known: int, count: int) -> None:
    """History and session through the endpoint's own code, against training's."""
    random = np.random.default_rng(count)
    actions = [
        Action("", SEARCH, NOW + at, query="blue item")
        if number % 7 == 3
        else Action(f"i{random.integers(ITEMS - 10)}", "view", NOW + at)
        for number, at in enumerate(np.cumsum(random.integers(1, 5000, known + count)) - (0 if known else 1))
    ]
    past, session = actions[:known], actions[known:]
    began = session[0].seconds if session else NOW + 1e7
    asked = Action("i0", "view", session[-1].seconds + 60 if session else began)
    words = served.words
    every = [*actions, asked]
    seconds = np.asarray([action.seconds for action in every])
    queries = np.stack([np.zeros(QUERY_WORDS, np.int64), words.words_of("blue item")])
    running = np.arange(len(every)) >= known
    timeline = build_timeline(
        np.zeros(len(every), np.int64),
        np.where(running, known, np.arange(len(every))),
        words.numbers([action.item_id for action in every]),
        np.asarray([EVENT_TYPE_CODES[action.event_type] for action in every]),
        seconds,
        np.where(running, began, seconds),
        np.asarray([int(bool(action.query)) for action in every]),
        queries,
    )
    events, query = query_inputs(timeline, np.asarray([known]), np.asarray([len(every) - 1]), 512)
    with torch.inference_mode():
        scores = score_items(
            served.network,
            Events(**{name: torch.from_numpy(value) for name, value in events.items()}),
            Query(**{name: torch.from_numpy(value) for name, value in query.items()}),
        )
    expected = scores.softmax(-1).numpy()[0]
    likely = served.engines[0]._likely(None, past, session, began)
    if not known and not count:
        assert likely.source == "popular"
        return
    found = likely.scores.best(1, also=np.arange(len(words)))
    shares = np.zeros(len(words))
    np.maximum.at(shares, found.numbers, found.scores)
    np.testing.assert_allclose(shares, expected, rtol=0.03, atol=1e-6)


def test_of_a_session_that_goes_on_only_what_is_new_is_decoded(engines: tuple[Engine, Engine]) -> None:
    engine, _ = engines
    read: list[int] = []
    decoder = engine._reader._decoder

    class Watched:
        beginning = staticmethod(decoder.beginning)

        def __call__(self, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            read.append(given["place"].shape[1])
            return decoder(given)

    engine._reader._decoder = Watched()  # type: ignore[assignment]
    session = [Action(f"i{number % ITEMS}", "view", NOW + number) for number in range(MAX_TOKENS + 1)]
    for count in (3, 3, 4, 9, 2, MAX_TOKENS - 1, MAX_TOKENS, MAX_TOKENS + 1):
        engine.recommend("another", (), session[:count], NOW, Wishes(3))
    engine._reader._decoder = decoder
    assert read == [4, 1, 1, 5, 1, MAX_TOKENS - 3, MAX_TOKENS, MAX_TOKENS]


def _kept(engine: Engine, user_id: str | None, past: list[Action], session: list[Action]) -> bool:
    answer = engine.recommend(user_id, past, session, NOW, Wishes(3))
    assert answer.spent is not None
    return answer.spent.kept


def test_who_is_forgotten_is_read_anew(engines: tuple[Engine, Engine]) -> None:
    engine, _ = engines
    past, session = [Action("i1", "view", NOW - 1e5)], [Action("i2", "view", NOW + 1), Action("i3", "view", NOW + 2)]
    assert [_kept(engine, "gone", past, session) for _ in range(2)] == [False, True]
    engine.recommend(None, (), session, NOW, Wishes(3))
    engine.forget("gone")
    assert not [key for key, _ in engine._reader._sessions.latest_first() if key[0] in (None, "gone")]
    assert not _kept(engine, "gone", past, session)


def test_what_is_kept_has_a_limit_and_less_of_one_once_it_rests(served: Served) -> None:
    past, session = [Action("i1", "view", NOW - 1e5)], [Action("i2", "view", NOW + 1)]
    room = 100_000
    engine = Engine(served.engines[0].bundle, kept_bytes=room)
    for number in range(200):
        engine.recommend(f"u{number}", past, session, NOW, Wishes(3))
    reader = engine._reader

    def size() -> int:
        kept = [entry for _, entry in reader._pasts.latest_first()]
        return sum(entry.bytes() for entry in kept) + sum(entry.bytes() for _, entry in reader._sessions.latest_first())

    assert room / 2 < size() <= room
    assert _kept(engine, "u199", past, session)
    assert not _kept(engine, "u0", past, session)
    other = Engine(served.engines[0].bundle, kept_bytes=room // 4)
    other.warm(engine)
    assert _kept(other, "u0", past, session)
    assert _kept(other, "u199", past, session)
    assert not _kept(other, "u150", past, session)
    engine.rest()
    assert 0 < size() < room / 4


@given(st.floats(-10, 1e9, allow_nan=False))
def test_a_gap_has_one_bucket(seconds: float) -> None:
    assert gap_bucket_of(seconds) == int(gap_bucket(np.asarray([seconds]))[0])
    assert 0 <= gap_bucket_of(seconds) < GAP_BUCKETS
