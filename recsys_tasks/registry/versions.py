"""Versions of the registered model, and the aliases `champion` and `previous`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from recsys_tasks.errors import InputError
from recsys_tasks.names import CHAMPION, PREVIOUS, REGISTERED_MODEL
from recsys_tasks.registry.tracking import client, translate_error

MODEL_ARTIFACTS = "network"  # artifact folder of a run: the files of `model.files` and the ONNX graphs


@dataclass(frozen=True)
class Version:
    """A registered model version with its training run and snapshot."""

    number: str
    run_id: str
    snapshot_id: str


def version_by_alias(alias: str) -> Version | None:
    """Returns the version with an alias; None if there is none.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    try:
        registered = client().get_model_version_by_alias(REGISTERED_MODEL, alias)
    except MlflowException as error:
        problem = translate_error(error, f"No alias {alias}")
        if isinstance(problem, InputError):
            return None
        raise problem from error
    return Version(str(registered.version), registered.run_id, registered.tags["snapshot_id"])


def version_by_number(number: str) -> Version:
    """Returns the version with a number.

    Raises:
        InputError: there is no such version.
        UnavailableError: MLflow does not answer.
    """
    try:
        registered = client().get_model_version(REGISTERED_MODEL, number)
    except MlflowException as error:
        raise translate_error(error, f"No version {number} of {REGISTERED_MODEL}") from error
    return Version(str(registered.version), registered.run_id, registered.tags["snapshot_id"])


def set_aliases(champion: str, previous: str | None) -> list[str]:
    """Sets the aliases `champion` and `previous`; returns a description of each change.

    Args:
        champion: version number.
        previous: version number; None removes the alias.

    Raises:
        InputError: a version is not registered.
        UnavailableError: MLflow does not answer.
    """
    changes = []
    for alias, number in ((CHAMPION, champion), (PREVIOUS, previous)):
        current = version_by_alias(alias)
        if (current.number if current else None) == number:
            continue
        try:
            if number is None:
                client().delete_registered_model_alias(REGISTERED_MODEL, alias)
            else:
                client().set_registered_model_alias(REGISTERED_MODEL, alias, number)
        except MlflowException as error:
            raise translate_error(error, f"Alias {alias} cannot be set to version {number}") from error
        changes.append(f"alias {alias} from version {current.number if current else 'none'} to {number or 'none'}")
    return changes


def signature(version: Version) -> str:
    """Returns the MLflow signature of the version's model as JSON."""
    client()
    model_signature = mlflow.models.get_model_info(f"models:/{REGISTERED_MODEL}/{version.number}").signature
    return json.dumps(model_signature.to_dict() if model_signature else None, sort_keys=True)


@contextmanager
def download_model_files(run_id: str) -> Iterator[Path]:
    """Downloads the model files of a run to a temporary folder, which exists as long as the context.

    Raises:
        InputError: the run or its files were deleted.
    """
    client()
    with tempfile.TemporaryDirectory() as folder:
        try:
            files = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=MODEL_ARTIFACTS, dst_path=folder)
        except (MlflowException, OSError) as error:
            raise InputError(f"The model files of run {run_id} cannot be read: {error}") from error
        yield Path(files)
