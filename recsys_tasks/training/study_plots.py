"""Plots of a study, by Optuna."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import cast

import matplotlib

matplotlib.use("Agg")  # before pyplot: there is no display in a task

import optuna
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.exceptions import ExperimentalWarning
from optuna.visualization import matplotlib as optuna_plots

from recsys_tasks.training.tuning import complete_trials

_PLOTS: dict[str, Callable[[optuna.Study], Axes]] = {
    "history": optuna_plots.plot_optimization_history,
    "intermediate_values": optuna_plots.plot_intermediate_values,
    "importances": optuna_plots.plot_param_importances,
    "parallel_coordinates": optuna_plots.plot_parallel_coordinate,
}
_MIN_DISTINCT_RESULTS = 3  # with fewer, there is no importance
_DPI = 110


def draw_study(study: optuna.Study, folder: Path) -> None:
    """Plots the history, the pruning, the importances and the parallel coordinates of a study as PNG files.

    Writes nothing if the complete trials have fewer than three distinct results.
    """
    if len({trial.value for trial in complete_trials(study)}) < _MIN_DISTINCT_RESULTS:
        return
    for name, draw in _PLOTS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            figure = cast("Figure", draw(study).figure)
        figure.set_size_inches(14 if name == "parallel_coordinates" else 8, 5)
        figure.savefig(folder / f"{name}.png", dpi=_DPI, bbox_inches="tight")
        pyplot.close(figure)
