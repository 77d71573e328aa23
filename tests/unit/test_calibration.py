from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.engine.purchase_intent import FEATURES, PurchaseIntent, sigmoid
from recsys_tasks.evaluation.calibration import (
    IntentReport,
    calibration_curve,
    evaluate_intent,
    intent_metrics,
    purchase_intent_inputs,
    without_intent,
)
from recsys_tasks.evaluation.protocol import TEST, TRAINING, PredictionTasks, sample_session_prefixes
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.features.sequences import Timeline, build_timeline
from recsys_tasks.features.session_summary import ItemStatistics
from recsys_tasks.model.training_loop import TrainingData, build_network
from recsys_tasks.names import ADD_TO_CART, EVENT_TYPE_CODES, FIRST_ITEM, PURCHASE, VIEW
from recsys_tasks.training.purchase_intent import calibrate, choose_predictor, fit_baseline, fit_purchase_intent
from tests.shops import ITEMS, encoded_shop, small_config, training_data, vocabulary

OUTCOMES = st.lists(st.tuples(st.floats(-8, 8), st.booleans()), min_size=2, max_size=60)


def test_calibrated_probabilities_have_no_calibration_error(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    predicted = random.random(20_000)
    purchased = random.random(20_000) < predicted
    found = calibration_curve(predicted, purchased)
    assert found.error < 0.02
    assert found.brier == pytest.approx(1 / 6, abs=0.01)
    assert sum(found.count) == 20_000
    found.save_plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[1:4] == b"PNG"


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_the_bins_average_to_the_base_rate(rows: list[tuple[float, bool]]) -> None:
    predicted, purchased = (np.asarray(column) for column in zip(*rows, strict=True))
    found = calibration_curve(predicted, purchased)
    assert np.average(found.observed, weights=found.count) == pytest.approx(found.base_rate)
    assert 0 <= found.error <= 1


def _sessions(count: int, seed: int) -> Timeline:
    """Visitors with three items of one half of the catalog; those of the first half mostly buy the last item."""
    random = np.random.default_rng(seed)
    half = random.integers(2, size=(count, 1))
    item = random.integers(ITEMS // 2, size=(count, 3)) + half * (ITEMS // 2) + FIRST_ITEM
    probability = np.where(item[:, 0] < FIRST_ITEM + ITEMS // 2, 0.8, 0.1)
    kind = np.full((count, 3), EVENT_TYPE_CODES[VIEW])
    kind[:, 2] = np.where(random.random(count) < probability, EVENT_TYPE_CODES[PURCHASE], EVENT_TYPE_CODES[VIEW])
    user = np.repeat(np.arange(count), 3)
    seconds = np.repeat(np.arange(count) * 600.0, 3) + np.tile([0.0, 60.0, 120.0], count)
    return build_timeline(user, user, item.ravel(), kind.ravel(), seconds, np.repeat(seconds[::3], 3))


def test_events_lead_to_purchase_up_to_the_last_purchase_of_the_session() -> None:
    kind = np.asarray([EVENT_TYPE_CODES[name] for name in (VIEW, PURCHASE, VIEW, VIEW, VIEW)])
    session = np.asarray([0, 0, 0, 1, 1])
    seconds = np.arange(5.0)
    timeline = build_timeline(np.zeros(5, int), session, np.full(5, 3), kind, seconds, seconds[[0, 0, 0, 3, 3]])
    assert timeline.leads_to_purchase.tolist() == [True, True, False, False, False]


def test_session_prefixes_are_sampled_after_the_first_event() -> None:
    shop = encoded_shop()
    tasks = sample_session_prefixes(shop, TEST)
    assert (tasks.target > tasks.first).all()
    assert (shop.timeline.session[tasks.target] == shop.timeline.session[tasks.first]).all()
    assert set((tasks.target - tasks.first).tolist()) == {1, 2, 3}
    assert len(tasks) == int((shop.split == TEST).sum())


def test_the_calibration_error_is_the_mean_distance_of_predicted_and_observed_rates() -> None:
    predicted = np.repeat(np.arange(10) / 10, 10)  # a bin per value
    purchased = np.tile(np.arange(10) < 3, 10)  # three in ten of each
    expected = np.abs(np.arange(10) / 10 - 0.3).mean()
    assert intent_metrics(predicted, purchased)["ece"] == pytest.approx(expected)


@given(OUTCOMES.filter(lambda rows: len({bought for _, bought in rows}) == 2))
def test_the_auc_is_the_probability_that_a_buyer_is_predicted_higher(rows: list[tuple[float, bool]]) -> None:
    logits, purchased = (np.asarray(column) for column in zip(*rows, strict=True))
    predicted = sigmoid(logits)
    difference = predicted[purchased][:, None] - predicted[~purchased]
    expected = ((difference > 0) + (difference == 0) / 2).mean()
    assert intent_metrics(predicted, purchased)["auc"] == pytest.approx(expected)


@given(OUTCOMES)
def test_a_calibration_keeps_the_order_stays_in_bounds_and_fits_no_worse(rows: list[tuple[float, bool]]) -> None:
    logits, bought = (np.asarray(column) for column in zip(*rows, strict=True))
    calibrated = calibrate(PurchaseIntent(), logits, bought)
    found = calibrated.calibrate(np.sort(logits))
    assert (np.diff(found) >= 0).all()
    assert ((found >= 0) & (found <= 1)).all()
    assert _loss(calibrated.calibrate(logits), bought) <= _loss(sigmoid(logits), bought) + 1e-6


def _loss(predicted: np.ndarray, bought: np.ndarray) -> float:
    return float(-np.log(np.clip(np.where(bought, predicted, 1 - predicted), 1e-12, 1)).sum())


def test_another_predictor_is_chosen_only_where_it_is_clearly_better() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(-2, 1.5, 4_000)
    bought = random.random(4_000) < sigmoid(logits)
    vague = np.full(4_000, -1.7)
    assert choose_predictor([vague, logits], bought) == 1
    assert choose_predictor([logits, vague], bought) == 0
    assert choose_predictor([logits, logits + random.normal(0, 0.001, 4_000)], bought) == 0
    assert choose_predictor([vague[:20], logits[:20]], bought[:20]) == 0  # too few to tell


def test_few_outcomes_hardly_move_the_calibration_and_many_do() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(-2, 1, 20_000)
    bought = random.random(20_000) < sigmoid(2 * logits + 1)  # slope 2, intercept 1
    few, many = (calibrate(PurchaseIntent(), logits[:count], bought[:count]) for count in (5, 20_000))
    assert abs(few.slope - 1) < 0.5
    assert many.slope == pytest.approx(2, abs=0.15)
    assert many.intercept == pytest.approx(1, abs=0.2)


def test_the_extremes_of_a_logit_are_probabilities() -> None:
    assert sigmoid(np.asarray([-1e5, 0.0, 1e5])).tolist() == [0.0, 0.5, 1.0]


def test_a_saved_purchase_intent_is_read_again(tmp_path: Path) -> None:
    items = ItemStatistics(np.log([0.1, 0.1, 0.5]), np.asarray([0.0, 0.0, 2.0]))
    saved = PurchaseIntent(np.asarray([0.5, -1.0]), np.arange(float(len(FEATURES))), -2.0, items, 1.5, 0.25)
    saved.save(tmp_path / "intent.npz")
    read = PurchaseIntent.load(tmp_path / "intent.npz")
    random = np.random.default_rng(0)
    inputs = random.normal(size=(9, 2)), random.normal(size=(9, len(FEATURES))) / 100
    assert read.predict(*inputs).tolist() == saved.predict(*inputs).tolist()
    assert read.items.log_rate.tolist() == items.log_rate.tolist()
    PurchaseIntent(reason="no training session has a purchase").save(tmp_path / "intent.npz")
    assert PurchaseIntent.load(tmp_path / "intent.npz").reason == "no training session has a purchase"


def test_a_purchase_intent_with_other_features_is_rejected(tmp_path: Path) -> None:
    PurchaseIntent(np.zeros(1), np.zeros(len(FEATURES))).save(tmp_path / "intent.npz")
    with np.load(tmp_path / "intent.npz") as stored:
        arrays = {**stored, "names": stored["names"][::-1]}
    np.savez(tmp_path / "intent.npz", **arrays)
    with pytest.raises(ValueError, match="train the model again"):
        PurchaseIntent.load(tmp_path / "intent.npz")


@pytest.mark.parametrize(("kind", "reason"), [(PURCHASE, "every training session"), (VIEW, "no training session")])
def test_purchase_intent_is_not_predicted_where_training_has_one_outcome(kind: str, reason: str) -> None:
    shop = encoded_shop(users=20)
    kinds = np.full(len(shop.timeline), EVENT_TYPE_CODES[kind])
    shop = replace(shop, timeline=_with_kinds(shop.timeline, kinds))
    network = build_network(small_config(shop.vocabulary), shop.vocabulary)
    found = fit_purchase_intent(network, training_data(shop), shop)
    assert not found.is_available
    assert reason in found.reason
    report = without_intent(found.reason, np.ones(5, bool))
    assert reason in report.as_markdown()
    assert report.table == {}


def test_a_test_part_with_one_outcome_is_not_evaluated() -> None:
    report = evaluate_intent({"model": np.full(4, 0.5)}, np.ones(4, bool), np.arange(4))
    assert "4 of 4 test sessions have a purchase" in report.as_markdown()


def _with_kinds(timeline: Timeline, kind: np.ndarray) -> Timeline:
    names = ("user", "session", "item", "seconds", "session_seconds")
    user, session, item, seconds, session_seconds = (getattr(timeline, name) for name in names)
    return build_timeline(user, session, item, kind, seconds, session_seconds)


def _fit(timeline: Timeline) -> tuple[IntentReport, np.ndarray, np.ndarray]:
    """Fits on the first two thirds of visitors with a session of three events each; predicts before the third event.

    The network is untrained. Its directions depend on the items of the session all the same.
    """
    count = len(timeline.user_start) - 1
    split = (np.arange(count) * 3 // count).astype(np.int8)
    stops = np.where(split == TRAINING, timeline.user_start[1:], timeline.user_start[:-1])
    words = vocabulary()
    shop = EncodedSnapshot(timeline, words, [None] * count, split)
    data = TrainingData(timeline, np.bincount(timeline.item, minlength=len(words)), stops, stops)
    torch.manual_seed(0)
    network = build_network(small_config(words, history=False), words)
    intent = fit_purchase_intent(network, data, shop)
    first = timeline.session_start[:-1][split == TEST]
    tasks = PredictionTasks(first, first + 2)
    direction, features = purchase_intent_inputs(network, intent.items, timeline, tasks)
    predicted = intent.predict(direction, features)
    baseline = fit_baseline(data).predict(direction[:, :0], features)
    bought = timeline.leads_to_purchase[tasks.target]
    return evaluate_intent({"model": predicted, "logistic_regression": baseline}, bought, first), predicted, first


def test_purchase_intent_is_learned_from_items_and_calibrated() -> None:
    """What the sessions hold is the same for all these visitors: only their items tell who buys."""
    timeline = _sessions(3_000, seed=0)
    report, predicted, first = _fit(timeline)
    began = timeline.item[first] < FIRST_ITEM + ITEMS // 2
    assert predicted[began].mean() > 0.6  # 0.8 of them buy
    assert predicted[~began].mean() < 0.3  # 0.1 of them
    gain, low, _ = report.gain["logistic_regression"]
    assert gain > low > 0.1
    assert report.table["model"]["ece"] < 0.1
    assert "| logistic_regression |" in report.as_markdown()


def test_purchase_intent_is_not_behind_the_baseline_where_items_tell_nothing() -> None:
    """A cart decides: one in two with a cart buys, one in twenty without."""
    random = np.random.default_rng(0)
    has_cart = random.random(3_000) < 0.3
    buys = random.random(3_000) < np.where(has_cart, 0.5, 0.05)
    kind = np.full((3_000, 3), EVENT_TYPE_CODES[VIEW])
    kind[has_cart, 1] = EVENT_TYPE_CODES[ADD_TO_CART]
    kind[buys, 2] = EVENT_TYPE_CODES[PURCHASE]
    report, _, _ = _fit(_with_kinds(_sessions(3_000, seed=1), kind.ravel()))
    assert abs(report.gain["logistic_regression"][0]) < 0.03
    assert report.table["model"]["ece"] < 0.05
