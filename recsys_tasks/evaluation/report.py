"""The evaluation of several models on the same questions: overall, with confidence, and by segment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recsys_tasks.evaluation.metrics import gains, interval, list_metrics, ranking_metrics
from recsys_tasks.evaluation.protocol import Questions, Scorer, answer
from recsys_tasks.evaluation.segments import segments
from recsys_tasks.model.training_loop import TrainingData

_SHOWN = ("recall_20", "mrr_20", "ndcg_20", "precision_20", "f1_20", "coverage_20", "popularity_20", "novelty_20")
_WITH_INTERVAL = ("recall_20", "mrr_20", "ndcg_20")


@dataclass(frozen=True)
class Report:
    """Metrics by model; 95 % intervals by model and metric; metrics by model and segment; questions by segment."""

    table: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, tuple[float, float]]]
    by_segment: dict[str, dict[str, dict[str, float]]]
    questions: dict[str, int]

    def as_dict(self) -> dict[str, object]:
        """All of it, for JSON."""
        return {**vars(self)}

    def as_markdown(self) -> str:
        """A table of the models and one of the segments."""
        lines = [_row(["model", *_SHOWN]), _row(["---"] * (1 + len(_SHOWN)))]
        for model, metrics in self.table.items():
            shown = [f"{metrics[name]:.4f}{self._around(model, name)}" for name in _SHOWN]
            lines.append(_row([model, *shown]))
        lines += ["", "mrr_20 by segment:", "", _row(["segment", "questions", *self.table])]
        lines.append(_row(["---"] * (2 + len(self.table))))
        for segment, count in self.questions.items():
            shown = [f"{self.by_segment[model][segment]['mrr_20']:.4f}" for model in self.table]
            lines.append(_row([segment, f"{count:,}", *shown]))
        return "\n".join(lines) + "\n"

    def _around(self, model: str, metric: str) -> str:
        around = self.intervals[model].get(metric)
        return f" ({around[0]:.4f} to {around[1]:.4f})" if around else ""


def report(scorers: Mapping[str, Scorer], data: TrainingData, asked: Questions, skip_session: bool) -> Report:
    """Asks each scorer the same questions."""
    timeline, users = data.timeline, data.timeline.user[asked.first]
    parts = {name: members for name, members in segments(timeline, asked).items() if members.any()}
    found = Report({}, {}, {}, {name: int(members.sum()) for name, members in parts.items()})
    for name, scorer in scorers.items():
        answers = answer(scorer, timeline, asked, skip_session)
        values = gains(answers.ranks)
        found.table[name] = ranking_metrics(answers.ranks) | list_metrics(answers.lists, data.counts)
        found.intervals[name] = {metric: interval(values[metric], users) for metric in _WITH_INTERVAL}
        found.by_segment[name] = {part: ranking_metrics(answers.ranks[members]) for part, members in parts.items()}
    return found


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
