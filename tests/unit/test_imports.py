"""The endpoint imports no package of the pipeline, and the HTTP client none of the endpoint."""

import subprocess
import sys

import pytest

PIPELINE = {"airflow", "mlflow", "great_expectations", "pandas", "torch", "pyarrow", "scipy", "sqlalchemy"}
ENDPOINT = {"onnxruntime", "starlette", "uvicorn", "prometheus_client", "tantivy"}


@pytest.mark.parametrize(
    ("modules", "unavailable"),
    [
        ("recsys_tasks.serving.server, recsys_tasks.engine.text_index", PIPELINE),
        ("recsys_tasks.client", PIPELINE | ENDPOINT),
    ],
)
def test_no_unavailable_package_is_imported(modules: str, unavailable: set[str]) -> None:
    program = f"import sys, {modules}; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not unavailable & set(loaded)
