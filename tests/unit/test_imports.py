"""The endpoint's container has none of the pipeline's packages, and a shop that calls it none of the endpoint's."""

import subprocess
import sys

import pytest

PIPELINE = {"airflow", "mlflow", "great_expectations", "pandas", "torch", "pyarrow", "scipy", "sqlalchemy"}
ENDPOINT = {"onnxruntime", "starlette", "uvicorn", "prometheus_client", "tantivy"}


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("recsys_tasks.serving.server, recsys_tasks.engine.text_index", PIPELINE),
        ("recsys_tasks.client", PIPELINE | ENDPOINT),
    ],
)
def test_nobody_imports_what_is_not_there(modules: str, heavy: set[str]) -> None:
    program = f"import sys, {modules}; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not heavy & set(loaded)
