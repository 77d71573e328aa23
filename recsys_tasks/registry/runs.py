"""One training as an MLflow run: what went in, what came out, and the model that others can load."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array
from mlflow.utils.validation import MAX_METRICS_PER_BATCH

from recsys_tasks.engine.bundle import VOCABULARY
from recsys_tasks.errors import InputError
from recsys_tasks.evaluation.comparison import Comparison
from recsys_tasks.evaluation.gate import Decision
from recsys_tasks.evaluation.metrics import with_precision
from recsys_tasks.features.snapshot import Snapshot
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import CHALLENGER, REGISTERED_MODEL
from recsys_tasks.registry.tracking import client, experiment_id, failure
from recsys_tasks.registry.versions import MODEL_FILES, Version

_PYFUNC = Path(__file__).with_name("pyfunc_model.py")
_SCHEMA_ROWS = 1_000
_SYSTEM = "system"  # MLflow's own metrics of the machine
_ONLINE = "online/"
_INPUT = Schema(
    [
        ColSpec(Array(DataType.string), "history"),
        ColSpec(Array(DataType.double), "history_times"),
        ColSpec(Array(DataType.string), "session"),
        ColSpec(DataType.double, "now"),
        ColSpec(DataType.long, "k"),
    ]
)
_OUTPUT = Schema([ColSpec(Array(DataType.string), "item_ids"), ColSpec(Array(DataType.double), "scores")])


@contextmanager
def start_run(snapshot: Snapshot, parameters: dict[str, object], tags: dict[str, str]) -> Iterator[str]:
    """A run that is open as long as the context, with what the machine does meanwhile; yields its id.

    It has its parameters, tags, the packages it runs with, and its snapshot as the logged data set. It fails with what
    is raised within.
    """
    client()
    name = f"train {snapshot.snapshot_id}"
    with mlflow.start_run(experiment_id=experiment_id(), run_name=name, log_system_metrics=True) as run:
        mlflow.log_params(parameters)
        mlflow.set_tags(
            {
                "snapshot_id": snapshot.snapshot_id,
                "cutoff": snapshot.cutoff.isoformat(),
                "code_version": _code_version(),
                "torch": version("torch"),
                "python": platform.python_version(),
                **tags,
            }
        )
        sample = snapshot.sample(_SCHEMA_ROWS).to_pandas()
        source = str(snapshot.path)
        digest = snapshot.snapshot_id.rsplit("-", 1)[-1]
        dataset = mlflow.data.from_pandas(sample, source=source, name=snapshot.snapshot_id, digest=digest)
        mlflow.log_input(dataset, context="training")
        counts = {name: value for name, value in asdict(snapshot).items() if isinstance(value, int)}
        mlflow.log_params({f"snapshot_{name}": value for name, value in counts.items()})
        installed = sorted(f"{found.name}=={found.version}" for found in distributions())
        mlflow.log_text("\n".join(installed) + "\n", "environment.txt")
        yield run.info.run_id


def log_epoch(run_id: str, epoch: int, figures: dict[str, float]) -> None:
    """Adds the figures of one epoch."""
    _log_metrics(run_id, {f"epoch_{name}": value for name, value in figures.items()}, step=epoch)


def epochs_of_latest() -> tuple[str, list[tuple[float, float | None]]]:
    """The run that started last, with the loss and, where there was one, the validation of each epoch so far."""
    found = client().search_runs([experiment_id()], order_by=["attributes.start_time DESC"], max_results=1)
    if not found:
        return "", []
    run_id: str = found[0].info.run_id
    return run_id, epochs_of(run_id)


def epochs_of(run_id: str) -> list[tuple[float, float | None]]:
    """The loss and, where there was one, the validation of each epoch of a run."""
    losses, measures = (
        {point.step: point.value for point in client().get_metric_history(run_id, f"epoch_{name}")}
        for name in ("loss", "validation")
    )
    return [(loss, measures.get(epoch)) for epoch, loss in sorted(losses.items())]


def log_training(run_id: str, figures: dict[str, float], again: dict[str, Any]) -> None:
    """Adds figures of a whole training, and what is needed to do it again; see `training_of`."""
    _log_metrics(run_id, figures)
    client().log_dict(run_id, again, "training.json")


def training_of(run_id: str) -> dict[str, Any]:
    """What `log_training` added.

    Raises:
        InputError: there is no such run, or it did not come that far.
    """
    client()
    try:
        text = mlflow.artifacts.load_text(f"runs:/{run_id}/training.json")
    except MlflowException as error:
        raise InputError(f"Run {run_id} cannot be done again: {error}") from error
    found: dict[str, Any] = json.loads(text)
    return found


def log_model(run_id: str, folder: Path) -> None:
    """Keeps the model's files, and the same files as a pyfunc model with a signature."""
    client().log_artifacts(run_id, str(folder), MODEL_FILES)
    mlflow.pyfunc.log_model(
        name="model",
        python_model=str(_PYFUNC),
        artifacts={"network": str(folder)},
        signature=ModelSignature(_INPUT, _OUTPUT),
        input_example=_example(folder),
        pip_requirements=[f"{name}=={version(name)}" for name in ("numpy", "onnxruntime", "pandas")],
    )


def _example(folder: Path) -> pd.DataFrame:
    """A request of somebody who did something with the two items that are most common."""
    items = list(Vocabulary.load(folder / VOCABULARY).item_ids[:2])
    row = {"history": items, "history_times": [1.5e9, 1.5e9], "session": items[:1], "now": 1.6e9, "k": 5}
    return pd.DataFrame([row])


def log_evaluation(run_id: str, table: dict[str, dict[str, float]]) -> None:
    """Adds metrics per model (`test`, then each baseline) as `name/metric`, and the same as one JSON artifact."""
    _log_metrics(
        run_id,
        {f"{name}/{metric}": value for name, metrics in table.items() for metric, value in metrics.items()},
    )
    client().log_dict(run_id, table, "evaluation.json")


def log_report(run_id: str, report: dict[str, object], text: str) -> None:
    """Adds the evaluation with confidence intervals and segments, as JSON and as Markdown."""
    client().log_dict(run_id, report, "segments.json")
    client().log_text(run_id, text, "evaluation.md")


def log_files(run_id: str, folder: Path) -> None:
    """Adds the files of a folder."""
    client().log_artifacts(run_id, str(folder))


def log_file(run_id: str, path: Path) -> None:
    """Adds a file, in place of an earlier one of that name.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    try:
        client().log_artifact(run_id, str(path))
    except MlflowException as error:
        raise failure(error, f"Run {run_id} cannot take {path.name}") from error


def log_calibration(run_id: str, figures: dict[str, object], picture: Path) -> None:
    """Adds how well purchase intent is calibrated, as metrics, JSON and a picture."""
    _log_metrics(run_id, {f"intent_{name}": float(str(figures[name])) for name in ("error", "brier", "base_rate")})
    found = client()
    found.log_dict(run_id, figures, "calibration.json")
    found.log_artifact(run_id, str(picture))


def evaluation_of(run_id: str) -> dict[str, dict[str, float]]:
    """The metrics that `log_evaluation` added."""
    table: dict[str, dict[str, float]] = {}
    for name, value in client().get_run(run_id).data.metrics.items():
        model, _, metric = name.rpartition("/")
        if model and model != _SYSTEM and not model.startswith(_ONLINE):
            table.setdefault(model, {})[metric] = value
    return table


def snapshot_of(run_id: str) -> str:
    """Returns the id of the snapshot that a run was trained on."""
    return str(client().get_run(run_id).data.tags["snapshot_id"])


def register(run_id: str) -> Version:
    """Registers the run's model as a version, once, and makes it the challenger."""
    found = client()
    run = found.get_run(run_id)
    snapshot_id = run.data.tags["snapshot_id"]
    if not found.search_registered_models(f"name = '{REGISTERED_MODEL}'"):
        found.create_registered_model(REGISTERED_MODEL, description="Next items of a session, from history and session")
    known = found.search_model_versions(f"name = '{REGISTERED_MODEL}' and run_id = '{run_id}'")
    if known:
        number = str(known[0].version)
    else:
        logged = run.outputs.model_outputs[0].model_id
        made = found.create_model_version(
            REGISTERED_MODEL, f"models:/{logged}", run_id, tags={"snapshot_id": snapshot_id}, model_id=logged
        )
        number = str(made.version)
    found.set_registered_model_alias(REGISTERED_MODEL, CHALLENGER, number)
    return Version(number, run_id, snapshot_id)


def log_comparison(run_id: str, champion: str, comparison: Comparison) -> None:
    """Adds the comparison with a champion: its metrics, and every gain with its bounds."""
    own = with_precision({metric: gain.rival for metric, gain in comparison.items() if ": " not in metric})
    _log_metrics(run_id, {f"champion/{metric}": value for metric, value in own.items()})
    gains = {name: gain.as_dict() for name, gain in comparison.items()}
    client().log_dict(run_id, {"champion": champion, "gains": gains}, "comparison.json")


def log_online(version: Version, metrics: Mapping[tuple[str, str], float], words: str) -> None:
    """Writes what came of what a version showed, by arm and metric: metrics of its run `online/<arm>/<metric>`, and in
    words as the tag `online`.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    try:
        named = {f"{_ONLINE}{_safe(arm)}/{metric}": value for (arm, metric), value in metrics.items()}
        _log_metrics(version.run_id, named)
        _tag(version, online=words)
    except MlflowException as error:
        raise failure(error, f"Version {version.number} cannot be told what came of it") from error


def _safe(name: str) -> str:
    """A name without the signs that MLflow does not take in names of metrics."""
    return re.sub(r"[^\w\-. :]", "_", name)


def log_decision(version: Version, decision: Decision) -> None:
    """Writes the gate's decision to the version and its run: as tags, and whole as JSON and Markdown."""
    verdict = "promote" if decision.promote else "refuse"
    _tag(version, decision=verdict, reasons="; ".join(decision.reasons)[:4_000])
    client().log_dict(version.run_id, decision.as_dict(), "decision.json")
    client().log_text(version.run_id, decision.as_markdown(), "decision.md")


def tag(version: Version, **tags: str) -> None:
    """Writes tags to a version and its run.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    try:
        _tag(version, **tags)
    except MlflowException as error:
        raise failure(error, f"Version {version.number} cannot be tagged") from error


def _tag(version: Version, **tags: str) -> None:
    found = client()
    for name, value in tags.items():  # of versions MLflow takes one at a time
        found.set_model_version_tag(REGISTERED_MODEL, version.number, name, value)
    found.log_batch(version.run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def _log_metrics(run_id: str, figures: Mapping[str, float], step: int = 0) -> None:
    """Adds metrics to a run, as many in one call as MLflow takes."""
    found, now = client(), int(1_000 * time.time())
    points = [Metric(name, float(value), now, step) for name, value in figures.items()]
    for begin in range(0, len(points), MAX_METRICS_PER_BATCH):
        found.log_batch(run_id, metrics=points[begin : begin + MAX_METRICS_PER_BATCH])


def _code_version() -> str:
    """The commit of the checkout, or the package's version where there is none."""
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
