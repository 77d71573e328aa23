"""Airflow's scheduler with the libraries of the tasks imported: tasks are forks of it, and need not import them again.

`python -m recsys_tasks.stack.scheduler`. Only third-party libraries: modules of this package would keep the settings of
the scheduler's environment.
"""

from __future__ import annotations

import gc
import sys
from importlib import import_module

_LIBRARIES = ("great_expectations", "mlflow", "onnxruntime", "optuna", "pyarrow.dataset", "torch")


def main() -> None:
    """Runs the scheduler until it is stopped."""
    for library in _LIBRARIES:
        import_module(library)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy all of it
    from airflow.__main__ import main as run_airflow

    sys.argv = ["airflow", "scheduler", "--skip-serve-logs"]
    run_airflow()


if __name__ == "__main__":
    main()
