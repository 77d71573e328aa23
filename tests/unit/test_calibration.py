from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.evaluation.calibration import purchase_intents, reliability
from recsys_tasks.evaluation.protocol import TEST, Questions, moments
from recsys_tasks.features.sequences import Timeline, build_timeline
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, PURCHASE, VIEW
from tests.shops import ITEMS, encoded_shop, trained_on


def test_probabilities_that_come_true_as_often_as_they_say_have_no_error(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    predicted = random.random(20_000)
    came = random.random(20_000) < predicted
    found = reliability(predicted, came)
    assert found.error < 0.02
    assert found.brier == pytest.approx(1 / 6, abs=0.01)
    assert sum(found.count) == 20_000
    found.draw(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[1:4] == b"PNG"


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_the_bins_average_to_the_base_rate(rows: list[tuple[float, bool]]) -> None:
    predicted, came = (np.asarray(column) for column in zip(*rows, strict=True))
    found = reliability(predicted, came)
    assert np.average(found.observed, weights=found.count) == pytest.approx(found.base_rate)
    assert 0 <= found.error <= 1


def _sessions(count: int, seed: int) -> Timeline:
    """Visitors who look at three items; those who begin with the first half of the catalogue mostly buy the last."""
    random = np.random.default_rng(seed)
    item = random.integers(ITEMS, size=(count, 3)) + FIRST_ITEM
    chance = np.where(item[:, 0] < FIRST_ITEM + ITEMS // 2, 0.8, 0.1)
    kind = np.full((count, 3), EVENT_TYPE_CODES[VIEW])
    kind[:, 2] = np.where(random.random(count) < chance, EVENT_TYPE_CODES[PURCHASE], EVENT_TYPE_CODES[VIEW])
    who = np.repeat(np.arange(count), 3)
    seconds = np.repeat(np.arange(count) * 600.0, 3) + np.tile([0.0, 60.0, 120.0], count)
    return build_timeline(who, who, item.ravel(), kind.ravel(), seconds, np.repeat(seconds[::3], 3))


def test_a_session_that_still_buys_is_marked_up_to_its_last_purchase() -> None:
    kind = np.asarray([EVENT_TYPE_CODES[name] for name in (VIEW, PURCHASE, VIEW, VIEW, VIEW)])
    session = np.asarray([0, 0, 0, 1, 1])
    seconds = np.arange(5.0)
    timeline = build_timeline(np.zeros(5, int), session, np.full(5, 3), kind, seconds, seconds[[0, 0, 0, 3, 3]])
    assert timeline.buys.tolist() == [True, True, False, False, False]


def test_a_session_is_asked_at_any_moment_after_its_first_event() -> None:
    shop = encoded_shop()
    asked = moments(shop, TEST)
    assert (asked.target > asked.first).all()
    assert (shop.timeline.session[asked.target] == shop.timeline.session[asked.first]).all()
    assert set((asked.target - asked.first).tolist()) == {1, 2, 3}
    assert len(asked) == int((shop.split == TEST).sum())


def test_purchase_intent_is_learned_and_means_what_it_says() -> None:
    timeline = _sessions(3_000, seed=0)
    network = trained_on(timeline, users=2_000, epochs=25)
    first = timeline.session_start[2_000:-1]
    found = purchase_intents(network, timeline, Questions(first, first + 2))
    began = timeline.item[first] < FIRST_ITEM + ITEMS // 2
    assert found[began].mean() == pytest.approx(0.8, abs=0.1)
    assert found[~began].mean() == pytest.approx(0.1, abs=0.1)
    assert reliability(found, timeline.buys[first + 2]).error < 0.1
