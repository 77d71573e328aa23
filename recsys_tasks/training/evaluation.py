"""Evaluation of an MLflow run on held-out sessions: metrics of model and baselines, plots, examples, model card."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recsys_tasks.engine.bundle import VOCABULARY
from recsys_tasks.engine.catalog import CatalogColumns
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
from recsys_tasks.evaluation.comparison import Comparison, compare, tasks_since
from recsys_tasks.evaluation.examples import format_examples
from recsys_tasks.evaluation.gate import MetricsTable
from recsys_tasks.evaluation.model_card import describe_run, model_card
from recsys_tasks.evaluation.plots import draw_coverage, draw_curves, draw_segments
from recsys_tasks.evaluation.protocol import (
    TEST,
    VALIDATION,
    PredictionTasks,
    RankingResult,
    rank_targets,
    sample_session_prefixes,
    select_prediction_tasks,
)
from recsys_tasks.evaluation.report import EvaluationReport, evaluate
from recsys_tasks.evaluation.segments import segment_masks
from recsys_tasks.evaluation.served_lists import Moments, list_served, rank_served
from recsys_tasks.experiments.counterfactual import CounterfactualComparison, compare_counterfactually
from recsys_tasks.experiments.explored_lists import LoggedLists
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot, encode_snapshot
from recsys_tasks.features.sequences import Timeline
from recsys_tasks.features.serving_data import catalog_columns
from recsys_tasks.features.snapshot import Snapshot, open_snapshot
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.interval import Interval
from recsys_tasks.model.files import TrainedModel, load_model
from recsys_tasks.model.tensors import ComponentWeights
from recsys_tasks.model.training_loop import TrainingData
from recsys_tasks.model.vector_model import NO_INTENT, is_vector_model
from recsys_tasks.names import FIRST_ITEM, PADDING_ITEM, UNCALIBRATED
from recsys_tasks.registry import runs, versions
from recsys_tasks.registry.tracking import client
from recsys_tasks.training.lineage import SCRATCH, trained_until
from recsys_tasks.training.purchase_intent import fit_baseline
from recsys_tasks.training.recipe import sessions_repeat
from recsys_tasks.training.task import training_data


class _EvaluatedModel(NamedTuple):
    """A run's model, its files, and a snapshot in its item numbers with its item metadata.

    `model` is None for a plugin model, which has files only.
    """

    model: TrainedModel | None
    folder: Path
    encoded: EncodedSnapshot
    catalog: CatalogColumns

    def rank(self, tasks: PredictionTasks) -> RankingResult:
        """Ranks the targets of tasks as the endpoint would."""
        return rank_served(self.folder, self.encoded, tasks, self.catalog)

    def list_at(self, moments: Moments, k: int) -> np.ndarray:
        """Returns the item numbers [B, k] that the endpoint would list at moments, padded with 0."""
        return list_served(self.folder, self.encoded, moments, self.catalog, k)


@contextmanager
def _open_model(run_id: str, snapshot: Snapshot) -> Iterator[_EvaluatedModel]:
    """Opens a run's model for the evaluation on a snapshot."""
    with versions.download_model_files(run_id) as folder:
        model = None if is_vector_model(folder) else load_model(folder)
        vocabulary = Vocabulary.load(folder / VOCABULARY) if model is None else model.vocabulary
        catalog = catalog_columns(snapshot.item_table(), vocabulary)
        yield _EvaluatedModel(model, folder, encode_snapshot(snapshot, vocabulary), catalog)


def evaluate_run(run_id: str, snapshots: Path) -> MetricsTable:
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
    with _open_model(run_id, snapshot) as opened:
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
    opened: _EvaluatedModel,
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


def compare_runs(
    run_id: str, rival_id: str, snapshots: Path, load_lists: Callable[[Interval], LoggedLists] | None = None
) -> Comparison:
    """Compares a run's model with another run's on the test part of the first run's snapshot.

    Only sessions count that neither run, nor a version that one of them started from, can have been trained on.

    Args:
        run_id, rival_id: the runs.
        snapshots: folder of the snapshots.
        load_lists: returns explored lists of an interval, for the counterfactual comparison; None for none.

    Raises:
        IncompatibleModelFormat: a model was written by another version of this package.
        InputError: a model was deleted.
    """
    snapshot = open_snapshot(snapshots, runs.load_snapshot_id(run_id))
    with _open_model(run_id, snapshot) as own, _open_model(rival_id, snapshot) as rival:
        all_tasks, timeline = select_prediction_tasks(own.encoded, TEST), own.encoded.timeline
        since = max(trained_until(run_id, snapshots), trained_until(rival_id, snapshots))
        tasks = tasks_since(timeline, all_tasks, since)
        counts = own.encoded.vocabulary.training_counts()
        # Coverage is over the catalog of the first run's snapshot, which is its vocabulary.
        rival_result, own_number = rival.rank(tasks), _numbers_in(own.encoded.vocabulary, rival.encoded.vocabulary)
        gains = compare(
            own.rank(tasks),
            replace(rival_result, lists=own_number[rival_result.lists]),
            timeline.user[tasks.first],
            segment_masks(timeline, tasks, counts),
            counts,
        )
        counterfactual = None
        if load_lists is not None and since < snapshot.cutoff:
            examination = np.asarray(snapshot.examination_propensities)
            lists = load_lists(Interval(since, snapshot.cutoff)) if len(examination) else None
            counterfactual = lists and _compare_on_lists(own, rival, lists, examination, since.timestamp())
        return Comparison(gains, len(tasks), len(all_tasks) - len(tasks), since, counterfactual)


def _compare_on_lists(
    own: _EvaluatedModel, rival: _EvaluatedModel, lists: LoggedLists, examination: np.ndarray, since: float
) -> CounterfactualComparison | None:
    """Compares the clicks that two models would have got in place of explored lists; None without lists.

    Left out are users whom the snapshot does not know, and lists during a session that began before `since`.
    """
    timeline, vocabulary = own.encoded.timeline, own.encoded.vocabulary
    row_of = {user_id: row for row, user_id in reversed(list(enumerate(own.encoded.user_ids)))}  # not a causal copy
    lists = lists.keep(np.asarray([user_id in row_of for user_id in lists.user_ids], bool))
    user = np.asarray([row_of[user_id] for user_id in lists.user_ids], np.int64)
    began = Moments.of_users(timeline, user, lists.seconds).seconds
    goes_on = [_is_within_earlier_session(timeline, *at, since) for at in zip(user, lists.seconds, strict=True)]
    is_later = (began >= since) & ~np.asarray(goes_on, bool)
    lists, user = lists.keep(is_later), user[is_later]
    if not len(user):
        return None
    moments = Moments.of_users(timeline, user, lists.seconds)
    length = int(lists.explored.num_candidates.max())
    own_numbers, rival_numbers = _common_numbers(vocabulary, rival.encoded.vocabulary)
    number_of = dict(zip(rival.encoded.vocabulary.item_ids, rival_numbers[FIRST_ITEM:].tolist(), strict=True))
    number_of |= dict(zip(vocabulary.item_ids, own_numbers[FIRST_ITEM:].tolist(), strict=True))
    shown = np.asarray([number_of.get(item_id, -1) for item_id in lists.item_ids], np.int64)
    logged = lists.explored._replace(item=shown[lists.explored.item])
    own_lists, rival_lists = own.list_at(moments, length), rival.list_at(moments, length)
    return compare_counterfactually(logged, own_numbers[own_lists], rival_numbers[rival_lists], examination)


def _is_within_earlier_session(timeline: Timeline, user: int, at: float, since: float) -> bool:
    """Whether a user has a session that began before `since` and goes on at a time: it may have been trained on."""
    events = slice(int(timeline.user_start[user]), int(timeline.user_start[user + 1]))
    return bool(((timeline.session_seconds[events] < since) & (timeline.seconds[events] >= at)).any())


def _common_numbers(vocabulary: Vocabulary, other: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Returns a number for each item number [V] of either vocabulary, the same for the same item; 0 for padding."""
    size = len(vocabulary)
    own = np.concatenate([np.full(FIRST_ITEM, PADDING_ITEM), np.arange(FIRST_ITEM, size)])
    numbers = vocabulary.numbers(other.item_ids)
    further = size + np.arange(len(numbers))
    known = np.where(numbers >= FIRST_ITEM, numbers, further)
    return own, np.concatenate([np.full(FIRST_ITEM, PADDING_ITEM), known])


def _numbers_in(vocabulary: Vocabulary, other: Vocabulary) -> np.ndarray:
    """Returns the number in a vocabulary of each item number [V] of another one; padding for items that it lacks."""
    numbers = vocabulary.numbers(other.item_ids)
    known = np.where(numbers >= FIRST_ITEM, numbers, PADDING_ITEM)
    return np.concatenate([np.full(FIRST_ITEM, PADDING_ITEM), known])


def _evaluate(opened: _EvaluatedModel, tasks: PredictionTasks) -> tuple[EvaluationReport, CategoryOverlapReport]:
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
