"""The deployment state that follows from the decisions of `promotions`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.promotion.deployment_record import (
    FAILED,
    PAUSED,
    PROMOTED,
    RECONCILED,
    RESUMED,
    ROLLED_BACK,
    ROLLOUT,
    WITHDRAWN,
    DeployedVersion,
    RecordedDecision,
    replay_decisions,
)


def _version(version: str, digest: str = "") -> DeployedVersion:
    return DeployedVersion(version, f"run{version}", "s", digest or f"d{version}")


def _recorded(decision: str, version: DeployedVersion) -> RecordedDecision:
    return RecordedDecision(version, decision, datetime(2024, 1, 1, tzinfo=UTC))


def _after(*decisions: tuple[str, str]) -> tuple[list[str], str | None]:
    found = replay_decisions(_recorded(decision, _version(version)) for decision, version in decisions)
    in_rollout = found.rollout.version.model_version if found.rollout else None
    return [version.model_version for version in found.served], in_rollout


def test_the_last_promotion_serves_and_a_rollback_returns_to_the_previous_version() -> None:
    assert _after() == ([], None)
    assert _after((PROMOTED, "1"), (PROMOTED, "2")) == (["1", "2"], None)
    assert _after((PROMOTED, "1"), (PROMOTED, "2"), (ROLLED_BACK, "1")) == (["1"], None)
    assert _after((PROMOTED, "1"), (PROMOTED, "2"), (ROLLED_BACK, "1"), (PROMOTED, "3")) == (["1", "3"], None)


def test_failed_and_withdrawn_versions_never_served() -> None:
    assert _after((PROMOTED, "1"), (FAILED, "2"), (ROLLOUT, "3"), (WITHDRAWN, "3")) == (["1"], None)


def test_a_rollout_lasts_until_a_decision_about_its_version() -> None:
    assert _after((PROMOTED, "1"), (ROLLOUT, "2")) == (["1"], "2")
    assert _after((PROMOTED, "1"), (ROLLOUT, "2"), (FAILED, "3"), (RECONCILED, "1")) == (["1"], "2")
    for end in (PROMOTED, WITHDRAWN, FAILED):
        assert _after((PROMOTED, "1"), (ROLLOUT, "2"), (end, "2"))[1] is None
    assert _after((PROMOTED, "1"), (PROMOTED, "2"), (ROLLOUT, "3"), (ROLLED_BACK, "1")) == (["1"], None)


def test_a_pause_lasts_until_the_rollout_is_resumed_or_ends_and_its_time_is_added_up() -> None:
    hours = [datetime(2024, 1, 1, hour, tzinfo=UTC) for hour in range(12)]
    steps = [
        (PROMOTED, "1"),
        (ROLLOUT, "2"),
        (PAUSED, "2"),
        (PAUSED, "2"),
        (RESUMED, "2"),
        (RESUMED, "2"),
        (PAUSED, "2"),
    ]
    decisions = [
        RecordedDecision(_version(version), decision, hour)
        for (decision, version), hour in zip(steps, hours, strict=False)
    ]
    running, paused = replay_decisions(decisions[:6]), replay_decisions(decisions)
    assert (running.paused_at, running.paused_for) == (None, timedelta(hours=2))
    assert (paused.paused_at, paused.paused_for) == (hours[6], timedelta(hours=2))
    ended = replay_decisions([*decisions, RecordedDecision(_version("2"), WITHDRAWN, hours[7])])
    assert (ended.rollout, ended.paused_at, ended.paused_for) == (None, None, timedelta(0))


@given(st.lists(st.integers(1, 99), max_size=20), st.integers(1, 20))
def test_n_rollbacks_undo_n_promotions(versions: list[int], back: int) -> None:
    served = [_version(str(version)) for version in versions]
    decisions = [_recorded(PROMOTED, version) for version in served]
    undone = min(back, max(len(served) - 1, 0))
    decisions += [_recorded(ROLLED_BACK, served[-2 - step]) for step in range(undone)]
    assert replay_decisions(decisions).served == served[: len(served) - undone]
