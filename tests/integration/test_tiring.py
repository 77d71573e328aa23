"""What a snapshot knows of how people look at lists, from impressions and what came of them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
from sqlalchemy import Engine

from recsys_tasks.features.impression_discounting import MOST_LOOKS
from recsys_tasks.features.snapshot import Snapshot, SnapshotParameters, build_snapshot
from recsys_tasks.names import PAUSE_HOURS
from tests.integration.feedback import START, Row, catalogue, did, report, shown
from tests.shops import fill

PARAMETERS = SnapshotParameters(validation_share=0.1, test_share=0.1, min_item_events=2)
CUT = START + timedelta(days=3)
ITEMS = [f"i{number}" for number in range(4)]
REMAINS = 0.6  # after each look


def _snapshot(warehouse: Engine, home: Path) -> Snapshot:
    return build_snapshot(warehouse, home / "snapshots", PARAMETERS, cutoff=CUT)


def _lists(hours_between: float, visitors: int = 300, lists: int = 5) -> list[Row]:
    """Visitors who are shown the same four things again and again in another order, and tire of what they look at:
    place p is looked at with a chance of 1 / p, and what is looked at is clicked in half of the cases at first."""
    random, rows = np.random.default_rng(0), []
    for visitor in range(visitors):
        wish = dict.fromkeys(ITEMS, 0.5)
        for number in range(lists):
            request, at = f"r{visitor}-{number}", START + timedelta(hours=number * hours_between)
            order = [ITEMS[place] for place in random.permutation(len(ITEMS))]
            rows += shown(request, order, f"v{visitor}", at)
            for place, item in enumerate(order, start=1):
                if random.random() > 1 / place:
                    continue
                clicked = random.random() < wish[item]
                wish[item] = 0.5 if clicked else wish[item] * REMAINS
                if clicked:
                    minutes = (at - START) / timedelta(minutes=1) + 1
                    rows.append(did("view", item, f"v{visitor}", minutes, request_id=request))
    return rows


def test_it_knows_how_people_tire_of_what_they_look_at_again(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    catalogue(warehouse, tmp_path)
    assert _snapshot(warehouse, tmp_path).fatigue == ()
    report(warehouse, tmp_path, _lists(hours_between=0.5))
    found = _snapshot(warehouse, tmp_path)
    assert np.abs(np.asarray(found.examination) - [1, 1 / 2, 1 / 3, 1 / 4]).max() < 0.15
    assert len(found.fatigue) == MOST_LOOKS + 1
    once, twice = found.fatigue[1:3]  # as many looks as are likely: those that did not happen tire nobody
    assert REMAINS - 0.05 < once < REMAINS + 0.2
    assert REMAINS**2 - 0.05 < twice < REMAINS**2 + 0.2


def test_after_a_pause_nobody_is_tired(warehouse: Engine, tmp_path: Path) -> None:
    fill(warehouse)
    catalogue(warehouse, tmp_path)
    report(warehouse, tmp_path, _lists(hours_between=PAUSE_HOURS + 1))
    found = _snapshot(warehouse, tmp_path)  # all that was shown was shown for the first time
    assert set(found.fatigue) == {1.0}
