"""Experiments: who is in which arm, one list of two, and files that are not what they should be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.engine.engine import Answer
from recsys_tasks.engine.items import Recommendation
from recsys_tasks.errors import InputError
from recsys_tasks.experiments.definition import Arm, Experiment, interleave, read_experiment

THREE = Experiment("three", [Arm("a", 0.5), Arm("b", 0.3, "popularity"), Arm("c", 0.2, "neighbours")])
lists = st.lists(st.sampled_from("abcdefghijkl"), unique=True, max_size=12)


def _answer(items: list[str]) -> Answer:
    return Answer([Recommendation(item, item, 1.0, "model", "") for item in items], None)


def test_visitors_are_divided_by_the_shares_and_stay_where_they_are() -> None:
    visitors = [f"u{number}" for number in range(20_000)]
    arms = [THREE.arm_of(visitor).name for visitor in visitors]
    assert arms == [THREE.arm_of(visitor).name for visitor in visitors]
    counted = Counter(arms)
    for arm in THREE.arms:
        assert counted[arm.name] == pytest.approx(arm.share * len(visitors), rel=0.05)


def test_another_experiment_divides_anew() -> None:
    other = Experiment("another", THREE.arms)
    visitors = [f"u{number}" for number in range(5_000)]
    same = sum(THREE.arm_of(visitor) == other.arm_of(visitor) for visitor in visitors)
    assert same / len(visitors) == pytest.approx(0.5**2 + 0.3**2 + 0.2**2, abs=0.03)


@given(lists, lists, st.integers(1, 12), st.text(max_size=5))
def test_an_interleaved_list_is_of_both_in_their_order(one: list[str], other: list[str], k: int, seed: str) -> None:
    found = interleave(("one", _answer(one)), ("other", _answer(other)), k, seed)
    shown = [item.item_id for item in found.answer.items]
    assert len(shown) == len(set(shown)) == min(k, len({*one, *other}))
    assert found == interleave(("one", _answer(one)), ("other", _answer(other)), k, seed)
    for name, whole in (("one", one), ("other", other)):
        places = [whole.index(item) for item, team in zip(shown, found.teams, strict=True) if team == name]
        assert places == sorted(places)


def test_in_interleaved_lists_neither_is_better_placed() -> None:
    one, other = [f"a{n}" for n in range(10)], [f"b{n}" for n in range(10)]
    teams = [interleave(("one", _answer(one)), ("other", _answer(other)), 10, str(n)).teams for n in range(2_000)]
    assert {tuple(sorted(Counter(of_list).items())) for of_list in teams} == {(("one", 5), ("other", 5))}
    first = Counter(of_list[0] for of_list in teams)
    assert first["one"] == pytest.approx(1_000, abs=100)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = 'x'", "arms"),
        ("name = 'x'\n[[arms]]\nname = 'a'\nshare = 1.0", "arms"),
        ("name = 'x'\n[[arms]]\nname='a'\nshare=0.5\n[[arms]]\nname='b'\nshare=0.4", "sum to 0.9"),
        ("name = 'x'\n[[arms]]\nname='a'\nshare=0.5\n[[arms]]\nname='a'\nshare=0.5", "two arms are called 'a'"),
        ("name = 'x'\n[[arms]]\nname='a'\nshare=0.5\nanswers='magic'\n[[arms]]\nname='b'\nshare=0.5", "magic"),
        ("name = 'x'\n[[arms]]\nname='a'\nshare=0.5\nagainst='model'\n[[arms]]\nname='b'\nshare=0.5", "against itself"),
        ("name = [", "cannot be used"),
    ],
)
def test_a_file_that_is_wrong_says_what(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "experiment.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=says):
        read_experiment(path)


def test_without_a_file_there_is_no_experiment() -> None:
    assert read_experiment(None) is None
