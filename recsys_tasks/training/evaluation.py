"""Evaluation of an MLflow run on held-out sessions: metrics of model and baselines, plots, examples, model card."""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path

from recsys_tasks.engine.purchase_intent import sigmoid
from recsys_tasks.errors import InputError
from recsys_tasks.evaluation.baselines import BaselineData, baseline_fitters
from recsys_tasks.evaluation.calibration import (
    MODEL,
    IntentReport,
    evaluate_intent,
    purchase_intent_inputs,
    without_intent,
)
from recsys_tasks.evaluation.category_overlap import CategoryOverlapReport, measure_category_overlap
from recsys_tasks.evaluation.comparison import tasks_since
from recsys_tasks.evaluation.examples import format_examples
from recsys_tasks.evaluation.gate import MetricsTable
from recsys_tasks.evaluation.model_card import describe_run, model_card
from recsys_tasks.evaluation.plots import draw_coverage, draw_curves, draw_segments
from recsys_tasks.evaluation.protocol import (
    TEST,
    VALIDATION,
    PredictionTasks,
    rank_targets,
    sample_session_prefixes,
    select_prediction_tasks,
)
from recsys_tasks.evaluation.report import EvaluationReport, evaluate
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot
from recsys_tasks.features.snapshot import Snapshot, open_snapshot
from recsys_tasks.model.files import TrainedModel, load_model
from recsys_tasks.model.tensors import ComponentWeights
from recsys_tasks.model.training_loop import TrainingData
from recsys_tasks.model.vector_model import NO_INTENT
from recsys_tasks.names import UNCALIBRATED
from recsys_tasks.registry import runs, versions
from recsys_tasks.registry.tracking import client
from recsys_tasks.storage.folder import Folder
from recsys_tasks.training.lineage import SCRATCH, trained_until
from recsys_tasks.training.opened_model import OpenedModel, open_model
from recsys_tasks.training.purchase_intent import fit_baseline
from recsys_tasks.training.recipe import sessions_repeat
from recsys_tasks.training.task import training_data


def evaluate_run(run_id: str, snapshots: Folder) -> MetricsTable:
    """Metrics of a run's model and of the baselines on the test part of its snapshot, with those of segments.

    Logs them to the run. Sessions that a version it started from may have been trained on are excluded. The table is
    empty where the snapshot has no held-out sessions.

    Raises:
        InputError: every session is excluded.
    """
    snapshot = open_snapshot(snapshots, runs.load_snapshot_id(run_id))
    if not snapshot.has_held_out_sessions:
        return {}
    since = trained_until(run_id, snapshots)
    with open_model(run_id, snapshot) as opened:
        tasks = tasks_since(opened.encoded.timeline, select_prediction_tasks(opened.encoded, TEST), since)
        if not len(tasks):
            raise InputError(
                f"Run {run_id} cannot be evaluated: a version that it started from was trained on every session of its"
                f" test part, up to {since:%Y-%m-%d %H:%M} UTC. Train from scratch, or on a later snapshot"
            )
        evaluated, overlap = _evaluate(opened, tasks)
        table = evaluated.metrics_table()
        runs.log_evaluation(run_id, table)
        intent = evaluate_purchase_intent(opened.model, training_data(opened.encoded), opened.encoded, since)
        report = evaluated.as_dict() | {"category_overlap": overlap.as_dict()}
        runs.log_report(run_id, report, evaluated.as_markdown() + overlap.as_markdown() + intent.as_markdown())
        _log_intent(run_id, intent)
        _log_plots_and_card(run_id, opened, evaluated, intent, tasks, snapshot)
    return table


def _log_plots_and_card(
    run_id: str,
    opened: OpenedModel,
    evaluated: EvaluationReport,
    intent: IntentReport,
    tasks: PredictionTasks,
    snapshot: Snapshot,
) -> None:
    """Logs plots, examples and the model card to a run."""
    run = client().get_run(run_id)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_curves(runs.load_epochs(run_id), folder / "curves.png")
        draw_segments(evaluated, folder / "segments.png")
        draw_coverage(evaluated, folder / "coverage.png")
        examples = format_examples(opened.rank, opened.encoded, tasks)
        (folder / "examples.md").write_text(examples, encoding="utf-8")
        found = run.data.metrics
        weights = ComponentWeights(found.get("discovery_weight", 1.0), found.get("session_neighbor_weight", 0.0))
        started_from = run.data.tags.get("started_from", SCRATCH)
        version = None if started_from == SCRATCH else started_from
        runs.describe(run_id, describe_run(snapshot, evaluated, intent, version))
        card = model_card(run_id, snapshot, evaluated, intent, run.data.params, weights)
        (folder / "model_card.md").write_text(card, encoding="utf-8")
        runs.log_files(run_id, folder)


def _evaluate(opened: OpenedModel, tasks: PredictionTasks) -> tuple[EvaluationReport, CategoryOverlapReport]:
    encoded, data = opened.encoded, training_data(opened.encoded)
    exclude_session_items = not sessions_repeat(data)
    baseline_data = BaselineData(data, select_prediction_tasks(encoded, VALIDATION))
    results = {"model": opened.rank(tasks)}
    results |= {
        baseline: rank_targets(fit(baseline_data), encoded.timeline, tasks, exclude_session_items)
        for baseline, fit in baseline_fitters().items()
    }
    lists = {name: result.lists for name, result in results.items()}
    overlap = measure_category_overlap(lists, encoded.vocabulary.category_paths, encoded.timeline, tasks)
    return evaluate(results, data, tasks), overlap


def evaluate_purchase_intent(
    model: TrainedModel | None, data: TrainingData, encoded: EncodedSnapshot, since: datetime
) -> IntentReport:
    """How well purchase intent, at one prefix of each test session, predicts a later purchase.

    Beside the model: the model without its calibration, and a logistic regression of what the session holds. A model of
    plugin (None) has no purchase intent.
    """
    tasks = tasks_since(encoded.timeline, sample_session_prefixes(encoded, TEST), since)
    purchased = encoded.timeline.leads_to_purchase[tasks.target]
    if model is None or not model.intent.is_available:
        return without_intent((NO_INTENT if model is None else model.intent).reason, purchased)
    direction, features = purchase_intent_inputs(model.network, model.intent.items, encoded.timeline, tasks)
    baseline = fit_baseline(data)
    predictions = {
        MODEL: model.intent.predict(direction, features),
        UNCALIBRATED: sigmoid(model.intent.logits(direction, features)),
        "logistic_regression": baseline.predict(direction[:, :0], features),
    }
    return evaluate_intent(predictions, purchased, encoded.timeline.user[tasks.first])


def _log_intent(run_id: str, report: IntentReport) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plot = Path(folder) / "calibration.png"
        if report.curve is not None:
            report.curve.save_plot(plot)
        runs.log_intent(run_id, report, plot)


def load_run_model(run_id: str) -> TrainedModel:
    """The network and vocabulary of a run."""
    with versions.download_model_files(run_id) as folder:
        return load_model(folder)
