"""Experiments: assignment of visitors to arms, interleaving, and validation of the TOML file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.engine.engine import Answer
from recsys_tasks.errors import InputError
from recsys_tasks.experiments.definition import HOLDOUT, Arm, Experiment, Holdout, interleave, read_experiment
from recsys_tasks.wire.items import Recommendation

THREE = Experiment("three", [Arm("a", 0.5), Arm("b", 0.3, "popularity"), Arm("c", 0.2, "neighbours")])
_TWO_ARMS = "name = 'x'\n[[arms]]\nname='a'\nshare=0.5\n[[arms]]\nname='b'\nshare=0.5\n"
lists = st.lists(st.sampled_from("abcdefghijkl"), unique=True, max_size=12)


def _answer(items: list[str]) -> Answer:
    return Answer([Recommendation(item, item, 1.0, "model", "") for item in items], None)


def test_visitors_are_assigned_by_the_shares_and_keep_their_arm() -> None:
    visitors = [f"u{number}" for number in range(20_000)]
    arms = [THREE.assign_arm(visitor).name for visitor in visitors]
    assert arms == [THREE.assign_arm(visitor).name for visitor in visitors]
    counts = Counter(arms)
    for arm in THREE.arms:
        assert counts[arm.name] == pytest.approx(arm.share * len(visitors), rel=0.05)


def test_another_experiment_assigns_independently() -> None:
    other = Experiment("another", THREE.arms)
    visitors = [f"u{number}" for number in range(5_000)]
    same = sum(THREE.assign_arm(visitor) == other.assign_arm(visitor) for visitor in visitors)
    assert same / len(visitors) == pytest.approx(0.5**2 + 0.3**2 + 0.2**2, abs=0.03)


def test_the_holdout_has_the_same_visitors_in_every_experiment_and_grows() -> None:
    visitors = [f"u{number}" for number in range(10_000)]

    def held_out(name: str, share: float) -> set[str]:
        experiment = Experiment(name, THREE.arms, Holdout(share, "neighbours"))
        arms = {visitor: experiment.assign_arm(visitor) for visitor in visitors}
        assert {arm.answers for arm in arms.values() if arm.name == HOLDOUT} == {"neighbours"}
        counts = Counter(arm.name for arm in arms.values())
        assert {arm: counts[arm] / len(visitors) for arm in experiment.shares} == pytest.approx(
            experiment.shares, abs=0.02
        )
        return {visitor for visitor, arm in arms.items() if arm.name == HOLDOUT}

    small = held_out("one", 0.05)
    assert small == held_out("another", 0.05)
    assert small < held_out("another", 0.1)


@given(lists, lists, st.integers(1, 12), st.text(max_size=5))
def test_an_interleaved_list_keeps_the_order_of_both_lists(one: list[str], other: list[str], k: int, seed: str) -> None:
    interleaved = interleave(("one", _answer(one)), ("other", _answer(other)), k, seed)
    shown = [item.item_id for item in interleaved.answer.items]
    assert len(shown) == len(set(shown)) == min(k, len({*one, *other}))
    assert interleaved == interleave(("one", _answer(one)), ("other", _answer(other)), k, seed)
    for name, full_list in (("one", one), ("other", other)):
        positions = [full_list.index(item) for item, team in zip(shown, interleaved.teams, strict=True) if team == name]
        assert positions == sorted(positions)


def test_interleaving_has_no_position_bias() -> None:
    one, other = [f"a{n}" for n in range(10)], [f"b{n}" for n in range(10)]
    teams = [interleave(("one", _answer(one)), ("other", _answer(other)), 10, str(n)).teams for n in range(2_000)]
    assert {tuple(sorted(Counter(of_list).items())) for of_list in teams} == {(("one", 5), ("other", 5))}
    first = Counter(of_list[0] for of_list in teams)
    assert first["one"] == pytest.approx(1_000, abs=100)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name = 'x'", "arms"),
        ("name = 'x'\n[[arms]]\nname = 'a'\nshare = 1.0", "arms"),
        ("name = 'x'\n[[arms]]\nname='a'\nshare=0.5\n[[arms]]\nname='b'\nshare=0.4", "sum to 0.9"),
        ("name = 'x'\n[[arms]]\nname='a'\nshare=0.5\n[[arms]]\nname='a'\nshare=0.5", "two arms are called 'a'"),
        ("name = 'x'\n[[arms]]\nname='a'\nshare=0.5\nanswers='magic'\n[[arms]]\nname='b'\nshare=0.5", "magic"),
        ("name = 'x'\n[[arms]]\nname='a'\nshare=0.5\nagainst='model'\n[[arms]]\nname='b'\nshare=0.5", "against itself"),
        (f"{_TWO_ARMS}[holdout]\nshare = 0.6", "0.5"),
        (f"{_TWO_ARMS}[holdout]\nshare = 0.1\nanswers = 'model'", "model"),
        (_TWO_ARMS.replace("'b'", "'holdout'"), "an arm is called 'holdout'"),
        (_TWO_ARMS.replace("'x'", "'long-term holdout'"), "reserved"),
        ("name = [", "cannot be used"),
    ],
)
def test_an_invalid_file_is_rejected_with_its_problem(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "experiment.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=problem):
        read_experiment(path)


def test_no_file_means_no_experiment() -> None:
    assert read_experiment(None) is None
