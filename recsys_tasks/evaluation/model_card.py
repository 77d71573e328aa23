"""Model card: purpose, data, quality, weaknesses and reproduction of a model version."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from recsys_tasks.evaluation.calibration import IntentReport
from recsys_tasks.evaluation.report import EvaluationReport
from recsys_tasks.features.snapshot import Snapshot
from recsys_tasks.model.tensors import ComponentWeights

_PLUGIN_MODEL = "model"  # parameter of a run: the name of its plugin model
_FIRST_TIME = "first-time targets"
MIN_SEGMENT_TASKS = 100  # with fewer, a segment's metrics are mostly chance


def model_card(
    run_id: str,
    source: Snapshot,
    report: EvaluationReport,
    intent: IntentReport,
    parameters: Mapping[str, Any],
    weights: ComponentWeights,
) -> str:
    """Returns Markdown for a run, in the order of model cards (Mitchell et al. 2019).

    Args:
        run_id: of the training.
        source: snapshot the model is trained on.
        report: evaluation of the model.
        intent: evaluation of its purchase intent.
        parameters: of the run, as MLflow stores them.
        weights: component weights chosen on validation.
    """
    own = report.table["model"]
    low, high = report.intervals["model"]["mrr_20"]
    best_baseline = _best_baseline(report)
    best = report.table[best_baseline]
    return f"""# session-recommender, run {run_id}

**Model.** {_architecture(parameters, source.min_item_events)} It reads a user's
history and the current session and scores every item of the catalog as the next one. Trained for at most
{float(parameters["seconds"]):g} s, seed {parameters["seed"]}.

**Components.** {_components(parameters, weights)}

**Intended use.** Recommending items in the shop that its training events come from. Not for pricing, for assessing
people, or for another shop.

**Data.** Snapshot `{source.snapshot_id}`: {source.events:,} events in {source.sessions:,} sessions up to
{source.cutoff:%Y-%m-%d %H:%M} UTC, {source.feedback_events:,} of them from the endpoint. Trained on events
before {source.test_start:%Y-%m-%d %H:%M} UTC.

**Evaluation.** On {sum(report.num_tasks_by_segment.get(name, 0) for name in ("new users", "returning users")):,} later
sessions: MRR@20 {own["mrr_20"]:.4f} (95 % interval {low:.4f} to {high:.4f}), Recall@20 {own["recall_20"]:.4f};
{best_baseline}, the best baseline, {best["mrr_20"]:.4f} and {best["recall_20"]:.4f}.
Its lists cover {own["coverage_20"]:.0%} of the catalog. See `evaluation.md` for all metrics.

**Purchase intent.** {intent.as_sentence()}

**Limitations.** {_weakest_segment(report)} Items added after the snapshot are recommended only after the next
training. Exposure bias: offline metrics favor items that were shown before.

**Reproduction.** {_reproduction(run_id, source.snapshot_id, parameters)}
"""


def describe_run(source: Snapshot, report: EvaluationReport, intent: IntentReport, started_from: str | None) -> str:
    """Returns a description of a run in Markdown: its start, the metrics that matter beside the best baseline, and the
    weakest segment.

    Args:
        source: snapshot the model is trained on.
        report: evaluation of the model.
        intent: evaluation of its purchase intent.
        started_from: number of the version whose weights it started from, None from scratch.
    """
    best = _best_baseline(report)
    rows = [("Recall@20", "", "recall_20"), ("MRR@20", "", "mrr_20"), ("MRR@20", _FIRST_TIME, "mrr_20")]
    rows.append(("Catalog coverage@20", "", "coverage_20"))
    lines = [f"| on held-out sessions | model | {best} |", "|---|---|---|"]
    for label, segment, metric in rows:
        own, other = (_metric(report, name, segment, metric) for name in ("model", best))
        if own is not None and other is not None:
            lines.append(f"| {label}{f', {segment}' if segment else ''} | {own:.4f} | {other:.4f} |")
    start = "from scratch" if started_from is None else f"from the weights of version {started_from}"
    return (
        f"Trained {start} on the events before {source.test_start:%Y-%m-%d %H:%M} UTC of a snapshot with"
        f" {source.events:,} events up to {source.cutoff:%Y-%m-%d %H:%M} UTC, {source.feedback_events:,} of them from"
        " the endpoint.\n\n" + "\n".join(lines) + f"\n\n{intent.as_sentence()} {_weakest_segment(report)}"
    )


def _best_baseline(report: EvaluationReport) -> str:
    names = (name for name in report.table if name != "model")
    return max(names, key=lambda name: report.table[name]["mrr_20"])


def _metric(report: EvaluationReport, name: str, segment: str, metric: str) -> float | None:
    values = report.by_segment[name].get(segment, {}) if segment else report.table[name]
    return values.get(metric)


def _architecture(parameters: Mapping[str, Any], min_item_events: int) -> str:
    if _PLUGIN_MODEL in parameters:
        return f"The plugin model `{parameters[_PLUGIN_MODEL]}`."
    return (
        f"An encoder-decoder Transformer ({int(parameters['num_parameters']):,} parameters, embedding dimension"
        f" {parameters['embedding_dim']}, {parameters['threads']} threads). Items with {min_item_events} or more"
        " training events have an embedding; content places the others."
    )


def _reproduction(run_id: str, snapshot_id: str, parameters: Mapping[str, Any]) -> str:
    if _PLUGIN_MODEL not in parameters:
        return f"`python -m recsys_tasks reproduce {run_id}` retrains it from its snapshot and compares metrics."
    settings = f"RECSYS_MODEL={parameters[_PLUGIN_MODEL]} RECSYS_SEED={parameters['seed']}"
    return (
        f"`{settings} python -m recsys_tasks train --snapshot {snapshot_id}` trains it again. Metrics may differ"
        " slightly, because the time budget limits the training."
    )


def _components(parameters: Mapping[str, Any], weights: ComponentWeights) -> str:
    """Returns sentences about the components of the mixture."""
    if _PLUGIN_MODEL in parameters:
        return "The dot product of an item's vector and the session's, plus a bias of the item."
    neighbors, text = int(parameters.get("neighbor_tokens", 0)), int(parameters.get("text_dim", 0))
    components = ["generated items (all of the catalog)", "copies of the history"]
    components += [f"neighbors of the latest {neighbors} session items"] if neighbors else []
    components += ["items of the nearest past sessions"] if weights.session_neighbors else []
    chosen = f"Component weights, chosen on validation: discovery {weights.discovery:g}"
    sources = ["tokens"] + [f"a text vector ({text} dimensions)"] * bool(text)
    spaces = ast.literal_eval(str(parameters.get("vector_spaces", "{}")))
    sources += [f"vectors of the space {name} ({dim} dimensions)" for name, dim in spaces.items()]
    content = f"Content is {', '.join(sources)}."
    stage = str(parameters.get("second_stage", "none"))
    return (
        f"One mixture of {', '.join(components)}. {chosen}, session neighbors {weights.session_neighbors:g}. {content}"
        f" Second stage: {stage}."
    )


def _weakest_segment(report: EvaluationReport) -> str:
    """Returns a sentence about the weakest segment of the model that has enough sessions."""
    metrics, sizes = report.by_segment["model"], report.num_tasks_by_segment
    large = [segment for segment, size in sizes.items() if size >= MIN_SEGMENT_TASKS]
    if not large:
        return f"No segment has {MIN_SEGMENT_TASKS} sessions, so that none is named as the weakest."
    weakest = min(large, key=lambda segment: metrics[segment]["mrr_20"])
    return (
        f"Weakest segment of those with at least {MIN_SEGMENT_TASKS} sessions: {weakest}"
        f" (MRR@20 {metrics[weakest]['mrr_20']:.4f} on {sizes[weakest]:,} sessions)."
    )
