"""A snapshot estimates examination propensities and impression discounts from attributed outcomes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
from sqlalchemy import Engine

from recsys_tasks.features.impression_discounting import MAX_UNCLICKED_IMPRESSIONS
from recsys_tasks.features.snapshot import Snapshot, SnapshotParameters, build_snapshot
from recsys_tasks.names import DISCOUNT_RESET_HOURS
from recsys_tasks.storage.folder import Folder
from tests.integration.feedback import START, Row, action_event, impression_events, ingest_feedback, load_catalog
from tests.shops import fill

PARAMETERS = SnapshotParameters(validation_share=0.1, test_share=0.1, min_item_events=2)
CUT = START + timedelta(days=3)
ITEMS = [f"i{number}" for number in range(4)]
FACTOR = 0.6  # of the click probability, after each unclicked examination


def _snapshot(warehouse: Engine, home: Path) -> Snapshot:
    return build_snapshot(warehouse, Folder.of(home / "snapshots"), PARAMETERS, cutoff=CUT)


def _lists(hours_between: float, visitors: int = 300, lists: int = 5) -> list[Row]:
    """Simulated impressions: each visitor sees the same four items in several lists, in random order.

    Position p is examined with probability 1 / p. An examined item is clicked with probability 0.5, times `FACTOR` for
    each unclicked examination since the last click.
    """
    random, rows = np.random.default_rng(0), []
    for visitor in range(visitors):
        click_probability = dict.fromkeys(ITEMS, 0.5)
        for number in range(lists):
            request, at = f"r{visitor}-{number}", START + timedelta(hours=number * hours_between)
            order = [ITEMS[index] for index in random.permutation(len(ITEMS))]
            rows += impression_events(request, order, f"v{visitor}", at)
            for position, item in enumerate(order, start=1):
                if random.random() > 1 / position:
                    continue
                clicked = random.random() < click_probability[item]
                click_probability[item] = 0.5 if clicked else click_probability[item] * FACTOR
                if clicked:
                    minutes = (at - START) / timedelta(minutes=1) + 1
                    rows.append(action_event("view", item, f"v{visitor}", minutes, request_id=request))
    return rows


def test_impression_discounts_are_estimated(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    load_catalog(warehouse, tmp_path)
    assert _snapshot(warehouse, tmp_path).impression_discounts == ()
    ingest_feedback(warehouse, tmp_path, _lists(hours_between=0.5))
    snapshot = _snapshot(warehouse, tmp_path)
    assert np.abs(np.asarray(snapshot.examination_propensities) - [1, 1 / 2, 1 / 3, 1 / 4]).max() < 0.15
    assert len(snapshot.impression_discounts) == MAX_UNCLICKED_IMPRESSIONS + 1
    once, twice = snapshot.impression_discounts[1:3]  # expected examinations: not every impression is examined
    assert FACTOR - 0.05 < once < FACTOR + 0.2
    assert FACTOR**2 - 0.05 < twice < FACTOR**2 + 0.2


def test_a_pause_resets_the_discount(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    load_catalog(warehouse, tmp_path)
    ingest_feedback(warehouse, tmp_path, _lists(hours_between=DISCOUNT_RESET_HOURS + 1))
    snapshot = _snapshot(warehouse, tmp_path)  # every list counts as the first
    assert set(snapshot.impression_discounts) == {1.0}
