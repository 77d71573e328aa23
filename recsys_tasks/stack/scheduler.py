"""Airflow's scheduler with the libraries of the tasks imported: tasks are forks of it, and need not import them again.

`python -m recsys_tasks.stack.scheduler`. Only third-party libraries: modules of this package would keep the settings of
the scheduler's environment. Elsewhere than on Linux, Airflow does not fork: the scheduler starts as usual.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module

_LIBRARIES = ("great_expectations", "mlflow", "onnxruntime", "optuna", "pyarrow.dataset", "torch")


def main() -> None:
    """Runs the scheduler until it is stopped."""
    if sys.platform == "linux":
        with warnings.catch_warnings(action="ignore"):
            for library in _LIBRARIES:
                import_module(library)
    from airflow.__main__ import main as run_airflow

    sys.argv = ["airflow", "scheduler", "--skip-serve-logs"]
    run_airflow()


if __name__ == "__main__":
    main()
