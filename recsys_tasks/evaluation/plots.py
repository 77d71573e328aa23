"""Plots of a training run and its evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recsys_tasks.evaluation.report import EvaluationReport

_METRIC = "mrr_20"
_MAX_MODELS = 3  # more bars for each segment are not readable
_DPI = 110


def draw_curves(epochs: Sequence[tuple[float, float | None]], path: Path) -> None:
    """Plots the loss and, where available, the validation metric of each epoch, from `registry.runs.load_epochs`."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel="loss")
    numbers = np.arange(1, len(epochs) + 1)
    axes.plot(numbers, [loss for loss, _ in epochs], marker=".", color="C0", label="loss")
    validated = [(number, metric) for number, (_, metric) in zip(numbers, epochs, strict=True) if metric is not None]
    if validated:
        other = axes.twinx()
        other.set_ylabel("MRR@20 in validation")
        other.plot(*zip(*validated, strict=True), marker="o", color="C1", label="validation")
    figure.legend(loc="outside upper right")
    figure.savefig(path, dpi=_DPI)


def draw_segments(report: EvaluationReport, path: Path) -> None:
    """Plots MRR@20 by segment, of the model and the best baselines."""
    models = sorted(report.table, key=lambda name: (name != "model", -report.table[name][_METRIC]))[:_MAX_MODELS]
    figure = Figure(figsize=(9, 0.6 * len(report.num_tasks_by_segment) + 1.5), layout="constrained")
    axes = figure.add_subplot(xlabel="MRR@20")
    position, height = np.arange(len(report.num_tasks_by_segment)), 0.8 / len(models)
    for number, model in enumerate(models):
        values = [report.by_segment[model][segment][_METRIC] for segment in report.num_tasks_by_segment]
        axes.barh(position + number * height, values, height, label=model)
    labels = [f"{segment} ({count:,})" for segment, count in report.num_tasks_by_segment.items()]
    _label_rows(axes, position + 0.4 - height / 2, labels)
    axes.legend()
    figure.savefig(path, dpi=_DPI)


def draw_coverage(report: EvaluationReport, path: Path) -> None:
    """Plots each model's catalog coverage and the popularity of its lists."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    names, position = list(report.table), np.arange(len(report.table))
    shown = (
        ("coverage_20", "share of the catalog in any list"),
        ("popularity_20", "mean popularity of listed items"),
    )
    for column, (metric, label) in enumerate(shown, start=1):
        axes = figure.add_subplot(1, 2, column, xlabel=label)
        axes.barh(position, [report.table[name][metric] for name in names])
        _label_rows(axes, position, names if column == 1 else [""] * len(names))
    figure.savefig(path, dpi=_DPI)


def _label_rows(axes: Axes, position: np.ndarray, names: Sequence[str]) -> None:
    axes.set_yticks(position, names)
    axes.invert_yaxis()
