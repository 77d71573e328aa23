"""What installed packages add: models, baselines, metrics and gate rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.evaluation.baselines import BASELINE_FITTERS, baseline_fitters
from recsys_tasks.evaluation.comparison import Comparison, compare
from recsys_tasks.evaluation.gate import Evidence, decide_promotion, load_gate_rules
from recsys_tasks.evaluation.metrics import plugin_metrics, plugin_values, ranking_metrics, reported_metrics
from recsys_tasks.evaluation.protocol import RankingResult
from recsys_tasks.plugins import (
    BASELINE_GROUP,
    GATE_RULE_GROUP,
    METRIC_GROUP,
    MODEL_GROUP,
    load_plugin,
    plugin_names,
)
from recsys_tasks.training.models import load_model_fitter
from tests.packages import install
from tests.shops import LENIENT_GATE_RULES, START, baseline_data, encoded_shop

NEWEST = """
import numpy as np

def fit(data):
    newest = np.arange(len(data.popularity), dtype=np.float32)
    return lambda tasks: np.tile(newest, (len(tasks), 1))
"""


SUCCESS = """
def at_three(ranks):
    return (ranks <= 3).astype(float)
"""

SILENCE = """
from recsys_tasks.evaluation.gate import Outcome, RuleResult

def check(evidence):
    if not evidence.table:
        return None
    recall = evidence.table["model"]["recall_20"]
    return [RuleResult("recall_20 above 0", f"{recall:.4f}", Outcome.PASSED if recall > 0 else Outcome.FAILED)]
"""

RULES_ON_SUCCESS = """
[baselines]
metrics = ["{}"]
[champion]
metric = "{}"
confidence = 0.95
min_gain = 0.0
[guardrails]
"{}" = 0.0
"""


@pytest.fixture(autouse=True)
def _forget_metrics() -> Iterator[None]:
    """The metrics of a test's packages are gone with it."""
    yield
    plugin_metrics.cache_clear()


def test_the_lstm_is_a_model_of_this_package() -> None:
    assert "lstm" in plugin_names(MODEL_GROUP)


def test_a_baseline_of_a_package_joins_the_built_in_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "newest_items", NEWEST, {BASELINE_GROUP: {"newest": "newest_items:fit"}})
    fitters = baseline_fitters()
    assert list(fitters) == [*BASELINE_FITTERS, "newest"]
    data = baseline_data(encoded_shop())
    scores = fitters["newest"](data)(data.validation)
    assert (scores.argmax(1) == len(data.popularity) - 1).all()
    assert np.isfinite(scores).all()


def test_a_metric_of_a_package_is_reported_and_can_be_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "success", SUCCESS, {METRIC_GROUP: {"success_3": "success:at_three"}})
    plugin_metrics.cache_clear()
    assert plugin_values(np.array([1, 3, 4]))["success_3"].tolist() == [1.0, 1.0, 0.0]
    assert reported_metrics(np.array([1, 3, 4, 9]))["success_3"] == 0.5
    assert "success_3" not in ranking_metrics(np.array([1])), "training does not need it"
    results = [
        RankingResult(np.array(ranks * 200), np.ones((800, 20), np.int64)) for ranks in ([1, 2, 3, 9], [1, 4, 9, 9])
    ]
    gains = compare(results[0], results[1], np.arange(800), {"new users": np.ones(800, bool)}, np.ones(30))
    assert (gains["success_3"].model, gains["new users: success_3"].rival) == (0.75, 0.25)
    judged = RULES_ON_SUCCESS.format(*["success_3"] * 3)
    (tmp_path / "gate.toml").write_text(judged, encoding="utf-8")
    table = {"model": {"success_3": 0.75}, "popularity": {"success_3": 0.5}}
    comparison = Comparison(gains, 800, 0, START)
    assert decide_promotion(load_gate_rules(tmp_path / "gate.toml"), Evidence(table, comparison)).promote


@pytest.mark.parametrize("returned", ["ranks[:1]", "ranks * float('nan')", "1.0"])
def test_a_metric_that_is_not_a_number_for_each_rank_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, returned: str
) -> None:
    code = f"def wrong(ranks):\n    return {returned}\n"
    install(monkeypatch, tmp_path, "wrong_metric", code, {METRIC_GROUP: {"wrong_3": "wrong_metric:wrong"}})
    plugin_metrics.cache_clear()
    with pytest.raises(
        ConfigurationError, match=r"Metric wrong_3 of recsys_tasks\.metrics must return a finite number"
    ):
        plugin_values(np.array([1, 2]))


@pytest.mark.parametrize("name", ["mrr_20", "success", "Success_3"])
def test_a_metric_needs_a_name_of_its_own_with_the_number_of_positions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    install(monkeypatch, tmp_path, "success", SUCCESS, {METRIC_GROUP: {name: "success:at_three"}})
    plugin_metrics.cache_clear()
    with pytest.raises(ConfigurationError, match=f"The plugin {name} of recsys_tasks.metrics needs another name"):
        plugin_metrics()


def test_a_gate_rule_of_a_package_refuses_a_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "silence", SILENCE, {GATE_RULE_GROUP: {"no_silence": "silence:check"}})
    (tmp_path / "gate.toml").write_text('plugins = ["no_silence"]\n' + LENIENT_GATE_RULES, encoding="utf-8")
    rules = load_gate_rules(tmp_path / "gate.toml")
    better = {"model": {"mrr_20": 0.2, "recall_20": 0.0}, "popularity": {"mrr_20": 0.1}}
    decision = decide_promotion(rules, Evidence(better, None))
    assert not decision.promote
    assert "failed: recall_20 above 0: 0.0000" in decision.reasons
    with pytest.raises(ConfigurationError, match=r"Rule no_silence .* must return a list of RuleResult"):
        decide_promotion(rules, Evidence({}, None))
    (tmp_path / "gate.toml").write_text('plugins = ["absent"]\n' + LENIENT_GATE_RULES, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"No plugin absent of recsys_tasks.gate_rules"):
        load_gate_rules(tmp_path / "gate.toml")


def test_an_unknown_name_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigurationError, match=r"Unknown model transfomer. Available: transformer, .*lstm"):
        load_model_fitter("transfomer")
    with pytest.raises(ConfigurationError, match=r"No plugin nonsense of recsys_tasks.baselines; there are: none"):
        load_plugin(BASELINE_GROUP, "nonsense")


@pytest.mark.parametrize("target", ["absent_module:fit", "broken_package:absent"])
def test_a_package_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    install(monkeypatch, tmp_path, "broken_package", "", {MODEL_GROUP: {"broken": target}})
    with pytest.raises(ConfigurationError, match=f"broken of recsys_tasks.models cannot be imported from {target}"):
        load_plugin(MODEL_GROUP, "broken")
