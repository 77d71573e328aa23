"""The share of requests that a challenger gets in a rollout."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

from recsys_tasks.engine.engine import Answer
from recsys_tasks.names import SHADOW
from recsys_tasks.serving.rollout import ChallengerRunner, RolloutTerms


def test_the_shadow_copies_its_share_of_requests_without_a_visitor_however_many_there_are() -> None:
    engine: Any = SimpleNamespace(bundle=SimpleNamespace(digest="d", model_version="2"))
    active: Any = SimpleNamespace()
    runner = ChallengerRunner(engine, mock.Mock(), RolloutTerms(mode=SHADOW, share=0.1))
    with mock.patch.object(runner, "_enqueue_copy") as enqueue:
        for _ in range(10_000):
            runner.answer(active, None, lambda _: Answer([], None))
    runner.close()
    assert enqueue.call_count == 1_000
