from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tasks.evaluation.baselines import BASELINE_FITTERS
from recsys_tasks.evaluation.metrics import ranking_metrics
from recsys_tasks.evaluation.protocol import (
    TEST,
    VALIDATION,
    PredictionTasks,
    model_ranks,
    model_scorer,
    rank_targets,
    select_prediction_tasks,
)
from recsys_tasks.features.sequences import (
    GAP_BUCKETS,
    QUERY_WORDS,
    SECONDS_PER_DAY,
    Timeline,
    build_timeline,
    gap_bucket,
    session_inputs,
)
from recsys_tasks.model.attention import Attention, Dropout
from recsys_tasks.model.incremental import score_items
from recsys_tasks.model.network import Recommender, _gap_bucket
from recsys_tasks.model.tensors import Events, NegativeSample, Query
from recsys_tasks.model.training_loop import TrainingConfig, TrainingData, build_network, train
from recsys_tasks.model.windows import epoch_windows, training_stops, window_batch
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, PERSONAL_FREQUENCY, POPULARITY, SEARCH, UNKNOWN_ITEM, VIEW
from tests.shops import (
    COLORS,
    ITEMS,
    START,
    baseline_data,
    encoded_shop,
    random_timeline,
    small_config,
    train_small_network,
    training_data,
    vocabulary,
)


def _network(repeat: bool = False) -> Recommender:
    torch.manual_seed(1)
    words = vocabulary()
    sizes = {"num_encoder_layers": 2, "num_decoder_layers": 2, "query_words": QUERY_WORDS}
    config = small_config(words, sessions_repeat=repeat, **sizes)
    return build_network(config, words).eval()


@given(st.lists(st.floats(0, 4_000 * SECONDS_PER_DAY), max_size=20))
def test_the_network_and_the_features_put_a_gap_into_the_same_bucket(gaps: list[float]) -> None:
    edges = 60 * np.expm1(np.arange(1, GAP_BUCKETS) / 1.6)  # tested just below and just above
    seconds = np.concatenate([gaps, edges * (1 - 1e-4), edges * (1 + 1e-4)])
    found = _gap_bucket(torch.from_numpy(seconds / SECONDS_PER_DAY).float()).numpy()
    rounded = 1e-5  # relative error of single precision
    assert (gap_bucket(seconds * (1 - rounded)) <= found).all()
    assert (found <= gap_bucket(seconds * (1 + rounded))).all()


def test_attention_is_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    attention = Attention(embedding_dim=8, num_heads=2).double()
    x, source = torch.randn(1, 3, 8).double(), torch.randn(1, 5, 8).double()
    mask = torch.rand(1, 1, 3, 5) > 0.3
    mask[..., 0] = True
    found = attention(x, source, mask).detach().numpy()[0]

    query = x.numpy()[0] @ attention.query.weight.detach().numpy().T
    key, value = np.split(source.numpy()[0] @ attention.key_value.weight.detach().numpy().T, 2, axis=1)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        products = query[:, head] @ key[:, head].T / np.sqrt(4)
        weights = np.where(mask.numpy()[0, 0], np.exp(products), 0)
        heads.append(weights / weights.sum(1, keepdims=True) @ value[:, head])
    expected = np.concatenate(heads, 1) @ attention.out.weight.detach().numpy().T
    assert np.allclose(found, expected)


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("seed", [1, 3, 8, 11])
def test_training_and_inference_give_a_target_the_same_probability(seed: int, sampled: bool) -> None:
    """An event's addition to a window's loss is its negative log probability in inference."""
    network, timeline = _network(repeat=True), random_timeline(seed, users=1)
    last = int(timeline.session[np.flatnonzero(timeline.item >= FIRST_ITEM)[-1]])
    first, stop = (int(edge) for edge in timeline.session_start[last : last + 2])
    known = [at for at in range(first, stop) if timeline.item[at] >= FIRST_ITEM]
    sample = NegativeSample(torch.arange(FIRST_ITEM, FIRST_ITEM + ITEMS), torch.zeros(ITEMS)) if sampled else None
    for target in known:
        with torch.inference_mode():
            windows = [
                window_batch(timeline, np.asarray([0]), np.asarray([end])) for end in (target, target + 1) if end
            ]
            losses = [float(network.loss(window, sample)[0]) for window in windows]
            events, query = session_inputs(timeline, np.asarray([first]), np.asarray([target]), 512)
            history = Events(**{name: torch.from_numpy(value) for name, value in events.items()})
            running = Query(**{name: torch.from_numpy(value) for name, value in query.items()})
            scores = score_items(network, history, running)[0]
        served = float(torch.logsumexp(scores, 0) - scores[int(timeline.item[target])])
        assert losses[-1] - sum(losses[:-1]) == pytest.approx(served, abs=2e-3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 200))
def test_later_events_change_no_earlier_prediction(seed: int) -> None:
    """Replaces the items after a cut by unknown ones, which have no loss of their own; the loss must not change."""
    network, timeline = _network(), random_timeline(seed, users=1)
    cut = int(timeline.session_start[(len(timeline.session_start) - 1) // 2]) or len(timeline)
    item = timeline.item.copy()
    item[cut:] = UNKNOWN_ITEM
    planted = build_timeline(
        timeline.user,
        timeline.session,
        item,
        timeline.kind,
        timeline.seconds,
        timeline.session_seconds,
        timeline.text,
        timeline.queries,
    )
    with torch.inference_mode():
        losses = [
            network.loss(window_batch(planted, np.asarray([0]), np.asarray([stop]))) for stop in (cut, len(planted))
        ]
    assert int(losses[0][1]) == int(losses[1][1])
    assert float(losses[0][0]) == pytest.approx(float(losses[1][0]), abs=1e-2)


@given(st.integers(0, 100), st.integers(3, 12), st.integers(8, 64))
def test_an_epoch_covers_every_training_event_once(seed: int, window_size: int, batch_tokens: int) -> None:
    timeline = random_timeline(seed)
    split = (np.arange(len(timeline.session_start) - 1) % 3 == 2).astype(np.int8)
    split = np.maximum.accumulate(split)  # later sessions of the last users are not in the training part
    stops = training_stops(timeline, split)
    counts = np.zeros(len(timeline), int)
    for begin, end in epoch_windows(timeline, stops, window_size, batch_tokens, np.random.default_rng(seed)):
        assert (end - begin <= window_size).all()
        for a, b in zip(begin, end, strict=True):
            counts[a:b] += 1
            assert timeline.user[a] == timeline.user[b - 1]
    expected = np.concatenate(
        [
            np.arange(a, b) < stop
            for a, b, stop in zip(timeline.user_start, timeline.user_start[1:], stops, strict=False)
        ]
    )
    assert counts.tolist() == expected.astype(int).tolist()


def test_a_short_training_learns_repeated_items_and_beats_the_popularity_baseline() -> None:
    shop = encoded_shop()
    words = shop.vocabulary
    torch.manual_seed(0)
    network = build_network(small_config(words, embedding_dim=32), words)
    asked = select_prediction_tasks(shop, VALIDATION)

    def validate(trained: Recommender) -> float:
        return ranking_metrics(model_ranks(trained, shop.timeline, asked))["mrr_20"]

    report = train(network, training_data(shop), TrainingConfig(epochs=12, num_negatives=64, patience=12), validate)
    assert report.epochs[-1]["loss"] < report.epochs[0]["loss"]
    test = select_prediction_tasks(shop, TEST)
    trained_mrr = ranking_metrics(model_ranks(network, shop.timeline, test))["mrr_5"]
    data = baseline_data(shop)
    baselines = {
        name: ranking_metrics(rank_targets(fit(data), shop.timeline, test, exclude_session_items=True).ranks)["mrr_5"]
        for name, fit in BASELINE_FITTERS.items()
    }
    assert trained_mrr > baselines[POPULARITY]
    assert trained_mrr > 0.9 * baselines[PERSONAL_FREQUENCY]


def test_the_same_seed_gives_the_same_weights() -> None:
    shop = encoded_shop(users=20)
    words = shop.vocabulary
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        network = build_network(small_config(words), words)
        train(network, training_data(shop), TrainingConfig(epochs=2, num_negatives=32), lambda _: 0.0)
        states.append(network.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def _searches(count: int, seed: int) -> Timeline:
    """Sessions of three events: a view, a search for a color, and a view of an item of that color."""
    random = np.random.default_rng(seed)
    words = vocabulary()
    wanted = random.integers(ITEMS, size=count)
    before = random.integers(ITEMS, size=count)
    item = np.stack([before + FIRST_ITEM, np.full(count, UNKNOWN_ITEM), wanted + FIRST_ITEM], 1)
    kind = np.tile([EVENT_TYPE_CODES[name] for name in (VIEW, SEARCH, VIEW)], count)
    queries, row_of = words.encode_queries([f"{COLORS[number % 4]} item" for number in wanted])
    text = np.stack([np.zeros(count, int), row_of, np.zeros(count, int)], 1)
    who = np.repeat(np.arange(count), 3)
    seconds = np.repeat(np.arange(count) * 600.0, 3) + np.tile([0.0, 60.0, 120.0], count)
    began = np.repeat(seconds[::3], 3)
    return build_timeline(who, who, item.ravel(), kind, seconds, began, text.ravel(), queries)


def test_a_search_is_followed_by_items_with_its_words() -> None:
    timeline = _searches(1_000, seed=0)
    network = train_small_network(timeline, users=800, epochs=20, query_words=QUERY_WORDS)
    first = timeline.session_start[800:-1]
    lists = rank_targets(model_scorer(network, timeline), timeline, PredictionTasks(first, first + 2)).lists[:, :5]
    colour = timeline.item[first + 2] % 4
    assert (lists % 4 == colour[:, None]).mean() > 0.8


@given(st.floats(0, 0.9), st.integers(0, 100))
def test_dropout_zeroes_its_rate_and_keeps_the_mean(rate: float, seed: int) -> None:
    torch.manual_seed(seed)
    drop, x = Dropout(rate), torch.ones(64, 257)
    dropped = drop(x)
    assert (dropped == 0).float().mean().item() == pytest.approx(rate, abs=0.03)
    assert dropped.mean().item() == pytest.approx(1, abs=0.1)
    assert torch.equal(drop.eval()(x), x)


def test_vectors_place_items_that_were_never_trained_on() -> None:
    """Sessions stay within the items of one style; only the vectors tell the style of the last ten items."""
    random = np.random.default_rng(0)
    words, style = vocabulary(), np.arange(ITEMS) % 4
    words = replace(words, titles=("",) * ITEMS, category_paths=("",) * ITEMS, num_untrained=10)
    num_trained, sessions = ITEMS - 10, 400
    rows = []
    for number in range(sessions):
        of_style = np.flatnonzero(style[:num_trained] == number % 4)
        rows += [(number, int(drawn)) for drawn in random.choice(of_style, 4, replace=False)]
    session, item = (np.asarray(column) for column in zip(*rows, strict=True))
    seconds = START.timestamp() + session * 60.0
    kinds = np.full(len(rows), EVENT_TYPE_CODES[VIEW])
    timeline = build_timeline(session, session, item + FIRST_ITEM, kinds, seconds, seconds)
    spaces = np.zeros((len(words), 12), np.float32)
    spaces[FIRST_ITEM:, :4] = np.eye(4)[style]
    spaces[FIRST_ITEM:, 4:] = random.normal(size=(ITEMS, 8)) / 4  # a space that says nothing
    dims = {"style": 4, "noise": 8}
    torch.manual_seed(0)
    config = small_config(words, num_trained_items=words.num_trained, history=False, vector_spaces=dims)
    network = build_network(config, words, spaces=spaces)
    stops = timeline.user_start[1:]
    data = TrainingData(timeline, np.bincount(timeline.item, minlength=len(words)), stops, stops)
    train(network, data, TrainingConfig(epochs=10, seconds=600, num_negatives=0, batch_tokens=256), lambda _: 0.0)
    vectors = network.eval().items.matrix()[FIRST_ITEM:].detach().numpy()
    nearest = (vectors[num_trained:] @ vectors[:num_trained].T).argmax(1)
    assert (style[nearest] == style[num_trained:]).mean() >= 0.9
