"""Airflow's command with the libraries of the tasks imported: tasks are forks of it, and need not import them again.

`python -m recsys_tasks.stack.preloaded_airflow scheduler`, or `celery worker`. Only third-party libraries: modules of
this package would keep the settings of this process's environment. Elsewhere than on Linux, Airflow does not fork: the
command starts as usual.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module

_LIBRARIES = ("great_expectations", "mlflow", "onnxruntime", "optuna", "pyarrow.dataset", "torch")


def main() -> None:
    """Runs Airflow's command until it is stopped."""
    if sys.platform == "linux":
        with warnings.catch_warnings(action="ignore"):
            for library in _LIBRARIES:
                import_module(library)
    from airflow.__main__ import main as run_airflow

    sys.argv[0] = "airflow"
    run_airflow()


if __name__ == "__main__":
    main()
