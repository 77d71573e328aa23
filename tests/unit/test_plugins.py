"""What installed packages add: models and baselines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.evaluation.baselines import BASELINE_FITTERS, baseline_fitters
from recsys_tasks.plugins import BASELINE_GROUP, MODEL_GROUP, load_plugin, plugin_names
from recsys_tasks.training.models import load_model_fitter
from tests.packages import install
from tests.shops import baseline_data, encoded_shop

NEWEST = """
import numpy as np

def fit(data):
    newest = np.arange(len(data.popularity), dtype=np.float32)
    return lambda tasks: np.tile(newest, (len(tasks), 1))
"""


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
