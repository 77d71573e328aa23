"""Explored lists judge a challenger before it serves: from the endpoint's log to the decision of the gate."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from benchmarks.loop import log_mixed_up_model
from recsys_tasks.engine.bundle import read_bundle
from recsys_tasks.engine.engine import Engine as InferenceEngine
from recsys_tasks.engine.ranking import Exploration, ListOptions
from recsys_tasks.evaluation.gate import Outcome, RuleResult
from recsys_tasks.experiments.explored_lists import load_explored_lists
from recsys_tasks.feedback.attribution import AttributionRules, attribute_days
from recsys_tasks.interval import Interval
from recsys_tasks.registry import versions
from recsys_tasks.steps import features, promotion, training
from recsys_tasks.warehouse import engine
from tests.conftest import configured_shop
from tests.integration.feedback import START as FEEDBACK_START
from tests.integration.feedback import action_event, impression_events, ingest_feedback, load_catalog
from tests.shops import START, fill

# A gate that accepts any model but for its clicks.
_GATE_RULES = """
[baselines]
names = []
metrics = []
[champion]
metric = "mrr_20"
confidence = 0.95
min_gain = -9.0
min_questions = 20
[counterfactual]
min_users = 30
"""
_K, _SHARE, _LISTS = 5, 0.3, 800
_FIRST_DAY = START + timedelta(days=71)  # after the last purchases of `fill`
_RULES = AttributionRules(24, 60)


def _explored(request: str, ranks: list[int], user: str = "u1", **properties: Any) -> list[dict[str, Any]]:
    """Impressions of a list whose items have the ranks."""
    told = {"explored_share": 0.1, "candidates": 20, **properties}
    return impression_events(request, [f"i{rank}" for rank in ranks], user, ranks=ranks, **told)


def test_lists_are_read_with_their_exploration_and_clicks(warehouse: Engine, tmp_path: Path) -> None:
    load_catalog(warehouse, tmp_path)
    rows = [
        *_explored("r-one", [1, 9, 2]),
        *_explored("r-other", [3, 2], user="u2"),
        action_event("view", "i9", request_id="r-one"),
        action_event("purchase", "i2", "u2", minutes=2, request_id="r-other"),
        action_event("view", "i1", minutes=3),
    ]
    ingest_feedback(warehouse, tmp_path, rows)
    attribute_days(warehouse, _RULES)
    day = Interval.of_day(FEEDBACK_START.date())
    with warehouse.connect() as connection:
        found = load_explored_lists(connection, day, 10)
        one = load_explored_lists(connection, day, 1)
        nothing = load_explored_lists(connection, Interval(day.end, day.end + timedelta(days=1)), 10)
    explored = found.explored
    assert [found.item_ids[item] for item in explored.item] == ["i1", "i9", "i2", "i3", "i2"]
    assert explored.rank.tolist() == [1, 9, 2, 3, 2]
    assert explored.position.tolist() == [1, 2, 3, 1, 2]
    assert explored.list.tolist() == [0, 0, 0, 1, 1]
    assert explored.clicked.tolist() == [False, True, False, False, True]
    assert found.user_ids == ["u1", "u2"]
    assert explored.share.tolist() == [0.1, 0.1]
    assert explored.num_candidates.tolist() == [20, 20]
    assert one.user_ids in (["u1"], ["u2"])
    assert found.keep(np.asarray([False, True])).explored.rank.tolist() == [3, 2]
    assert nothing.user_ids == []


def test_other_lists_are_left_out(warehouse: Engine, tmp_path: Path) -> None:
    load_catalog(warehouse, tmp_path)
    anonymous = [
        {name: value for name, value in row.items() if name != "user_id"} | {"session_id": "s1"}
        for row in _explored("r-anonymous", [1, 2])
    ]
    ingest_feedback(
        warehouse,
        tmp_path,
        [
            *_explored("stranger", [1, 2], user="a page with a key"),
            *_explored("r-pinned", [1, 0, 2], user="pinned"),
            *_explored("r-constrained", [1, 2], user="constrained", constrained=True),
            *_explored("r-bot", [1, 2], user="bot", traffic="bot"),
            *_explored("r-search", [1, 2], user="search", list="search"),
            *_explored("r-incomplete", [1, 2, 3], user="incomplete")[::2],
            *_explored("r-same", [1, 1], user="same rank"),
            *_explored("r-rank", [1, 9], user="rank", candidates=8),
            *_explored("r-few", [1, 2, 3], user="few candidates", candidates=2),
            *_explored("r-many", [1, 2], user="many candidates", candidates=3e9),
            *_explored("r-tiny", [1, 2], user="tiny share", explored_share=1e-300),
            *_explored("r-large", [1, 2], user="large share", explored_share=50),
            *_explored("r-text", [1, 2], user="text", explored_share="half"),
            *impression_events("r-plain", ["i1", "i2"], user="not explored"),
            *anonymous,
        ],
    )
    attribute_days(warehouse, _RULES)
    with warehouse.connect() as connection:
        assert load_explored_lists(connection, Interval.of_day(FEEDBACK_START.date()), 50).user_ids == []


@pytest.fixture(scope="module")
def served(postgres: str, tracking_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A shop whose champion served explored lists for a day; version 2 has learned from them."""
    home = tmp_path_factory.mktemp("counterfactual")
    (home / "gate.toml").write_text(_GATE_RULES)
    options = {"MIN_ITEM_EVENTS": 1, "TEST_SHARE": 0.3, "MAX_TRAINING_EPOCHS": 3, "GATE_RULES": home / "gate.toml"}
    with configured_shop(postgres, tracking_template, home, **options) as warehouse:
        fill(warehouse)
        _train()
        _, bundle = promotion.build("1")
        versions.set_aliases("1", None)
        ingest_feedback(warehouse, home, _feedback(bundle))
        attribute_days(warehouse, _RULES)
        _train()
        yield
        engine().dispose()


def _train() -> None:
    features.build_features()
    run_id = training.train_model()
    training.evaluate_run(run_id)
    training.register_run(run_id)


def _feedback(bundle: Path) -> list[dict[str, Any]]:
    """Explored lists of a bundle's model, and clicks on the items that their users like: those that they bought."""
    random, model = np.random.default_rng(0), InferenceEngine(read_bundle(bundle))
    rows = []
    for number in range(_LISTS):
        user, at = f"u{number % 30}", _FIRST_DAY + timedelta(seconds=90 * number)
        liked = model.seen_item_ids(user)
        options = ListOptions(_K, exploration=Exploration(_SHARE, str(number)))
        answer = model.recommend(user, (), (), at.timestamp(), options)
        shown, explored = [item.item_id for item in answer.items], answer.explored
        assert explored is not None
        rows += impression_events(
            f"r-{number}",
            shown,
            user,
            at,
            model_version="1",
            ranks=explored.ranks,
            explored_share=_SHARE,
            candidates=explored.num_candidates,
        )
        for place, item in enumerate(shown):
            if random.random() < (0.5 if item in liked else 0.02) / (place + 1):
                minutes = (at - FEEDBACK_START) / timedelta(minutes=1) + 0.1 + place / 10
                rows.append(action_event("view", item, user, minutes, request_id=f"r-{number}"))
    return rows


def _clicks_rule(number: str) -> RuleResult:
    (found,) = (rule for rule in promotion.judge(*promotion.build(number)).results if "estimated CTR" in rule.rule)
    return found


@pytest.mark.usefixtures("served")
def test_a_model_that_learned_the_same_is_not_refused() -> None:
    found = _clicks_rule("2")
    assert found.outcome == Outcome.PASSED
    assert "overlap 1" in found.found, "all items are among the candidates: about 100 %"


@pytest.mark.usefixtures("served")
def test_a_bad_model_that_passes_the_offline_gate_is_stopped() -> None:
    run_id = log_mixed_up_model(versions.version_by_number("2"))
    training.evaluate_run(run_id)
    decision = promotion.judge(*promotion.build(training.register_run(run_id)))
    failed = [result for result in decision.results if result.outcome == Outcome.FAILED]
    assert ["estimated CTR" in result.rule for result in failed] == [True], decision.reasons
    assert decision.verdict == "refuse"
