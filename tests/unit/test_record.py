"""What the decisions of `promotions` come to."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.promotion.deployment_record import (
    FAILED,
    PROMOTED,
    RECONCILED,
    ROLLED_BACK,
    TRIAL,
    WITHDRAWN,
    Decided,
    Subject,
    follow,
)


def _subject(version: str, digest: str = "") -> Subject:
    return Subject(version, f"run{version}", "s", digest or f"d{version}")


def _decided(decision: str, subject: Subject) -> Decided:
    return Decided(subject, decision, datetime(2024, 1, 1, tzinfo=UTC))


def _after(*decisions: tuple[str, str]) -> tuple[list[str], str | None]:
    found = follow(_decided(decision, _subject(version)) for decision, version in decisions)
    on_trial = found.trial.subject.model_version if found.trial else None
    return [subject.model_version for subject in found.served], on_trial


def test_the_last_promotion_serves_and_a_rollback_goes_to_the_one_before() -> None:
    assert _after() == ([], None)
    assert _after((PROMOTED, "1"), (PROMOTED, "2")) == (["1", "2"], None)
    assert _after((PROMOTED, "1"), (PROMOTED, "2"), (ROLLED_BACK, "1")) == (["1"], None)
    assert _after((PROMOTED, "1"), (PROMOTED, "2"), (ROLLED_BACK, "1"), (PROMOTED, "3")) == (["1", "3"], None)


def test_what_failed_or_was_withdrawn_never_served() -> None:
    assert _after((PROMOTED, "1"), (FAILED, "2"), (TRIAL, "3"), (WITHDRAWN, "3")) == (["1"], None)


def test_a_trial_lasts_until_something_is_decided_about_it() -> None:
    assert _after((PROMOTED, "1"), (TRIAL, "2")) == (["1"], "2")
    assert _after((PROMOTED, "1"), (TRIAL, "2"), (FAILED, "3"), (RECONCILED, "1")) == (["1"], "2")
    for end in (PROMOTED, WITHDRAWN, FAILED):
        assert _after((PROMOTED, "1"), (TRIAL, "2"), (end, "2"))[1] is None
    assert _after((PROMOTED, "1"), (PROMOTED, "2"), (TRIAL, "3"), (ROLLED_BACK, "1")) == (["1"], None)


@given(st.lists(st.integers(1, 99), max_size=20), st.integers(1, 20))
def test_so_many_rollbacks_undo_so_many_promotions(versions: list[int], back: int) -> None:
    served = [_subject(str(version)) for version in versions]
    decisions = [_decided(PROMOTED, subject) for subject in served]
    undone = min(back, max(len(served) - 1, 0))
    decisions += [_decided(ROLLED_BACK, served[-2 - step]) for step in range(undone)]
    assert follow(decisions).served == served[: len(served) - undone]
