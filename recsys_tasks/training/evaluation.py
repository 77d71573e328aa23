"""Evaluation of an MLflow run on held-out sessions: metrics of model and baselines, plots, examples, model card."""

from __future__ import annotations

import tempfile
from pathlib import Path

from recsys_tasks.evaluation.baselines import BASELINE_FITTERS
from recsys_tasks.evaluation.calibration import calibration_curve, predict_purchase_intent
from recsys_tasks.evaluation.comparison import Comparison, compare
from recsys_tasks.evaluation.examples import format_examples
from recsys_tasks.evaluation.gate import MetricsTable
from recsys_tasks.evaluation.model_card import model_card
from recsys_tasks.evaluation.plots import draw_coverage, draw_curves, draw_segments
from recsys_tasks.evaluation.protocol import (
    TEST,
    PredictionTasks,
    RankingResult,
    model_scorer,
    rank_targets,
    sample_session_prefixes,
    select_prediction_tasks,
)
from recsys_tasks.evaluation.report import EvaluationReport, evaluate
from recsys_tasks.evaluation.segments import segment_masks
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot, encode_snapshot
from recsys_tasks.features.snapshot import open_snapshot
from recsys_tasks.model.files import TrainedModel, load_model
from recsys_tasks.registry import runs, versions
from recsys_tasks.registry.tracking import client
from recsys_tasks.training.task import training_data


def evaluate_run(run_id: str, snapshots: Path) -> MetricsTable:
    """Metrics of a run's model and of the baselines on the test part of its snapshot; logs them to the run."""
    model, encoded = _load(run_id, run_id, snapshots)
    evaluated = _evaluate(model, encoded)
    runs.log_evaluation(run_id, evaluated.table)
    runs.log_report(run_id, evaluated.as_dict(), evaluated.as_markdown())
    _log_calibration(run_id, model, encoded)
    _log_plots_and_card(run_id, model, encoded, evaluated, snapshots)
    return evaluated.table


def _log_plots_and_card(
    run_id: str, model: TrainedModel, encoded: EncodedSnapshot, evaluated: EvaluationReport, snapshots: Path
) -> None:
    """Logs plots, examples and the model card to a run."""
    run = client().get_run(run_id)
    source = open_snapshot(snapshots, runs.load_snapshot_id(run_id))
    scorer, exclude_session_items = (
        model_scorer(model.network, encoded.timeline),
        not model.network.config.sessions_repeat,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_curves(runs.load_epochs(run_id), folder / "curves.png")
        draw_segments(evaluated, folder / "segments.png")
        draw_coverage(evaluated, folder / "coverage.png")
        text = format_examples(scorer, encoded, select_prediction_tasks(encoded, TEST), exclude_session_items)
        (folder / "examples.md").write_text(text, encoding="utf-8")
        card = model_card(run_id, source, evaluated, run.data.params)
        (folder / "model_card.md").write_text(card, encoding="utf-8")
        runs.log_files(run_id, folder)


def compare_runs(run_id: str, rival_id: str, confidence: float, snapshots: Path) -> Comparison:
    """Compares a run's model with another run's on the test part of the first run's snapshot.

    Raises:
        OtherModelFormat: a model was written by another version of this package.
        InputError: a model was deleted.
    """
    model, encoded = _load(run_id, run_id, snapshots)
    rival, rival_encoded = _load(rival_id, run_id, snapshots)
    tasks = select_prediction_tasks(encoded, TEST)
    timeline = encoded.timeline
    return compare(
        _answers(model, encoded, tasks),
        _answers(rival, rival_encoded, tasks),
        timeline.user[tasks.first],
        segment_masks(timeline, tasks, encoded.vocabulary.training_counts()),
        encoded.vocabulary.training_counts(),
        rival_encoded.vocabulary.training_counts(),
        confidence,
    )


def _answers(model: TrainedModel, encoded: EncodedSnapshot, tasks: PredictionTasks) -> RankingResult:
    scorer = model_scorer(model.network, encoded.timeline)
    return rank_targets(scorer, encoded.timeline, tasks, exclude_session_items=not model.network.config.sessions_repeat)


def _evaluate(model: TrainedModel, encoded: EncodedSnapshot) -> EvaluationReport:
    data = training_data(encoded)
    scorers = {"model": model_scorer(model.network, encoded.timeline)}
    scorers |= {baseline: fit(data) for baseline, fit in BASELINE_FITTERS.items()}
    return evaluate(
        scorers,
        data,
        select_prediction_tasks(encoded, TEST),
        exclude_session_items=not model.network.config.sessions_repeat,
    )


def _log_calibration(run_id: str, model: TrainedModel, encoded: EncodedSnapshot) -> None:
    """Logs how well the purchase intent, at one prefix of each test session, predicts a later purchase."""
    tasks = sample_session_prefixes(encoded, TEST)
    outcome = encoded.timeline.leads_to_purchase[tasks.target]
    calibration = calibration_curve(predict_purchase_intent(model.network, encoded.timeline, tasks), outcome)
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "calibration.png"
        calibration.save_plot(picture)
        runs.log_calibration(run_id, calibration.as_dict(), picture)


def _load(run_id: str, evaluated_on: str, snapshots: Path) -> tuple[TrainedModel, EncodedSnapshot]:
    """A run's model, and the snapshot of run `evaluated_on` encoded with the model's vocabulary."""
    model = load_run_model(run_id)
    source = open_snapshot(snapshots, runs.load_snapshot_id(evaluated_on))
    return model, encode_snapshot(source, model.vocabulary)


def load_run_model(run_id: str) -> TrainedModel:
    """The network and vocabulary of a run."""
    with versions.download_model_files(run_id) as folder:
        return load_model(folder)
