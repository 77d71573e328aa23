"""What is kept of users and sessions between answers, and that it changes none of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tasks.features.sequences import GAP_BUCKETS, MAX_TOKENS, QUERY_WORDS, gap_bucket, gap_bucket_of
from recsys_tasks.model.export import export_graphs
from recsys_tasks.model.files import TrainedModel, save_model
from recsys_tasks.model.training import build_network
from recsys_tasks.names import SEARCH
from recsys_tasks.serving.bundle import Bundle
from recsys_tasks.serving.engine import Engine
from recsys_tasks.serving.ranking import Wishes
from recsys_tasks.serving.reader import Action
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


@pytest.fixture(scope="module", params=[(False, 1), (True, 2)])
def engines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, Engine]:
    repeat, layers = request.param
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    words = vocabulary()
    sizes: dict[str, Any] = {"decoder_layers": layers, "query_words": QUERY_WORDS, "sessions_repeat": repeat}
    network = build_network(small_config(words, **sizes), words)
    save_model(TrainedModel(network, words), folder)
    export_graphs(network, folder)
    return Engine(Bundle.of_model(folder, words)), Engine(Bundle.of_model(folder, words))


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


def test_who_is_forgotten_is_read_anew(engines: tuple[Engine, Engine]) -> None:
    engine, _ = engines
    past = [Action("i1", "view", NOW - 1e5)]
    kept = []
    for _ in range(2):
        answer = engine.recommend("gone", past, (), NOW, Wishes(3))
        kept.append(answer.spent is not None and answer.spent.kept)
    engine.forget("gone")
    answer = engine.recommend("gone", past, (), NOW, Wishes(3))
    kept.append(answer.spent is not None and answer.spent.kept)
    assert kept == [False, True, False]


@given(st.floats(-10, 1e9, allow_nan=False))
def test_a_gap_has_one_bucket(seconds: float) -> None:
    assert gap_bucket_of(seconds) == int(gap_bucket(np.asarray([seconds]))[0])
    assert 0 <= gap_bucket_of(seconds) < GAP_BUCKETS
