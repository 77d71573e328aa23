from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.evaluation.comparison import Comparison, MetricGain, compare, tasks_since
from recsys_tasks.evaluation.gate import (
    BaselineRules,
    CounterfactualRules,
    Decision,
    Evidence,
    GateRules,
    MetricsTable,
    Outcome,
    RuleResult,
    confidence_of_try,
    decide_promotion,
    load_gate_rules,
)
from recsys_tasks.evaluation.metrics import MISSED
from recsys_tasks.evaluation.protocol import PredictionTasks, RankingResult
from recsys_tasks.experiments.counterfactual import CounterfactualComparison
from recsys_tasks.experiments.off_policy import Estimate
from recsys_tasks.names import BASELINES, FIRST_ITEM
from tests.shops import START, random_timeline

RULES = load_gate_rules()
MEASURED = {"cutoff_age_days": 1.0, "bundle_megabytes": 20.0, "answer_milliseconds": 3.0, "search_ndcg_drop": 0.0}
SEGMENTS = ("", "new users: ", "first-time targets: ")


def _row(mrr: float, recall: float, first_time_mrr: float) -> dict[str, float]:
    return {
        "mrr_20": mrr,
        "recall_20": recall,
        "first-time targets: mrr_20": first_time_mrr,
        "first-time targets: recall_20": 3 * first_time_mrr,
    }


ROW = _row(0.09, 0.25, 0.03) | {"questions": 4_000.0, "first-time targets: questions": 2_000.0}
TABLE: MetricsTable = {
    "model": ROW,
    "popularity": _row(0.02, 0.06, 0.002),
    "personal_frequency": _row(0.08, 0.21, 0.015),
    "item_knn": _row(0.04, 0.1, 0.02),
}


def _gain(model: float, rival: float, low: float, high: float, num_tasks: int = 1_000) -> MetricGain:
    """A gain of which half the resamples are at either bound."""
    return MetricGain(model, rival, np.repeat([low, high], 5_000), num_tasks)


SINCE = datetime(2024, 3, 1, tzinfo=UTC)


def _compared(gains: dict[str, MetricGain], num_tasks: int = 1_000, num_excluded: int = 0) -> Comparison:
    return Comparison(gains, num_tasks, num_excluded, SINCE)


def _comparison(low: float, high: float, **others: MetricGain) -> Comparison:
    """Gains over a champion with 0.1 of every metric."""
    gain = _gain(0.1 + (low + high) / 2, 0.1, low, high)
    found = {f"{segment}{metric}": gain for segment in SEGMENTS for metric in ("mrr_20", "recall_20")}
    return _compared(found | {"coverage_20": _gain(0.5, 0.5, 0.0, 0.0)} | others)


def _decide(comparison: Comparison | None = None, rules: GateRules = RULES, **evidence: object) -> Decision:
    measured = {"table": TABLE, "comparison": comparison, "measurements": MEASURED, **evidence}
    return decide_promotion(rules, Evidence(**measured))  # type: ignore[arg-type]


def _failed_rules(decision: Decision) -> list[str]:
    return [result.rule for result in decision.results if not result.passed]


def test_a_model_that_does_not_beat_a_baseline_is_refused_with_the_numbers() -> None:
    decision = _decide(table=TABLE | {"model": ROW | {"mrr_20": 0.08}})
    assert _failed_rules(decision) == ["mrr_20 above the best baseline"]
    assert decision.reasons[0] == (
        "failed: mrr_20 above the best baseline: 0.0800 against 0.0800 of personal_frequency"
    )


def test_on_first_time_targets_the_rival_is_the_baseline_that_is_best_over_all_sessions() -> None:
    decision = _decide(table=TABLE | {"model": ROW | {"first-time targets: mrr_20": 0.01}})
    assert _failed_rules(decision) == ["mrr_20 above the best baseline on first-time targets"]
    assert "0.0100 against 0.0150 of personal_frequency, 2,000 sessions" in decision.reasons[0]


def test_a_segment_with_too_few_sessions_is_not_checked_and_says_so() -> None:
    few = ROW | {"first-time targets: questions": 99.0, "first-time targets: mrr_20": 0.0}
    decision = _decide(table=TABLE | {"model": few})
    assert decision.promote
    rule = "mrr_20 above the best baseline on first-time targets"
    assert f"not applied: {rule}: 99 sessions, needs 100" in decision.reasons
    assert f"| – | {rule} | 99 sessions, needs 100 |" in decision.as_markdown()


@given(st.dictionaries(st.sampled_from(BASELINES), st.floats(0, 1), min_size=1), st.floats(0, 1))
def test_a_further_baseline_never_helps_the_challenger(baselines: dict[str, float], own: float) -> None:
    rules = BaselineRules(["mrr_20"])
    tables = [
        {"model": {"mrr_20": own}} | {name: {"mrr_20": baselines[name]} for name in names}
        for names in (list(baselines), list(baselines)[:1])
    ]
    all_of_them, one = (
        decide_promotion(msgspec.structs.replace(RULES, baselines=rules, limits={}), Evidence(table)).promote
        for table in tables
    )
    assert one or not all_of_them
    assert all_of_them == all(own > value for value in baselines.values())


def test_only_the_named_baselines_count_if_some_are_named() -> None:
    rules = msgspec.structs.replace(RULES, baselines=BaselineRules(["mrr_20"], names=["popularity"]))
    assert _decide(rules=rules, table=TABLE | {"model": ROW | {"mrr_20": 0.03}}).promote


def test_the_first_model_needs_to_beat_the_baselines_only() -> None:
    assert _decide().promote


def test_a_significant_gain_on_the_champion_is_promoted() -> None:
    assert _decide(_comparison(0.001, 0.005)).promote


def test_a_gain_that_is_not_significant_is_refused() -> None:
    assert any("at 95% confidence" in rule for rule in _failed_rules(_decide(_comparison(-0.001, 0.005))))


def _clicks(
    difference: float, error: float = 0.001, overlap: float = 0.9, users: int = 900, clicks: int = 800
) -> CounterfactualComparison:
    """Clicks of a challenger and of a champion with a CTR of 2 % in 2,000 explored lists."""
    rates = [Estimate(rate, rate - 1.96 * error, rate + 1.96 * error, 1_000.0) for rate in (0.02 + difference, 0.02)]
    share = Estimate(overlap, overlap - 0.05, overlap + 0.05, 1_000.0)
    gain = Estimate(difference, difference - 1.96 * error, difference + 1.96 * error, 1_000.0)
    return CounterfactualComparison(rates[0], rates[1], rates[0], rates[1], gain, share, 2_000, users, clicks)


def _judged_by(clicks: CounterfactualComparison | None, **rules: float) -> RuleResult:
    compared = replace(_comparison(0.001, 0.005), counterfactual=clicks)
    changed = msgspec.structs.replace(RULES, counterfactual=CounterfactualRules(**rules))  # type: ignore[arg-type]
    (found,) = (result for result in _decide(compared, changed).results if "estimated CTR" in result.rule)
    return found


@pytest.mark.parametrize(
    ("clicks", "outcome", "words"),
    [
        (_clicks(0.001), Outcome.PASSED, "2.10% against 2.00% (doubly robust)"),
        (_clicks(-0.001), Outcome.PASSED, "at most +3.2% at 95% confidence"),
        (_clicks(-0.002), Outcome.FAILED, "at most -1.8% at 95% confidence; 2,000 explored lists of 900 users"),
        (_clicks(-0.002, clicks=99), Outcome.NOT_APPLIED, "99 clicks, needs 100 clicks and 50 users"),
        (_clicks(-0.002, users=49, overlap=0.1), Outcome.NOT_APPLIED, "of 49 users"),
        (_clicks(0.001, overlap=0.5), Outcome.FAILED, "overlap 50% (45% to 55%), needs 60%"),
        (_clicks(-0.03, overlap=0.58), Outcome.NOT_APPLIED, "overlap 58% (53% to 63%), needs 60%"),
        (_clicks(-0.03), Outcome.FAILED, "-1.00% against 2.00%"),
        (_clicks(0.001, error=np.inf), Outcome.NOT_APPLIED, "no estimate"),
        (_clicks(np.nan), Outcome.NOT_APPLIED, "no estimate"),
        (None, Outcome.NOT_APPLIED, "no complete explored lists without pins of known users"),
    ],
)
def test_explored_lists_judge_a_challenger_before_it_serves(
    clicks: CounterfactualComparison | None, outcome: Outcome, words: str
) -> None:
    found = _judged_by(clicks)
    assert found.outcome == outcome
    assert words in found.found


@pytest.mark.parametrize("line", ["max_lists = 0", "min_overlap = 30", "max_loss = -0.1", "confidence = 0.4"])
def test_limits_of_the_estimated_clicks_are_checked(tmp_path: Path, line: str) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(
        f"[baselines]\nmetrics = []\n[champion]\nmetric = 'mrr_20'\nconfidence = 0.9\nmin_gain = 0\n"
        f"[counterfactual]\n{line}\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigurationError, match=line.split()[0]):
        load_gate_rules(path)


def test_a_loss_of_clicks_within_the_limit_is_accepted() -> None:
    assert _judged_by(_clicks(-0.002), max_loss=0.05).passed


def test_a_gate_without_the_section_does_not_ask_for_clicks() -> None:
    compared = replace(_comparison(0.001, 0.005), counterfactual=_clicks(-0.01))
    assert _decide(compared, msgspec.structs.replace(RULES, counterfactual=None)).promote
    assert not _decide(compared).promote


def test_a_tie_keeps_the_champion() -> None:
    decision = _decide(_comparison(0.0, 0.0))
    assert not decision.promote
    assert any("a tie, the champion stays" in reason for reason in decision.reasons)


@given(st.floats(-0.05, 0.05), st.floats(0, 0.05), st.floats(-0.5, 0.5))
def test_only_a_lower_bound_above_the_minimum_gain_is_promoted(low: float, wide: float, min_gain: float) -> None:
    champion = msgspec.structs.replace(RULES.champion, min_gain=min_gain)
    decision = _decide(_comparison(low, low + wide), msgspec.structs.replace(RULES, champion=champion, guardrails={}))
    assert decision.promote == (low / 0.1 > min_gain)


@pytest.mark.parametrize(("num_tasks", "verdict"), [(0, "wait"), (99, "wait"), (100, "promote")])
def test_a_version_waits_for_a_hundred_comparable_sessions(num_tasks: int, verdict: str) -> None:
    gains = _comparison(0.001, 0.005).gains
    decision = _decide(_compared(gains, num_tasks, num_excluded=380 - num_tasks))
    assert decision.verdict == verdict
    assert decision.promote == (verdict == "promote")
    if verdict == "wait":
        assert f"only {num_tasks} comparable sessions, needs 100" in decision.reasons[0]
        assert "2024-03-01 00:00 UTC" in decision.reasons[0]


def test_too_few_comparable_sessions_cannot_refuse_but_a_broken_rule_does() -> None:
    worse = _compared(_comparison(-0.05, -0.04).gains, num_tasks=99)
    assert _decide(worse).verdict == "wait"
    assert _decide(worse, measurements=MEASURED | {"answer_milliseconds": 1e6}).verdict == "refuse"


@given(st.integers(0, 100), st.floats(-10, 60))
def test_comparable_sessions_are_those_that_start_after_both_trainings(seed: int, days: float) -> None:
    timeline = random_timeline(seed)
    first = timeline.session_start[:-1]
    since = START + timedelta(days=days)
    found = tasks_since(timeline, PredictionTasks(first, first), since).first
    starts = timeline.session_seconds
    assert (starts[found] >= since.timestamp()).all()
    assert (starts[np.setdiff1d(first, found)] < since.timestamp()).all()


def test_a_guardrail_refuses_a_significant_loss_only() -> None:
    worse, unlucky = _gain(0.05, 0.1, -0.07, -0.03, 400), _gain(0.05, 0.1, -0.15, 0.05, 400)
    name = "new users: mrr_20"
    assert _failed_rules(_decide(_comparison(0.001, 0.005, **{name: worse})))[0].startswith(name)
    assert _decide(_comparison(0.001, 0.005, **{name: unlucky})).promote


def test_a_guardrail_with_too_few_sessions_is_not_applied_and_says_so() -> None:
    name = "new users: mrr_20"
    decision = _decide(_comparison(0.001, 0.005, **{name: _gain(0.0, 0.1, -0.1, -0.1, num_tasks=1)}))
    assert decision.promote
    assert f"not applied: {name} not worse than the champion by more than 5%: 1 sessions, needs 100" in decision.reasons


@pytest.mark.parametrize(("num_guardrails", "verdict"), [(1, "refuse"), (2, "promote")])
def test_the_confidence_holds_for_all_guardrails_together(num_guardrails: int, verdict: str) -> None:
    # Worse in all but 3 % of the resamples: significant at 95 %, and not at 97.5 %.
    worse = MetricGain(0.05, 0.1, np.repeat([-0.05, 0.0], [9_700, 300]), 1_000)
    names = ["new users: mrr_20", "first-time targets: mrr_20"]
    rules = msgspec.structs.replace(RULES, guardrails=dict.fromkeys(names[:num_guardrails], 0.0))
    decision = _decide(_comparison(0.001, 0.005, **{names[0]: worse}), rules)
    assert decision.verdict == verdict


def test_a_guardrail_that_is_not_applied_does_not_weaken_the_others() -> None:
    worse = MetricGain(0.05, 0.1, np.repeat([-0.05, 0.0], [9_700, 300]), 1_000)
    names = ["new users: mrr_20", "first-time targets: mrr_20"]
    rules = msgspec.structs.replace(RULES, guardrails=dict.fromkeys(names, 0.0))
    few = _gain(0.1, 0.1, 0.0, 0.0, num_tasks=99)
    assert _decide(_comparison(0.001, 0.005, **{names[0]: worse, names[1]: few}), rules).verdict == "refuse"


@pytest.mark.parametrize(("num_earlier_tries", "verdict"), [(0, "promote"), (1, "refuse")])
def test_a_further_try_on_the_same_sessions_needs_a_higher_confidence(num_earlier_tries: int, verdict: str) -> None:
    # A gain in all but 1 % of the resamples: the first try needs 97.5 %, the second one 99.17 %.
    lucky = MetricGain(0.104, 0.1, np.repeat([-0.001, 0.004], [100, 9_900]), 1_000)
    decision = _decide(_comparison(0.001, 0.005, mrr_20=lucky), num_earlier_tries=num_earlier_tries)
    assert decision.verdict == verdict
    assert any(f"try {num_earlier_tries + 1} on them" in reason for reason in decision.reasons)


@given(st.floats(0.5, 0.9999), st.integers(1, 200))
def test_all_tries_together_spend_no_more_than_one_minus_the_confidence(confidence: float, num_tries: int) -> None:
    spent = [1 - confidence_of_try(confidence, number) for number in range(1, num_tries + 1)]
    assert sum(spent) <= 1 - confidence + 1e-9
    assert spent == sorted(spent, reverse=True)


@pytest.mark.parametrize("limit", sorted(MEASURED))
def test_an_exceeded_limit_refuses(limit: str) -> None:
    assert _failed_rules(_decide(measurements=MEASURED | {limit: 1e6}))[0].startswith(limit)


def test_a_changed_signature_refuses() -> None:
    assert _failed_rules(_decide(_comparison(0.001, 0.005), same_schema=False)) == ["signature"]


def test_an_alarm_that_holds_promotions_refuses_and_says_why() -> None:
    decision = _decide(_comparison(0.001, 0.005), promotion_holds=["since noon: feedback is broken: 9 of 10 rows"])
    assert _failed_rules(decision) == ["no alarm holds promotions"]
    assert "9 of 10 rows" in decision.reasons[0]


def test_without_a_comparable_champion_the_baselines_decide_and_the_notes_say_so() -> None:
    decision = _decide(notes=["not compared with champion version 3: its model was deleted"])
    assert decision.promote
    assert "its model was deleted" in decision.as_markdown()


def test_a_custom_rules_file_replaces_the_default(tmp_path: Path) -> None:
    own = tmp_path / "gate.toml"
    own.write_text(
        '[baselines]\nnames = []\nmetrics = []\n[champion]\nmetric = "ndcg_20"\nconfidence = 0.8\nmin_gain = -0.02\n'
    )
    rules = load_gate_rules(own)
    gain = _gain(0.1, 0.1, -0.001, 0.001)
    assert decide_promotion(rules, Evidence({"model": {}}, _compared({"ndcg_20": gain}))).promote


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nonsense", "cannot be read"),
        ('[champion]\nmetric = "mrr_20"', "missing required field"),
        ('[baselines]\nnames = []\nmetrics = []\n[champion]\nmetric = "m"\nconfidence = 95\nmin_gain = 0.0', "is 95"),
    ],
)
def test_invalid_rules_are_rejected_with_the_reason(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=problem):
        load_gate_rules(path)


def test_a_rule_on_an_unknown_metric_is_rejected_naming_the_known_ones() -> None:
    rules = msgspec.structs.replace(RULES, guardrails={"new usrs: mrr_20": 0.05})
    with pytest.raises(ConfigurationError, match=r"new usrs: mrr_20, which is not measured.*new users: mrr_20"):
        _decide(_comparison(0.001, 0.005), rules)


V = 300


def _result(ranks: np.ndarray, lists: np.ndarray | None = None) -> RankingResult:
    return RankingResult(ranks, np.full((len(ranks), 20), 2) if lists is None else lists)


def _compare(model: np.ndarray, rival: np.ndarray, users: np.ndarray, members: np.ndarray) -> dict[str, MetricGain]:
    return compare(_result(model), _result(rival), users, {"some": members}, np.full(V, 5))


def test_the_paired_comparison_cancels_common_difficulty() -> None:
    random = np.random.default_rng(0)
    rival = random.integers(2, 20, 300)
    found = _compare(rival - 1, rival, np.arange(300), np.zeros(300, bool))
    assert found["mrr_20"].low(0.95) > 0
    spread = (1 / (rival - 1)).std() / np.sqrt(300)  # of the model's own mean, far more than that of the gain
    assert found["mrr_20"].high(0.95) - found["mrr_20"].low(0.95) < 2 * 1.64 * spread
    assert found["some: mrr_20"].num_tasks == 0


ranks = st.lists(st.one_of(st.integers(1, 40), st.just(MISSED)), min_size=1, max_size=30)


@given(ranks, st.integers(0, 9))
@settings(max_examples=30)
def test_a_model_ties_with_itself(found: list[int], seed: int) -> None:
    own = np.asarray(found)
    users = np.random.default_rng(seed).integers(3, size=len(own))
    for gain in _compare(own, own, users, np.ones(len(own), bool)).values():
        assert gain.is_tie
        assert (gain.low(0.95), gain.high(0.95), gain.relative_to_rival(gain.low(0.95))) == (0, 0, 0)


@given(ranks, st.integers(0, 9))
@settings(max_examples=30)
def test_swapping_the_models_only_flips_the_sign(found: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    own, other = np.asarray(found), random.permutation(np.asarray(found))
    users, members = random.integers(5, size=len(own)), own > 3
    forth, back = _compare(own, other, users, members), _compare(other, own, users, members)
    for name, gain in forth.items():
        assert gain.model - gain.rival == pytest.approx(back[name].rival - back[name].model)
        assert gain.low(0.95) == pytest.approx(-back[name].high(0.95), abs=1e-9)


def test_a_bound_that_the_resamples_cannot_resolve_is_infinite() -> None:
    gain = _gain(0.2, 0.1, 0.05, 0.15)
    assert gain.low(0.9998) == 0.05
    assert (gain.low(0.99995), gain.high(0.99995)) == (-np.inf, np.inf)
    assert gain.as_dict(0.99995)["low"] is None


def _random_lists(random: np.random.Generator, num_lists: int, num_items: int) -> np.ndarray:
    return np.stack([FIRST_ITEM + random.choice(num_items, 20, replace=False) for _ in range(num_lists)])


def test_coverage_has_an_interval_around_the_measured_difference() -> None:
    random = np.random.default_rng(0)
    users, ranks, counts = np.repeat(np.arange(60), 2), np.ones(120, int), np.full(V, 5)
    wide, narrow = _random_lists(random, 120, 250), _random_lists(random, 120, 100)
    gain = compare(_result(ranks, wide), _result(ranks, narrow), users, {}, counts)["coverage_20"]
    assert (gain.model, gain.rival) == pytest.approx((250 / 298, 100 / 298), abs=0.01)
    assert gain.low(0.95) < gain.model - gain.rival < gain.high(0.95)
    assert 0 < gain.high(0.95) - gain.low(0.95) < 0.1
    assert gain.low(0.95) > 0


@given(ranks, st.integers(0, 9))
@settings(max_examples=20)
def test_every_metric_of_two_models_has_an_interval_that_holds_their_difference(found: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    own, other = np.asarray(found), random.permutation(np.asarray(found))
    lists = [_random_lists(random, len(own), 100) for _ in range(2)]
    results = (_result(own, lists[0]), _result(other, lists[1]))
    for gain in compare(*results, np.arange(len(own)), {}, np.full(V, 5)).values():
        assert gain.low(0.999) - 1e-9 <= gain.model - gain.rival <= gain.high(0.999) + 1e-9


def test_while_no_trained_model_serves_only_the_baselines_for_a_first_version_count() -> None:
    table = TABLE | {"model": ROW | {"mrr_20": 0.05}}  # below personal_frequency
    rules = load_gate_rules()
    rules.baselines = BaselineRules(["mrr_20"], ["first-time targets"], first_names=["popularity"])
    evidence = {"table": table, "measurements": MEASURED}
    assert not decide_promotion(rules, Evidence(**evidence)).promote  # type: ignore[arg-type]
    first = decide_promotion(rules, Evidence(**evidence, is_first=True))  # type: ignore[arg-type]
    assert first.promote
    assert "0.0500 against 0.0200 of popularity" in first.reasons[0]
