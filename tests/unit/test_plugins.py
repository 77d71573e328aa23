"""What installed packages add: models and baselines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.evaluation.baselines import BASELINE_FITTERS, baseline_fitters
from recsys_tasks.plugins import BASELINES, MODELS, load_plugin, plugin_names
from tests.packages import install
from tests.shops import baseline_data, encoded_shop

NEWEST = """
import numpy as np

def fit(data):
    newest = np.arange(len(data.popularity), dtype=np.float32)
    return lambda tasks: np.tile(newest, (len(tasks), 1))
"""


def test_the_lstm_is_a_model_of_this_package() -> None:
    assert "lstm" in plugin_names(MODELS)


def test_a_baseline_of_a_package_joins_the_built_in_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "newest_items", NEWEST, {BASELINES: {"newest": "newest_items:fit"}})
    fitters = baseline_fitters()
    assert list(fitters) == [*BASELINE_FITTERS, "newest"]
    data = baseline_data(encoded_shop())
    scores = fitters["newest"](data)(data.validation)
    assert (scores.argmax(1) == len(data.popularity) - 1).all()
    assert np.isfinite(scores).all()


def test_what_no_package_adds_is_named_with_what_there_is() -> None:
    with pytest.raises(ConfigurationError, match=r"adds nonsense to recsys_tasks.models; they add .*lstm"):
        load_plugin(MODELS, "nonsense")


@pytest.mark.parametrize("target", ["absent_module:fit", "broken_package:absent"])
def test_a_package_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    install(monkeypatch, tmp_path, "broken_package", "", {MODELS: {"broken": target}})
    with pytest.raises(ConfigurationError, match=f"broken of recsys_tasks.models cannot be imported from {target}"):
        load_plugin(MODELS, "broken")
