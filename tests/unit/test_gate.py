from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.evaluation.comparison import Comparison, Gain, compare
from recsys_tasks.evaluation.gate import Decision, Evidence, GateRules, Table, decide, read_rules
from recsys_tasks.evaluation.metrics import MISSED
from recsys_tasks.evaluation.protocol import Answers

RULES = read_rules()
MEASURED = {"cutoff_age_days": 1.0, "bundle_megabytes": 20.0, "answer_milliseconds": 3.0}
ROW = {"mrr_20": 0.09, "recall_20": 0.25}
TABLE: Table = {"test": ROW, "popularity": {"mrr_20": 0.02, "recall_20": 0.06}}
TABLE |= {"personal_frequency": {"mrr_20": 0.08, "recall_20": 0.21}}
SEGMENTS = ("", "new users: ", "first-time targets: ")


def _comparison(low: float, high: float, **others: Gain) -> Comparison:
    """Gains over a champion that has a tenth of everything."""
    gain = Gain(0.1 + (low + high) / 2, 0.1, low, high, 1_000)
    found = {f"{segment}{metric}": gain for segment in SEGMENTS for metric in ("mrr_20", "recall_20")}
    return found | {"coverage_20": Gain(0.5, 0.5, 0.0, 0.0, 1_000)} | others


def _decide(comparison: Comparison | None = None, rules: GateRules = RULES, **evidence: object) -> Decision:
    return decide(rules, Evidence(**{"table": TABLE, "comparison": comparison, "measured": MEASURED, **evidence}))  # type: ignore[arg-type]


def _broken(decision: Decision) -> list[str]:
    return [finding.rule for finding in decision.findings if not finding.kept]


def test_a_model_that_does_not_beat_a_baseline_is_refused_with_the_numbers() -> None:
    decision = _decide(table=TABLE | {"test": {"mrr_20": 0.08, "recall_20": 0.25}})
    assert _broken(decision) == ["mrr_20 above personal_frequency"]
    assert decision.reasons[0] == "not good enough: mrr_20 above personal_frequency: 0.0800 against 0.0800"


def test_the_first_model_needs_to_beat_the_baselines_only() -> None:
    assert _decide().promote


def test_a_gain_on_the_champion_that_is_certain_is_promoted() -> None:
    assert _decide(_comparison(0.001, 0.005)).promote


def test_a_gain_that_may_be_luck_is_refused() -> None:
    assert any("at 95% confidence" in rule for rule in _broken(_decide(_comparison(-0.001, 0.005))))


def test_a_tie_leaves_the_champion() -> None:
    decision = _decide(_comparison(0.0, 0.0))
    assert not decision.promote
    assert any("a tie, the champion stays" in reason for reason in decision.reasons)


@given(st.floats(-0.05, 0.05), st.floats(0, 0.05), st.floats(-0.5, 0.5))
def test_nothing_is_promoted_whose_certain_gain_is_not_above_the_least(low: float, wide: float, least: float) -> None:
    champion = msgspec.structs.replace(RULES.champion, least_gain=least)
    decision = _decide(_comparison(low, low + wide), msgspec.structs.replace(RULES, champion=champion, guards={}))
    assert decision.promote == (low / 0.1 > least)


def test_a_guard_refuses_what_is_certainly_worse_and_lets_pass_what_may_be_luck() -> None:
    worse, unlucky = Gain(0.05, 0.1, -0.07, -0.03, 400), Gain(0.05, 0.1, -0.15, 0.05, 4)
    name = "new users: mrr_20"
    assert _broken(_decide(_comparison(0.001, 0.005, **{name: worse})))[0].startswith(name)
    assert _decide(_comparison(0.001, 0.005, **{name: unlucky})).promote


@pytest.mark.parametrize("limit", sorted(MEASURED))
def test_a_limit_that_is_passed_refuses(limit: str) -> None:
    assert _broken(_decide(measured=MEASURED | {limit: 1e6}))[0].startswith(limit)


def test_another_signature_than_the_champions_refuses() -> None:
    assert _broken(_decide(_comparison(0.001, 0.005), same_schema=False)) == ["signature"]


def test_an_alarm_that_holds_promotions_refuses_and_says_why() -> None:
    decision = _decide(_comparison(0.001, 0.005), holds=["since noon: feedback is broken: 9 of 10 rows"])
    assert _broken(decision) == ["no alarm holds promotions"]
    assert "9 of 10 rows" in decision.reasons[0]


def test_a_champion_that_cannot_be_compared_with_is_said_and_the_baselines_decide() -> None:
    decision = _decide(notes=["not compared with champion version 3: its model was deleted"])
    assert decision.promote
    assert "its model was deleted" in decision.as_markdown()


def test_rules_of_ones_own_replace_the_packages(tmp_path: Path) -> None:
    own = tmp_path / "gate.toml"
    own.write_text(
        '[baselines]\nnames = []\nmetrics = []\n[champion]\nmetric = "ndcg_20"\nconfidence = 0.8\nleast_gain = -0.02\n'
    )
    rules = read_rules(own)
    gain = Gain(0.1, 0.1, -0.001, 0.001, 1_000)
    assert decide(rules, Evidence({"test": {}}, {"ndcg_20": gain})).promote


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nonsense", "cannot be read"),
        ('[champion]\nmetric = "mrr_20"', "missing required field"),
        ('[baselines]\nnames = []\nmetrics = []\n[champion]\nmetric = "m"\nconfidence = 95\nleast_gain = 0.0', "is 95"),
    ],
)
def test_rules_that_are_none_are_refused_with_the_reason(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=problem):
        read_rules(path)


def test_a_rule_about_what_nobody_measures_is_refused_naming_what_there_is() -> None:
    rules = msgspec.structs.replace(RULES, guards={"new usrs: mrr_20": 0.05})
    with pytest.raises(ConfigurationError, match=r"new usrs: mrr_20, which is not measured.*new users: mrr_20"):
        _decide(_comparison(0.001, 0.005), rules)


def _answers(ranks: np.ndarray) -> Answers:
    return Answers(ranks, np.full((len(ranks), 20), 2))


def _compare(model: np.ndarray, rival: np.ndarray, users: np.ndarray, members: np.ndarray) -> Comparison:
    counts = np.asarray([0, 0, 5, 5])
    return compare(_answers(model), _answers(rival), users, {"some": members}, counts, counts, 0.95)


def test_what_is_hard_for_both_does_not_hide_a_gain() -> None:
    random = np.random.default_rng(0)
    rival = random.integers(2, 20, 300)
    found = _compare(rival - 1, rival, np.arange(300), np.zeros(300, bool))
    assert found["mrr_20"].low > 0
    spread = (1 / (rival - 1)).std() / np.sqrt(300)  # of the model's own mean, far more than that of the gain
    assert found["mrr_20"].high - found["mrr_20"].low < 2 * 1.64 * spread
    assert found["some: mrr_20"].questions == 0


ranks = st.lists(st.one_of(st.integers(1, 40), st.just(MISSED)), min_size=1, max_size=30)


@given(ranks, st.integers(0, 9))
def test_a_model_ties_with_itself(found: list[int], seed: int) -> None:
    own = np.asarray(found)
    users = np.random.default_rng(seed).integers(3, size=len(own))
    for gain in _compare(own, own, users, own > 3).values():
        assert (gain.low, gain.high, gain.as_share(gain.low)) == (0, 0, 0)


@given(ranks, st.integers(0, 9))
def test_who_is_compared_with_whom_only_turns_the_sign(found: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    own, other = np.asarray(found), random.permutation(np.asarray(found))
    users, members = random.integers(5, size=len(own)), own > 3
    forth, back = _compare(own, other, users, members), _compare(other, own, users, members)
    for name, gain in forth.items():
        assert gain.model - gain.rival == pytest.approx(back[name].rival - back[name].model)
        assert gain.low == pytest.approx(-back[name].high, abs=1e-9)
