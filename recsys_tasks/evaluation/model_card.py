"""The model card: what a version is, what it learned from, how good it is, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recsys_tasks.evaluation.report import Report
from recsys_tasks.features.snapshot import Snapshot


def model_card(run_id: str, source: Snapshot, report: Report, parameters: Mapping[str, Any]) -> str:
    """Markdown for a run, in the order of model cards (Mitchell et al. 2019).

    Args:
        run_id: of the training.
        source: the snapshot it learned from.
        report: its evaluation.
        parameters: of the run, as MLflow has them.
    """
    own = report.table["test"]
    low, high = report.intervals["test"]["mrr_20"]
    rivals = sorted((name for name in report.table if name != "test"), key=lambda name: -report.table[name]["mrr_20"])
    weakest = min(report.questions, key=lambda segment: report.by_segment["test"][segment]["mrr_20"])
    return f"""# session-recommender, run {run_id}

**What it is.** An encoder-decoder Transformer ({int(parameters["parameters"]):,} parameters, width
{parameters["network_width"]}) that reads a user's history and the current session and scores every item of the
catalogue as the next one. Trained for at most {float(parameters["seconds"]):g} s on {parameters["threads"]} threads,
seed {parameters["seed"]}.

**What it is for.** Recommending items in the shop whose events it learned from. Not for prices, for judging people, or
for another shop.

**Data.** Snapshot `{source.snapshot_id}`: {source.events:,} events in {source.sessions:,} sessions up to
{source.cutoff:%Y-%m-%d %H:%M} UTC, {source.feedback_events:,} of them seen through the endpoint. Trained on what came
before {source.test_start:%Y-%m-%d %H:%M} UTC; items with fewer than {source.min_item_events} events are not known.

**How good it is.** On {sum(report.questions.get(name, 0) for name in ("new users", "returning users")):,} later
sessions: MRR@20 {own["mrr_20"]:.4f} (95 % interval {low:.4f} to {high:.4f}), Recall@20 {own["recall_20"]:.4f};
{rivals[0]}, the best baseline, {report.table[rivals[0]]["mrr_20"]:.4f} and {report.table[rivals[0]]["recall_20"]:.4f}.
It shows {own["coverage_20"]:.0%} of the catalogue to anybody. `evaluation.md` has all of it.

**Where it is weak.** Weakest segment: {weakest} (MRR@20 {report.by_segment["test"][weakest]["mrr_20"]:.4f} on
{report.questions[weakest]:,} sessions). Items that came after the snapshot are recommended only after the next
training. What was shown decides what was bought: offline figures favour items that were shown before.

**Again.** `python -m recsys_tasks reproduce {run_id}` trains it once more from the same snapshot and compares.
"""
