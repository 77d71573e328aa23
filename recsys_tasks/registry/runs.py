"""Training runs in MLflow: parameters, metrics, artifacts, and registration of the trained model.

Names of metrics: the model's own have no prefix (`recall_at_20`); baselines are `baseline/<name>/recall_at_20`, the
champion on comparable sessions `champion/recall_at_20`, online metrics `online/<arm>/<metric>`. Those of a segment have
it before the metric: `first_time_targets/recall_at_20`, `baseline/<name>/first_time_targets/recall_at_20`; `questions`
is the number of sessions. Evaluation tables, in Python and in JSON artifacts, have keys like `recall_20` and
`first-time targets: recall_20`.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from importlib.metadata import distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_RUN_NOTE
from mlflow.utils.validation import MAX_METRICS_PER_BATCH

from recsys_tasks.errors import InputError
from recsys_tasks.evaluation.comparison import Comparison
from recsys_tasks.evaluation.gate import Decision
from recsys_tasks.evaluation.metrics import add_precision_and_f1
from recsys_tasks.evaluation.segments import QUESTIONS, SEGMENTS, segment_metric
from recsys_tasks.features.snapshot import Snapshot
from recsys_tasks.names import CHALLENGER, REGISTERED_MODEL, UNCALIBRATED
from recsys_tasks.registry.pyfunc import log_pyfunc
from recsys_tasks.registry.tracking import client, experiment_id, translate_error
from recsys_tasks.registry.versions import MODEL_ARTIFACTS, Version

if TYPE_CHECKING:
    from recsys_tasks.evaluation.calibration import IntentReport

_SCHEMA_ROWS = 1_000
_MAX_DESCRIPTION = 5_000  # characters
_GATE_MARK, _GATE_END = "**Gate: ", "\n\n---"  # around the decision in a description
_MODEL = "model"  # row of the evaluation table with the run's own model
_CHAMPION = "champion"  # and that with the champion it was compared with
_BASELINE, _ONLINE = "baseline/", "online/"
_TABLE_METRIC = re.compile(r"^(\w+)_(\d+)$")  # `recall_20`
_MLFLOW_METRIC = re.compile(rf"(?:(.+)/)?(?:(\w+)_at_(\d+)|{QUESTIONS})")  # `baseline/popularity/recall_at_20`
_SEGMENT_OF_PREFIX = {re.sub(r"\W+", "_", segment): segment for segment in SEGMENTS}
_PREFIX_OF_SEGMENT = {segment: prefix for prefix, segment in _SEGMENT_OF_PREFIX.items()}


@contextmanager
def start_run(snapshot: Snapshot, parameters: dict[str, object], tags: dict[str, str]) -> Iterator[str]:
    """Opens a run for the context, with system metrics; yields its id.

    Logs the parameters, the tags, the installed packages, and the snapshot as the run's dataset. An exception in the
    context marks the run as failed.
    """
    client()
    name = f"train {snapshot.snapshot_id}"
    with mlflow.start_run(experiment_id=experiment_id(), run_name=name, log_system_metrics=True) as run:
        mlflow.log_params(parameters)
        mlflow.set_tags(
            {
                "snapshot_id": snapshot.snapshot_id,
                "cutoff": snapshot.cutoff.isoformat(),
                "test_start": snapshot.test_start.isoformat(),
                "code_version": _code_version(),
                "torch": version("torch"),
                "python": platform.python_version(),
                **tags,
            }
        )
        counts = {name: value for name, value in asdict(snapshot).items() if isinstance(value, int)}
        _log_dataset(run.info.run_id, snapshot, counts)
        mlflow.log_params({f"snapshot_{name}": value for name, value in counts.items()})
        installed = sorted(f"{package.name}=={package.version}" for package in distributions())
        mlflow.log_text("\n".join(installed) + "\n", "environment.txt")
        yield run.info.run_id


def _log_dataset(run_id: str, snapshot: Snapshot, counts: Mapping[str, int]) -> None:
    """Logs the snapshot as the dataset of a run: the schema of its first rows, the profile of all."""
    sample = snapshot.head(_SCHEMA_ROWS).to_pandas()
    digest = snapshot.snapshot_id.rsplit("-", 1)[-1]
    dataset = mlflow.data.from_pandas(sample, source=str(snapshot.manifest), name=snapshot.snapshot_id, digest=digest)
    fields = dataset.to_dict() | {"profile": json.dumps({"num_rows": snapshot.events, **counts})}
    logged = DatasetInput(Dataset.from_dictionary(fields), [InputTag(MLFLOW_DATASET_CONTEXT, "training")])
    client().log_inputs(run_id, [logged])


def log_epoch(run_id: str, epoch: int, metrics: dict[str, float]) -> None:
    """Logs the metrics of one epoch as `epoch_<name>`, with the epoch as step."""
    _log_metrics(run_id, {f"epoch_{name}": value for name, value in metrics.items()}, step=epoch)


def load_latest_epochs() -> tuple[str, list[tuple[float, float | None]]]:
    """Returns the id of the latest run and its epochs as `load_epochs` does; an empty id if there is no run."""
    latest = client().search_runs([experiment_id()], order_by=["attributes.start_time DESC"], max_results=1)
    if not latest:
        return "", []
    run_id: str = latest[0].info.run_id
    return run_id, load_epochs(run_id)


def load_epochs(run_id: str) -> list[tuple[float, float | None]]:
    """Returns the loss and the validation metric of each epoch of a run; None where it was not validated."""
    losses, validations = (
        {point.step: point.value for point in client().get_metric_history(run_id, f"epoch_{name}")}
        for name in ("loss", "validation")
    )
    return [(loss, validations.get(epoch)) for epoch, loss in sorted(losses.items())]


def log_training(run_id: str, metrics: dict[str, float], record: dict[str, Any]) -> None:
    """Logs metrics of a whole training, and the record that `load_training_record` needs to reproduce it."""
    _log_metrics(run_id, metrics)
    client().log_dict(run_id, record, "training.json")


def log_parameters(run_id: str, parameters: Mapping[str, object]) -> None:
    """Logs parameters that are known only after the training."""
    client().log_batch(run_id, params=[Param(name, str(value)) for name, value in parameters.items()])


def log_text(run_id: str, text: str, name: str) -> None:
    """Logs a text as a file of a run; replaces an earlier one of that name.

    Raises:
        InputError: there is no such run.
        UnavailableError: MLflow does not answer.
    """
    try:
        client().log_text(run_id, text, name)
    except MlflowException as error:
        raise translate_error(error, f"{name} cannot be logged to run {run_id}") from error


def load_training_record(run_id: str) -> dict[str, Any]:
    """Returns the record that `log_training` stored.

    Raises:
        InputError: there is no such run, or its training did not finish.
    """
    client()
    try:
        text = mlflow.artifacts.load_text(f"runs:/{run_id}/training.json")
    except MlflowException as error:
        raise InputError(
            f"Run {run_id} cannot be reproduced: {error}. Runs of plugin models and unfinished ones have no such record"
        ) from error
    record: dict[str, Any] = json.loads(text)
    return record


def log_model(run_id: str, folder: Path) -> None:
    """Logs the model's files, as artifacts and as a pyfunc model with a signature."""
    client().log_artifacts(run_id, str(folder), MODEL_ARTIFACTS)
    log_pyfunc(folder)


def log_evaluation(run_id: str, table: dict[str, dict[str, float]]) -> None:
    """Logs an evaluation table as metrics of the run, the model's own also as those of its LoggedModel, and as JSON.

    Args:
        run_id: the run.
        table: metrics by row: `model`, then each baseline.
    """
    models = client().get_run(run_id).outputs.model_outputs
    model_id = models[0].model_id if models else None
    points = [
        _metric(_mlflow_metric(row, metric), value, model_id=model_id if row == _MODEL else None)
        for row, metrics in table.items()
        for metric, value in metrics.items()
    ]
    _log_points(run_id, points)
    client().log_dict(run_id, table, "evaluation.json")


def _mlflow_metric(row: str, metric: str) -> str:
    """Returns MLflow's name of a metric: `recall_20` of `popularity` is `baseline/popularity/recall_at_20`."""
    prefix = {_MODEL: "", _CHAMPION: f"{_CHAMPION}/", UNCALIBRATED: f"{UNCALIBRATED}/"}.get(row, f"{_BASELINE}{row}/")
    segment, _, name = metric.rpartition(": ")
    within = f"{_PREFIX_OF_SEGMENT[segment]}/" if segment else ""
    return prefix + within + _TABLE_METRIC.sub(r"\1_at_\2", name)


def load_evaluation(run_id: str) -> dict[str, dict[str, float]]:
    """Returns the metrics of `log_evaluation` and `log_comparison` as a table: `model`, `champion`, each baseline.

    The table is empty for a run that was not evaluated, or only by a version of this package with other metric names.
    """
    table: dict[str, dict[str, float]] = {}
    for name, value in client().get_run(run_id).data.metrics.items():
        match = _MLFLOW_METRIC.fullmatch(name)
        if match is None:
            continue
        prefix, metric, k = match.groups()
        owner, _, last = (prefix or "").rpartition("/")
        segment = _SEGMENT_OF_PREFIX.get(last, "")
        owner = owner if segment else prefix or ""
        if owner in ("", _CHAMPION) or owner.startswith(_BASELINE):
            row = owner.removeprefix(_BASELINE) or _MODEL
            name = f"{metric}_{k}" if metric else QUESTIONS
            table.setdefault(row, {})[segment_metric(segment, name)] = value
    return table


def log_report(run_id: str, report: dict[str, object], text: str) -> None:
    """Logs the evaluation with confidence intervals and segments, as JSON and as Markdown."""
    client().log_dict(run_id, report, "segments.json")
    client().log_text(run_id, text, "evaluation.md")


def describe(run_id: str, text: str) -> None:
    """Sets the description of a run, which its version gets when it is registered.

    Args:
        text: Markdown.
    """
    client().set_tag(run_id, MLFLOW_RUN_NOTE, text)


def log_files(run_id: str, folder: Path) -> None:
    """Logs the files of a folder as artifacts."""
    client().log_artifacts(run_id, str(folder))


def log_intent(run_id: str, report: IntentReport, plot: Path) -> None:
    """Logs the evaluation of purchase intent: metrics `intent_<name>`, JSON and the reliability diagram, if any."""
    metrics = {
        _mlflow_metric(row, f"intent_{metric}"): value
        for row, values in report.table.items()
        for metric, value in values.items()
    }
    if report.curve is not None:
        metrics["intent_base_rate"] = report.curve.base_rate
    _log_metrics(run_id, metrics)
    mlflow_client = client()
    mlflow_client.log_dict(run_id, report.as_dict(), "calibration.json")
    if plot.exists():
        mlflow_client.log_artifact(run_id, str(plot))


def get_run(run_id: str) -> Run:
    """Returns a run.

    Raises:
        InputError: there is no such run.
        UnavailableError: MLflow does not answer.
    """
    try:
        return client().get_run(run_id)
    except MlflowException as error:
        raise translate_error(error, f"No run {run_id}") from error


def is_trained(run_id: str) -> bool:
    """Whether the run's model was trained; with too few sessions it only places the items by their content.

    A run that was deleted counts as trained.
    """
    try:
        parameters = client().get_run(run_id).data.params
    except MlflowException as error:
        found = translate_error(error, f"No run {run_id}")
        if isinstance(found, InputError):
            return True
        raise found from error
    return bool(parameters.get("is_trained", "True") == "True")


def load_parameters(run_id: str) -> dict[str, str]:
    """Returns the parameters of a run."""
    return dict(client().get_run(run_id).data.params)


def load_snapshot_id(run_id: str) -> str:
    """Returns the id of the snapshot that a run was trained on."""
    return str(client().get_run(run_id).data.tags["snapshot_id"])


def register(run_id: str) -> Version:
    """Registers the run's model as a version and sets the alias `challenger`. Idempotent."""
    mlflow_client = client()
    run = mlflow_client.get_run(run_id)
    snapshot_id = run.data.tags["snapshot_id"]
    if not mlflow_client.search_registered_models(f"name = '{REGISTERED_MODEL}'"):
        mlflow_client.create_registered_model(
            REGISTERED_MODEL, description="Next items of a session, from history and session"
        )
    registered = mlflow_client.search_model_versions(f"name = '{REGISTERED_MODEL}' and run_id = '{run_id}'")
    if registered:
        number = str(registered[0].version)
    else:
        model_id = run.outputs.model_outputs[0].model_id
        created = mlflow_client.create_model_version(
            REGISTERED_MODEL,
            f"models:/{model_id}",
            run_id,
            tags={"snapshot_id": snapshot_id},
            description=run.data.tags.get(MLFLOW_RUN_NOTE, "")[:_MAX_DESCRIPTION],
            model_id=model_id,
        )
        number = str(created.version)
    mlflow_client.set_registered_model_alias(REGISTERED_MODEL, CHALLENGER, number)
    return Version(number, run_id, snapshot_id)


def log_comparison(run_id: str, champion: str, comparison: Comparison, confidence: float) -> None:
    """Logs the comparison with a champion: the champion's metrics, and every difference with its bounds as JSON."""
    if comparison.num_tasks:
        rival = {metric: gain.rival for metric, gain in comparison.gains.items() if ": " not in metric}
        metrics = add_precision_and_f1(rival) | {QUESTIONS: float(comparison.num_tasks)}
        _log_metrics(run_id, {_mlflow_metric(_CHAMPION, metric): value for metric, value in metrics.items()})
    client().log_dict(run_id, {"champion": champion, **comparison.as_dict(confidence)}, "comparison.json")


class ComparedVersion(NamedTuple):
    """A version that was compared with a champion: when first, and on test sessions of which period."""

    number: str
    first_at: datetime
    since: datetime
    until: datetime

    def covers_most_of(self, other: ComparedVersion) -> bool:
        """Whether at least half of the other version's period is in this one's."""
        common = min(self.until, other.until) - max(self.since, other.since)
        return common > timedelta(0) and common >= (other.until - other.since) / 2


def count_earlier_tries(version: Version, since: datetime, until: datetime) -> int:
    """Records that a version is compared with a champion on sessions of a period.

    A repeated comparison of a version is no new try, and keeps the period of the first.

    Returns:
        The number of other versions that were compared before it on largely the same sessions.
    """
    compared = _load_compared_versions()
    own = compared.get(version.number)
    if own is None:
        own = ComparedVersion(version.number, datetime.now(UTC), since, until)
        moments = {"first_at": own.first_at, "since": since, "until": until}
        _tag(version, **{f"compared_{name}": moment.isoformat() for name, moment in moments.items()})
    return sum(other.first_at < own.first_at and other.covers_most_of(own) for other in compared.values())


def _load_compared_versions() -> dict[str, ComparedVersion]:
    """Returns the versions that were compared, by number."""
    names, compared = [f"compared_{name}" for name in ("first_at", "since", "until")], {}
    for found in _search_versions():
        if all(name in found.tags for name in names):
            moments = (datetime.fromisoformat(found.tags[name]) for name in names)
            compared[str(found.version)] = ComparedVersion(str(found.version), *moments)
    return compared


def _search_versions() -> list[ModelVersion]:
    """Returns all versions of the registered model."""
    mlflow_client, found, token = client(), [], None
    while True:
        page = mlflow_client.search_model_versions(f"name = '{REGISTERED_MODEL}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def log_online_metrics(version: Version, metrics: Mapping[tuple[str, str], float], summary: str) -> None:
    """Logs a version's online metrics to its run.

    Args:
        version: the version.
        metrics: values by arm and metric, logged as `online/<arm>/<metric>`.
        summary: the same as text, for the tag `online`.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    try:
        named = {f"{_ONLINE}{_sanitize(arm)}/{metric}": value for (arm, metric), value in metrics.items()}
        _log_metrics(version.run_id, named)
        _tag(version, online=summary)
    except MlflowException as error:
        raise translate_error(error, f"Online metrics of version {version.number} cannot be logged") from error


def _sanitize(name: str) -> str:
    """Replaces characters that MLflow does not allow in metric names."""
    return re.sub(r"[^\w\-. :]", "_", name)


def log_decision(version: Version, decision: Decision) -> None:
    """Logs the gate's decision: as tags of the version and its run, in full as JSON and Markdown, and at the end of the
    version's description."""
    _tag(version, decision=decision.verdict, reasons="; ".join(decision.reasons)[:4_000])
    client().log_dict(version.run_id, decision.as_dict(), "decision.json")
    client().log_text(version.run_id, decision.as_markdown(), "decision.md")
    written = client().get_model_version(REGISTERED_MODEL, version.number).description or ""
    # What a person added before or after the gate's part stays.
    before, mark, rest = written.partition(_GATE_MARK)
    after = rest.partition(_GATE_END)[2].strip() if mark else ""
    gate = f"{_GATE_MARK}{decision.verdict}**\n\n{decision.as_markdown().strip()}{_GATE_END}"[:_MAX_DESCRIPTION]
    room = max(_MAX_DESCRIPTION - len(gate) - 4, 0)
    before = before.strip()[:room]
    parts = (before, gate, after[: room - len(before)])
    description = "\n\n".join(part for part in parts if part)
    client().update_model_version(REGISTERED_MODEL, version.number, description)


def tag(version: Version, **tags: str) -> None:
    """Sets tags of a version and its run.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    try:
        _tag(version, **tags)
    except MlflowException as error:
        raise translate_error(error, f"Version {version.number} cannot be tagged") from error


def _tag(version: Version, **tags: str) -> None:
    mlflow_client = client()
    for name, value in tags.items():  # MLflow has no batch call for tags of versions
        mlflow_client.set_model_version_tag(REGISTERED_MODEL, version.number, name, value)
    mlflow_client.log_batch(version.run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def _log_metrics(run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
    _log_points(run_id, [_metric(name, value, step) for name, value in metrics.items()])


def _metric(name: str, value: float, step: int = 0, model_id: str | None = None) -> Metric:
    return Metric(name, float(value), int(1_000 * time.time()), step, model_id)


def _log_points(run_id: str, points: Sequence[Metric]) -> None:
    """Logs metrics to a run in batches of MLflow's maximum size."""
    for begin in range(0, len(points), MAX_METRICS_PER_BATCH):
        client().log_batch(run_id, metrics=points[begin : begin + MAX_METRICS_PER_BATCH])


def _code_version() -> str:
    """Returns the commit of the checkout, or the package's version outside a checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return version("session-recommender")
    return described.stdout.strip()
