"""Where MLflow is, and the one client everything uses."""

from __future__ import annotations

import os

# Heartbeats to nobody, and a progress bar for every artifact, are not for a scheduler's log.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# Tasks are tried again by whoever runs them; a registry that is away is to be named within seconds, not minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from recsys_tasks.errors import InputError, UnavailableError
from recsys_tasks.settings import settings
from recsys_tasks.warehouse import database_url


def client() -> MlflowClient:
    """A client of the configured MLflow server, or of the embedded database where none is configured."""
    uri = settings().mlflow_tracking_uri or database_url("mlflow")
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return MlflowClient()


def experiment_id() -> str:
    """Id of the experiment of training runs, which is created where it is missing.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    found = client()
    name = settings().mlflow_experiment
    try:
        experiment = found.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        artifacts = None if settings().mlflow_tracking_uri else (settings().home / "mlartifacts").as_uri()
        return str(found.create_experiment(name, artifact_location=artifacts))
    except MlflowException as error:
        raise UnavailableError(f"MLflow does not answer: {error}") from error


def failure(error: MlflowException, missing: str) -> InputError | UnavailableError:
    """What to raise for an error of MLflow: wrong input where something is missing, else that it does not answer."""
    if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        return InputError(f"{missing}: {error.message}")
    return UnavailableError(f"MLflow does not answer: {error.message}")
