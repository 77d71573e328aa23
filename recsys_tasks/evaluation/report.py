"""Evaluation report of several models on the same tasks: overall, with confidence intervals, and by segment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recsys_tasks.evaluation.markdown import markdown_table
from recsys_tasks.evaluation.metrics import (
    bootstrap_interval,
    list_metrics,
    per_target_metrics,
    plugin_metrics,
    plugin_values,
    reported_metrics,
)
from recsys_tasks.evaluation.protocol import PredictionTasks, RankingResult
from recsys_tasks.evaluation.segments import QUESTIONS, SEGMENT_METRICS, SEGMENTS, segment_masks, segment_metric
from recsys_tasks.model.training_loop import TrainingData

_REPORTED_METRICS = (
    "recall_20",
    "mrr_20",
    "ndcg_20",
    "precision_20",
    "f1_20",
    "coverage_20",
    "popularity_20",
    "novelty_20",
)
_METRICS_WITH_INTERVAL = ("recall_20", "mrr_20", "ndcg_20")


@dataclass(frozen=True)
class EvaluationReport:
    """Metrics by model; 95 % intervals by model and metric; metrics by model and segment; tasks by segment."""

    table: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, tuple[float, float]]]
    by_segment: dict[str, dict[str, dict[str, float]]]
    num_tasks_by_segment: dict[str, int]

    def as_dict(self) -> dict[str, object]:
        """Returns all fields for JSON; the stored key of `num_tasks_by_segment` is `questions`."""
        fields = vars(self)
        return {"questions" if name == "num_tasks_by_segment" else name: value for name, value in fields.items()}

    def metrics_table(self) -> dict[str, dict[str, float]]:
        """Returns the metrics by model, with those of segments as `first-time targets: mrr_20`; a segment without tasks
        has none. The model has the numbers of tasks, too: `questions` and `first-time targets: questions`.
        """
        found = {}
        for model, metrics in self.table.items():
            by_segment = self.by_segment[model]
            found[model] = metrics | {
                segment_metric(segment, metric): by_segment[segment][metric]
                for segment in by_segment
                for metric in (*SEGMENT_METRICS, *plugin_metrics())
            }
        sizes = {segment: float(self.num_tasks_by_segment.get(segment, 0)) for segment in SEGMENTS}
        found["model"] |= {segment_metric(segment, QUESTIONS): size for segment, size in sizes.items()}
        found["model"][QUESTIONS] = sizes["new users"] + sizes["returning users"]
        return found

    def as_markdown(self) -> str:
        """Returns a Markdown table of the models and one of the segments."""
        shown = [*_REPORTED_METRICS, *plugin_metrics()]
        overall = [
            [model, *(f"{metrics[name]:.4f}{self._format_interval(model, name)}" for name in shown)]
            for model, metrics in self.table.items()
        ]
        by_segment = [
            [segment, f"{count:,}", *(f"{self.by_segment[model][segment]['mrr_20']:.4f}" for model in self.table)]
            for segment, count in self.num_tasks_by_segment.items()
        ]
        lines = markdown_table(["model", *shown], overall)
        lines += ["", "mrr_20 by segment:", "", *markdown_table(["segment", "sessions", *self.table], by_segment)]
        return "\n".join(lines) + "\n"

    def _format_interval(self, model: str, metric: str) -> str:
        bounds = self.intervals[model].get(metric)
        return f" ({bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else ""


def evaluate(results: Mapping[str, RankingResult], data: TrainingData, tasks: PredictionTasks) -> EvaluationReport:
    """Reports the metrics of each model from its results on the same tasks."""
    timeline, users = data.timeline, data.timeline.user[tasks.first]
    parts = {name: members for name, members in segment_masks(timeline, tasks, data.counts).items() if members.any()}
    found = EvaluationReport({}, {}, {}, {name: int(members.sum()) for name, members in parts.items()})
    for name, result in results.items():
        values = per_target_metrics(result.ranks) | plugin_values(result.ranks)
        found.table[name] = reported_metrics(result.ranks) | list_metrics(result.lists, data.counts)
        with_interval = (*_METRICS_WITH_INTERVAL, *plugin_metrics())
        found.intervals[name] = {metric: bootstrap_interval(values[metric], users) for metric in with_interval}
        found.by_segment[name] = {part: reported_metrics(result.ranks[members]) for part, members in parts.items()}
    return found
