"""Versions of the registered model and the aliases that say which of them matter."""

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
from recsys_tasks.registry.tracking import client, failure

MODEL_FILES = "network"  # the run's artifact folder with what `model.files` writes, and the graphs


@dataclass(frozen=True)
class Version:
    """A registered version, its run, and the snapshot it was trained on."""

    number: str
    run_id: str
    snapshot_id: str


def version_by_alias(alias: str) -> Version | None:
    """The version that an alias points at, if any.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    try:
        found = client().get_model_version_by_alias(REGISTERED_MODEL, alias)
    except MlflowException as error:
        problem = failure(error, f"No alias {alias}")
        if isinstance(problem, InputError):
            return None
        raise problem from error
    return Version(str(found.version), found.run_id, found.tags["snapshot_id"])


def version_by_number(number: str) -> Version:
    """The version of that number.

    Raises:
        InputError: there is none.
        UnavailableError: MLflow does not answer.
    """
    try:
        found = client().get_model_version(REGISTERED_MODEL, number)
    except MlflowException as error:
        raise failure(error, f"No version {number} of {REGISTERED_MODEL}") from error
    return Version(str(found.version), found.run_id, found.tags["snapshot_id"])


def point_aliases(champion: str, previous: str | None) -> list[str]:
    """Points `champion` and `previous` at versions, `previous` at none where there is none; what it changed.

    Raises:
        InputError: a version is not registered (any more).
        UnavailableError: MLflow does not answer.
    """
    changes = []
    for alias, number in ((CHAMPION, champion), (PREVIOUS, previous)):
        at = version_by_alias(alias)
        if (at.number if at else None) == number:
            continue
        try:
            if number is None:
                client().delete_registered_model_alias(REGISTERED_MODEL, alias)
            else:
                client().set_registered_model_alias(REGISTERED_MODEL, alias, number)
        except MlflowException as error:
            raise failure(error, f"Alias {alias} cannot point at version {number}") from error
        changes.append(f"alias {alias} from version {at.number if at else 'none'} to {number or 'none'}")
    return changes


def signature(version: Version) -> str:
    """What the version's model takes and gives, as JSON."""
    client()
    found = mlflow.models.get_model_info(f"models:/{REGISTERED_MODEL}/{version.number}").signature
    return json.dumps(found.to_dict() if found else None, sort_keys=True)


@contextmanager
def run_files(run_id: str) -> Iterator[Path]:
    """The model files of a run, in a folder that lives as long as the context.

    Raises:
        InputError: the run or its files were deleted.
    """
    client()
    with tempfile.TemporaryDirectory() as folder:
        try:
            files = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=MODEL_FILES, dst_path=folder)
        except (MlflowException, OSError) as error:
            raise InputError(f"The model of run {run_id} cannot be read any more: {error}") from error
        yield Path(files)
