from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.evaluation.calibration import calibration_curve, predict_purchase_intent
from recsys_tasks.evaluation.protocol import TEST, PredictionTasks, sample_session_prefixes
from recsys_tasks.features.sequences import Timeline, build_timeline
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, PURCHASE, VIEW
from tests.shops import ITEMS, encoded_shop, train_small_network


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
    """Visitors with three items; those who start in the first half of the catalog mostly buy the last."""
    random = np.random.default_rng(seed)
    item = random.integers(ITEMS, size=(count, 3)) + FIRST_ITEM
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


def test_purchase_intent_is_learned_and_calibrated() -> None:
    timeline = _sessions(2_000, seed=0)
    network = train_small_network(timeline, users=1_200, epochs=25)
    first = timeline.session_start[1_200:-1]
    found = predict_purchase_intent(network, timeline, PredictionTasks(first, first + 2))
    began = timeline.item[first] < FIRST_ITEM + ITEMS // 2
    assert found[began].mean() == pytest.approx(0.8, abs=0.1)
    assert found[~began].mean() == pytest.approx(0.1, abs=0.1)
    assert calibration_curve(found, timeline.leads_to_purchase[first + 2]).error < 0.1
