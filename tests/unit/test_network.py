import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tasks.evaluation.baselines import baseline_ranks
from recsys_tasks.evaluation.metrics import ranking_metrics
from recsys_tasks.evaluation.protocol import TEST, VALIDATION, model_ranks, questions
from recsys_tasks.features.sequences import build_timeline, query_inputs
from recsys_tasks.model.attention import Attention
from recsys_tasks.model.network import Events, NetworkConfig, Query, Recommender
from recsys_tasks.model.training import TrainingConfig, build_network, train
from recsys_tasks.model.windows import epoch_windows, training_stops, window_batch
from recsys_tasks.names import FIRST_ITEM, PERSONAL, POPULARITY, UNKNOWN_ITEM
from tests.shops import ITEMS, encoded_shop, random_timeline, vocabulary


def _network(repeat: bool = False) -> Recommender:
    torch.manual_seed(1)
    words = vocabulary()
    config = NetworkConfig(len(words), words.categories()[1], repeat, width=16, encoder_layers=2, decoder_layers=2)
    return build_network(config, words).eval()


def test_attention_is_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    attention = Attention(width=8, heads=2).double()
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


@pytest.mark.parametrize("seed", [1, 3, 8, 11])
def test_training_and_inference_give_a_target_the_same_probability(seed: int) -> None:
    """What one more event adds to a window's loss is what the served graph gives that event."""
    network, timeline = _network(repeat=True), random_timeline(seed, users=1)
    first, stop = (int(edge) for edge in timeline.session_start[-2:])
    known = [at for at in range(first, stop) if timeline.item[at] >= FIRST_ITEM]
    everything = torch.arange(FIRST_ITEM, FIRST_ITEM + ITEMS)
    assert known
    for target in known:
        with torch.inference_mode():
            windows = [
                window_batch(timeline, np.asarray([0]), np.asarray([end])) for end in (target, target + 1) if end
            ]
            losses = [float(network.loss(window, everything, torch.zeros(ITEMS))[0]) for window in windows]
            events, query = query_inputs(timeline, np.asarray([first]), np.asarray([target]), 512)
            history = Events(**{name: torch.from_numpy(value) for name, value in events.items()})
            running = Query(**{name: torch.from_numpy(value) for name, value in query.items()})
            scores = network.decode_session(*network.encode_history(history), history.days, running)[0]
        served = float(torch.logsumexp(scores, 0) - scores[int(timeline.item[target])])
        assert losses[-1] - sum(losses[:-1]) == pytest.approx(served, abs=2e-3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 200))
def test_what_comes_later_changes_no_earlier_prediction(seed: int) -> None:
    """A planted future: events after a cut, of no known item and so without a loss of their own, leave the loss."""
    network, timeline = _network(), random_timeline(seed, users=1)
    cut = int(timeline.session_start[(len(timeline.session_start) - 1) // 2]) or len(timeline)
    item = timeline.item.copy()
    item[cut:] = UNKNOWN_ITEM
    planted = build_timeline(
        timeline.user, timeline.session, item, timeline.kind, timeline.seconds, timeline.session_seconds
    )
    negatives, expected = torch.arange(FIRST_ITEM, FIRST_ITEM + ITEMS), torch.zeros(ITEMS)
    with torch.inference_mode():
        losses = [
            network.loss(window_batch(planted, np.asarray([0]), np.asarray([stop])), negatives, expected)
            for stop in (cut, len(planted))
        ]
    assert int(losses[0][1]) == int(losses[1][1])
    assert float(losses[0][0]) == pytest.approx(float(losses[1][0]), abs=1e-2)


@given(st.integers(0, 100), st.integers(3, 12), st.integers(8, 64))
def test_an_epoch_covers_every_training_event_once(seed: int, width: int, tokens: int) -> None:
    timeline = random_timeline(seed)
    split = (np.arange(len(timeline.session_start) - 1) % 3 == 2).astype(np.int8)
    split = np.maximum.accumulate(split)  # later sessions of the last users are not for training
    stops = training_stops(timeline, split)
    times = np.zeros(len(timeline), int)
    for begin, end in epoch_windows(timeline, stops, width, tokens, np.random.default_rng(seed)):
        assert (end - begin <= width).all()
        for a, b in zip(begin, end, strict=True):
            times[a:b] += 1
            assert timeline.user[a] == timeline.user[b - 1]
    expected = np.concatenate(
        [
            np.arange(a, b) < stop
            for a, b, stop in zip(timeline.user_start, timeline.user_start[1:], stops, strict=False)
        ]
    )
    assert times.tolist() == expected.astype(int).tolist()


def test_a_short_training_learns_the_users_habits_and_beats_the_baselines() -> None:
    shop = encoded_shop()
    words = shop.vocabulary
    torch.manual_seed(0)
    network = build_network(NetworkConfig(len(words), words.categories()[1], False, width=32), words)
    asked = questions(shop, VALIDATION)

    def validate(trained: Recommender) -> float:
        return ranking_metrics(model_ranks(trained, shop, asked))["mrr_20"]

    report = train(
        network, shop.timeline, shop.split, words, TrainingConfig(epochs=12, negatives=64, patience=12), validate
    )
    assert report.epochs[-1]["loss"] < report.epochs[0]["loss"]
    test = questions(shop, TEST)
    mine = ranking_metrics(model_ranks(network, shop, test))["mrr_5"]
    baselines = {name: ranking_metrics(ranks)["mrr_5"] for name, ranks in baseline_ranks(shop, test, True).items()}
    assert mine > baselines[POPULARITY]
    assert mine > 0.9 * baselines[PERSONAL]


def test_the_same_seed_gives_the_same_weights() -> None:
    shop = encoded_shop(users=20)
    words = shop.vocabulary
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        network = build_network(NetworkConfig(len(words), words.categories()[1], False, width=16), words)
        train(network, shop.timeline, shop.split, words, TrainingConfig(epochs=1, negatives=32), lambda _: 0.0)
        states.append(network.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
