"""Weights of events by type and dwell time, and of intents by the strongest event that they led to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.features.event_weights import EventWeight, event_weights, intent_weights, load_event_weights
from recsys_tasks.names import EVENT_TYPE_CODES

VIEW, CART, PURCHASE = (EVENT_TYPE_CODES[name] for name in ("view", "add_to_cart", "purchase"))


def test_without_a_file_all_events_count_alike() -> None:
    assert event_weights(load_event_weights(None), np.array([VIEW, PURCHASE]), np.full(2, np.nan)).tolist() == [1, 1]


def test_a_short_view_counts_in_proportion_and_one_without_dwell_time_in_full() -> None:
    weights = {"view": EventWeight(2, full_dwell_seconds=30), "purchase": EventWeight(3)}
    dwell = np.array([0, 15, 30, 300, np.nan, 1, 1])
    kinds = np.array([VIEW] * 5 + [CART, PURCHASE])
    assert event_weights(weights, kinds, dwell).tolist() == [0, 1, 2, 2, 2, 1, 3]  # type: ignore[arg-type]


def test_a_file_has_a_table_per_event_type(tmp_path: Path) -> None:
    path = tmp_path / "weights.toml"
    path.write_text("[view]\nfull_dwell_seconds = 30\n[purchase]\nweight = 3\n", encoding="utf-8")
    assert load_event_weights(path) == {"view": EventWeight(1, 30), "purchase": EventWeight(3)}


@pytest.mark.parametrize("content", ["[share]\nweight = 1", "[view]\nwait = 1", "[view]\nweight = -1", "view"])
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "weights.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"weights\.toml"):
        load_event_weights(path)


EVENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.floats(0, 10)), max_size=30)


@given(EVENTS)
def test_an_intent_counts_as_much_as_the_strongest_event_that_it_led_to(
    events: list[tuple[int, int, float]],
) -> None:
    session, item, weight = (np.array(column) for column in zip(*events, strict=True)) if events else [np.zeros(0)] * 3
    found = intent_weights(weight, session.astype(int), item.astype(int))
    expected = [max(other[2] for other in events if other[:2] == event[:2]) for event in events]
    assert found.tolist() == expected
