"""The endpoint's container has none of the pipeline's packages: importing it must not ask for them."""

import subprocess
import sys

HEAVY = ("airflow", "mlflow", "great_expectations", "pandas", "torch", "pyarrow", "sqlalchemy")


def test_the_endpoint_imports_no_heavy_package() -> None:
    program = "import sys, recsys_tasks.serving.server; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not set(HEAVY) & set(loaded)
