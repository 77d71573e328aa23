from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.evaluation.gate import decide

BASELINES = ("popularity", "personal_frequency")
measures = st.fixed_dictionaries({"mrr_20": st.floats(0, 1), "recall_20": st.floats(0, 1)})


def _row(mrr: float, recall: float) -> dict[str, float]:
    return {"mrr_20": mrr, "recall_20": recall}


def test_a_model_that_does_not_beat_a_baseline_is_refused_with_the_numbers() -> None:
    table = {"test": _row(0.08, 0.25), "popularity": _row(0.02, 0.06), "personal_frequency": _row(0.08, 0.21)}
    decision = decide(table, BASELINES, None, 0.01)
    assert not decision.promote
    assert any("mrr_20 0.0800 against personal_frequency 0.0800" in reason for reason in decision.reasons)


def test_the_first_model_needs_to_beat_the_baselines_only() -> None:
    table = {"test": _row(0.09, 0.25), "popularity": _row(0.02, 0.06), "personal_frequency": _row(0.08, 0.21)}
    assert decide(table, BASELINES, None, 0.01).promote


@given(measures, measures, st.floats(0, 0.2))
def test_nothing_worse_than_the_champion_beyond_the_margin_is_promoted(
    challenger: dict[str, float], champion: dict[str, float], margin: float
) -> None:
    decision = decide({"test": challenger, "champion": champion}, (), "champion", margin)
    good = all(challenger[name] >= champion[name] * (1 - margin) for name in challenger)
    assert decision.promote == good
