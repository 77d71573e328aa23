"""Evaluation of an MLflow run: its model and the baselines on held-out sessions, plots, examples and the model card."""

from __future__ import annotations

import tempfile
from pathlib import Path

from recsys_tasks.evaluation.baselines import FITS
from recsys_tasks.evaluation.calibration import purchase_intents, reliability
from recsys_tasks.evaluation.comparison import Comparison, compare
from recsys_tasks.evaluation.examples import examples
from recsys_tasks.evaluation.gate import Table
from recsys_tasks.evaluation.model_card import model_card
from recsys_tasks.evaluation.plots import draw_coverage, draw_curves, draw_segments
from recsys_tasks.evaluation.protocol import TEST, Answers, Questions, answer, model_scorer, moments, questions
from recsys_tasks.evaluation.report import Report, report
from recsys_tasks.evaluation.segments import segments
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot, encode_snapshot
from recsys_tasks.features.snapshot import open_snapshot
from recsys_tasks.model.files import TrainedModel, load_model
from recsys_tasks.registry import runs, versions
from recsys_tasks.registry.tracking import client
from recsys_tasks.training.task import training_data


def evaluate_run(run_id: str, snapshots: Path) -> Table:
    """Metrics of a run's model and of the baselines on the test part of its snapshot, also logged to the run."""
    model, encoded = _load(run_id, run_id, snapshots)
    found = _report(model, encoded)
    runs.log_evaluation(run_id, found.table)
    runs.log_report(run_id, found.as_dict(), found.as_markdown())
    _log_calibration(run_id, model, encoded)
    _log_plots_and_card(run_id, model, encoded, found, snapshots)
    return found.table


def _log_plots_and_card(
    run_id: str, model: TrainedModel, encoded: EncodedSnapshot, found: Report, snapshots: Path
) -> None:
    """Adds pictures, examples and the model card to a run."""
    run = client().get_run(run_id)
    source = open_snapshot(snapshots, runs.snapshot_of(run_id))
    scorer, skip = model_scorer(model.network, encoded.timeline), not model.network.config.sessions_repeat
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_curves(runs.epochs_of(run_id), folder / "curves.png")
        draw_segments(found, folder / "segments.png")
        draw_coverage(found, folder / "coverage.png")
        shown = examples(scorer, encoded, questions(encoded, TEST), skip)
        (folder / "examples.md").write_text(shown, encoding="utf-8")
        card = model_card(run_id, source, found, run.data.params)
        (folder / "model_card.md").write_text(card, encoding="utf-8")
        runs.log_files(run_id, folder)


def compare_runs(run_id: str, rival_id: str, confidence: float, snapshots: Path) -> Comparison:
    """A run's model against another's on the test part of the first one's snapshot.

    Raises:
        OtherModelFormat: a model is of another version of this package.
        InputError: a model was deleted.
    """
    (model, encoded), (rival, by_rival) = (
        _load(run_id, run_id, snapshots),
        _load(rival_id, run_id, snapshots),
    )
    asked = questions(encoded, TEST)
    timeline = encoded.timeline
    return compare(
        _answers(model, encoded, asked),
        _answers(rival, by_rival, asked),
        timeline.user[asked.first],
        segments(timeline, asked),
        encoded.vocabulary.all_counts(),
        by_rival.vocabulary.all_counts(),
        confidence,
    )


def _answers(model: TrainedModel, encoded: EncodedSnapshot, asked: Questions) -> Answers:
    scorer = model_scorer(model.network, encoded.timeline)
    return answer(scorer, encoded.timeline, asked, skip_session=not model.network.config.sessions_repeat)


def _report(model: TrainedModel, encoded: EncodedSnapshot) -> Report:
    data = training_data(encoded)
    scorers = {"test": model_scorer(model.network, encoded.timeline)}
    scorers |= {baseline: fit(data) for baseline, fit in FITS.items()}
    return report(scorers, data, questions(encoded, TEST), skip_session=not model.network.config.sessions_repeat)


def _log_calibration(run_id: str, model: TrainedModel, encoded: EncodedSnapshot) -> None:
    """Compares the purchase intent of the run's model, at some moment of each test session, with what followed."""
    asked = moments(encoded, TEST)
    came = encoded.timeline.buys[asked.target]
    found = reliability(purchase_intents(model.network, encoded.timeline, asked), came)
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "calibration.png"
        found.draw(picture)
        runs.log_calibration(run_id, found.as_dict(), picture)


def _load(run_id: str, evaluated_on: str, snapshots: Path) -> tuple[TrainedModel, EncodedSnapshot]:
    """A run's model, and another run's snapshot in its numbers."""
    model = load_run_model(run_id)
    source = open_snapshot(snapshots, runs.snapshot_of(evaluated_on))
    return model, encode_snapshot(source, model.vocabulary)


def load_run_model(run_id: str) -> TrainedModel:
    """The network of a run, with its vocabulary."""
    with versions.run_files(run_id) as folder:
        return load_model(folder)
