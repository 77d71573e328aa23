"""Logs a model as an MLflow pyfunc that loads without this package installed: with signature, code and requirements."""

from __future__ import annotations

import ast
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

import recsys_tasks
from recsys_tasks.engine.bundle import VOCABULARY
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import ADD_TO_CART, SEARCH, VIEW

PYFUNC = Path(__file__).with_name("pyfunc_model.py")
REQUIREMENTS = ("mlflow", "msgspec", "numpy", "onnxruntime", "pandas")
_PACKAGE = Path(recsys_tasks.__file__).parent
_TEXTS, _NUMBERS = Array(DataType.string), Array(DataType.double)
_INPUT = Schema(
    [
        ColSpec(_TEXTS, "history"),
        ColSpec(_NUMBERS, "history_times"),
        ColSpec(_TEXTS, "session"),
        ColSpec(DataType.double, "now", required=False),
        ColSpec(DataType.long, "k", required=False),
        ColSpec(DataType.string, "user_id", required=False),
        ColSpec(_TEXTS, "history_event_types", required=False),
        ColSpec(_TEXTS, "history_queries", required=False),
        ColSpec(_TEXTS, "session_event_types", required=False),
        ColSpec(_NUMBERS, "session_times", required=False),
        ColSpec(_TEXTS, "session_queries", required=False),
    ]
)
_OUTPUT = Schema([ColSpec(_TEXTS, "item_ids"), ColSpec(_NUMBERS, "scores")])


def log_pyfunc(folder: Path) -> None:
    """Logs the exported model in a folder to the active run."""
    with tempfile.TemporaryDirectory() as code, _restored_path():
        copy_imported_modules(PYFUNC, Path(code))
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(PYFUNC),
            artifacts={"network": str(folder)},
            code_paths=[str(Path(code) / _PACKAGE.name)],
            signature=ModelSignature(_INPUT, _OUTPUT),
            input_example=_example(folder),
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        )


@contextmanager
def _restored_path() -> Iterator[None]:
    """Restores `sys.path`: MLflow tries the example with the logged code first in it, and leaves it there."""
    path = sys.path
    try:
        yield
    finally:
        sys.path = path


def _example(folder: Path) -> pd.DataFrame:
    """Returns an input row with actions on the two most frequent items, and a search."""
    items = list(Vocabulary.load(folder / VOCABULARY).item_ids[:2])
    row = {
        "history": [*items, ""],
        "history_times": [1.5e9, 1.5e9, 1.5e9],
        "session": items[:1],
        "now": 1.6e9,
        "k": 5,
        "user_id": "a user",
        "history_event_types": [*[VIEW] * len(items), SEARCH],
        "history_queries": [*[""] * len(items), "a query"],
        "session_event_types": [ADD_TO_CART],
        "session_times": [1.6e9],
        "session_queries": [""],
    }
    return pd.DataFrame([row])


def copy_imported_modules(source: Path, target: Path) -> None:
    """Copies the modules of this package that a file imports, directly or not, into a folder of packages."""
    for path in imported_modules(source):
        copy = target / path.relative_to(_PACKAGE.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def imported_modules(source: Path) -> set[Path]:
    """Returns the files of this package that a file imports, directly or not, with the `__init__` of their packages."""
    found: set[Path] = set()
    pending = [source]
    while pending:
        new = set(_direct_imports(pending.pop())) - found
        found |= new
        pending += new
    return found


def _direct_imports(source: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:  # `alias` is a module or a name in one
                yield from _module_files(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module_files(alias.name)


def _module_files(name: str) -> Iterator[Path]:
    """Yields the files of a dotted name and of the packages that contain it; none outside this package."""
    parts = name.split(".")
    if parts[0] != _PACKAGE.name:
        return
    path = _PACKAGE
    yield path / "__init__.py"
    for part in parts[1:]:
        path /= part
        yield from filter(Path.is_file, (path.with_suffix(".py"), path / "__init__.py"))
