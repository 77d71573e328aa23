"""MLflow connection: client, experiment and error translation."""

from __future__ import annotations

import os

# No telemetry, and no progress bars in the scheduler's log.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# The scheduler retries tasks; an unavailable MLflow should fail within seconds, not minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from recsys_tasks.errors import InputError, UnavailableError
from recsys_tasks.settings import settings
from recsys_tasks.warehouse import database_url

TUNING = "tuning"


def client() -> MlflowClient:
    """Returns a client of the configured MLflow server; without one, of the embedded database."""
    uri = settings().mlflow_tracking_uri or database_url("mlflow")
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return MlflowClient()


def experiment_id(purpose: str = "") -> str:
    """Returns the id of the experiment for training runs, or of one beside it; creates it if it is missing.

    Args:
        purpose: of another experiment, such as `TUNING`; its name ends with it.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    mlflow_client = client()
    name = settings().mlflow_experiment + (f"-{purpose}" if purpose else "")
    try:
        experiment = mlflow_client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        artifacts = None if settings().mlflow_tracking_uri else (settings().home / "mlartifacts").as_uri()
        return str(mlflow_client.create_experiment(name, artifact_location=artifacts))
    except MlflowException as error:
        raise UnavailableError(f"MLflow does not answer: {error}") from error


def translate_error(error: MlflowException, message: str) -> InputError | UnavailableError:
    """Returns the package's error for an MLflow error.

    Args:
        error: MLflow's error.
        message: what failed, for the `InputError` of a missing or invalid resource; any other error means that MLflow
            is unavailable.
    """
    if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        return InputError(f"{message}: {error.message}")
    return UnavailableError(f"MLflow does not answer: {error.message}")
