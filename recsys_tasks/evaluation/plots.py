"""Pictures of a training and its evaluation, for whoever has five minutes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recsys_tasks.evaluation.report import Report

_METRIC = "mrr_20"
_COMPARED = 3  # models in the bars of segments: more cannot be told apart
_DPI = 110


def draw_curves(epochs: Sequence[tuple[float, float | None]], path: Path) -> None:
    """Loss and, where it was taken, validation of each epoch, as `registry.runs.epochs_of` gives them."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel="loss")
    numbers = np.arange(1, len(epochs) + 1)
    axes.plot(numbers, [loss for loss, _ in epochs], marker=".", color="C0", label="loss")
    judged = [(number, measure) for number, (_, measure) in zip(numbers, epochs, strict=True) if measure is not None]
    if judged:
        other = axes.twinx()
        other.set_ylabel("MRR@20 in validation")
        other.plot(*zip(*judged, strict=True), marker="o", color="C1", label="validation")
    figure.legend(loc="outside upper right")
    figure.savefig(path, dpi=_DPI)


def draw_segments(report: Report, path: Path) -> None:
    """MRR@20 by segment, of the model and of the baselines that come closest to it."""
    models = sorted(report.table, key=lambda name: (name != "test", -report.table[name][_METRIC]))[:_COMPARED]
    figure = Figure(figsize=(9, 0.6 * len(report.questions) + 1.5), layout="constrained")
    axes = figure.add_subplot(xlabel="MRR@20")
    place, height = np.arange(len(report.questions)), 0.8 / len(models)
    for number, model in enumerate(models):
        values = [report.by_segment[model][segment][_METRIC] for segment in report.questions]
        axes.barh(place + number * height, values, height, label=model)
    labels = [f"{segment} ({count:,})" for segment, count in report.questions.items()]
    _name_rows(axes, place + 0.4 - height / 2, labels)
    axes.legend()
    figure.savefig(path, dpi=_DPI)


def draw_coverage(report: Report, path: Path) -> None:
    """What share of the catalogue each model shows to anybody, and how popular that is."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    names, place = list(report.table), np.arange(len(report.table))
    shown = (
        ("coverage_20", "share of the catalogue in any list"),
        ("popularity_20", "mean popularity of what is listed"),
    )
    for column, (metric, label) in enumerate(shown, start=1):
        axes = figure.add_subplot(1, 2, column, xlabel=label)
        axes.barh(place, [report.table[name][metric] for name in names])
        _name_rows(axes, place, names if column == 1 else [""] * len(names))
    figure.savefig(path, dpi=_DPI)


def _name_rows(axes: Axes, place: np.ndarray, names: Sequence[str]) -> None:
    axes.set_yticks(place, names)
    axes.invert_yaxis()
